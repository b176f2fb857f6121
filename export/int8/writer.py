"""Writes INT8 graphs: what becomes of an FP32 graph's linear layers and word embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from paritas.export.graph.nodes import cast_node, copy_model, names_read, set_nodes
from paritas.export.graph.operators import add_operators, linear_int8, pack
from paritas.export.graph.passes.transpose_in_products import transpose_in_products
from paritas.export.graph.view import ranks
from paritas.export.graph.weights_file import WeightsFile, is_large, replace_initializers
from paritas.export.int8.linear import Linear, linear_layers
from paritas.export.int8.quantizer import Matrix, Quantizer
from paritas.export.int8.weight_rounding import LARGEST

# Channels of a word's embedding that share a scale: a large one takes the steps of so many others. With a
# scale a row, one of SQuAD's questions had a cosine of 0.978 to FP32 where it has 0.998.
_BLOCK = 64


class Writer:
    """Writes one INT8 graph of LinearInt8 operators; the layers of some names stay FP32.

    `StaticWriter` writes onnxruntime's own operators.
    """

    def __init__(
        self, quantizer: Quantizer, model: onnx.ModelProto, weights: WeightsFile, kept: set[str]
    ) -> None:
        """Take what the graph is made of.

        Args:
            quantizer: it has calibrated.
            model: the FP32 graph.
            weights: where the matrices go.
            kept: the layers that stay FP32.
        """
        self.quantizer, self.model, self.weights = quantizer, model, weights
        layers = linear_layers(model)
        self.layers = {layer.name: layer for layer in layers if layer.name not in kept}
        self.exact = {layer.name: layer for layer in layers if layer.name in kept}
        self.ranks = ranks(model)
        self.nodes: list[onnx.NodeProto] = []
        self.added: dict[str, onnx.TensorProto] = {}

    def write(self) -> onnx.ModelProto:
        """Return the graph, its matrices in the weights file."""
        model = copy_model(self.model)
        rewritten = self.rewritten()
        adders = {layer.adder for layer in rewritten.values()} - {None}
        words = self._words()
        for node in model.graph.node:
            if node.name in rewritten:
                self.linear(rewritten[node.name])
            elif node.op_type == "Gather" and node.input[0] == words:
                self._rows(node)
            elif node.name not in adders:
                self.nodes.append(node)
        set_nodes(model, self.nodes)
        transpose_in_products(model)
        self.finish(model)
        read = {name for node in model.graph.node for name in names_read(node)}
        directory = self.quantizer.directory
        left = [self.weights.moved(t, directory) for t in model.graph.initializer if t.name in read]
        replace_initializers(model, [*left, *self.added.values()])
        del model.graph.value_info[:]
        return model

    def rewritten(self) -> dict[str, Linear]:
        """Return the layers that `linear` writes, by name."""
        return self.layers

    def linear(self, layer: Linear) -> None:
        """Add the nodes of a layer, and of all that read the same source: its tokens are rounded once."""
        layers = [other for other in self.layers.values() if other.source == layer.source]
        if layer is not layers[0]:
            return
        matrices = [self.quantizer.matrices[other.name] for other in layers]
        weights = np.concatenate([matrix.weights for matrix in matrices], axis=1)
        inputs = [
            layer.source,
            self.constant(f"{layer.name}.int8", pack(weights)),
            self.constant(f"{layer.name}.sums", weights.sum(axis=0, dtype=np.int32)),
            self.constant(f"{layer.name}.scales", np.concatenate([matrix.scales for matrix in matrices])),
            self.constant(f"{layer.name}.bias", np.concatenate([matrix.bias for matrix in matrices])),
            *self._outliers(layer.name, matrices),
        ]
        output = layer.output if len(layers) == 1 else f"{layer.output}.joined"
        count = sum(matrix.outlier_weights.size for matrix in matrices)
        self.nodes.append(linear_int8(inputs, output, weights.shape, count))
        if len(layers) == 1:
            return
        outputs, widths = [other.output for other in layers], {matrix.scales.size for matrix in matrices}
        split = helper.make_node("Split", [output], outputs, name=f"{output}.split", axis=-1)
        if len(widths) == 1:
            split.attribute.append(helper.make_attribute("num_outputs", len(layers)))
        else:
            sizes = np.array([matrix.scales.size for matrix in matrices])
            split.input.append(self.constant(f"{output}.sizes", sizes))
        self.nodes.append(split)

    def _outliers(self, name: str, matrices: list[Matrix]) -> list[str]:
        """Add the outliers of matrices side by side, and return their names."""
        widths = [matrix.scales.size for matrix in matrices]
        starts = np.cumsum([0, *widths[:-1]], dtype=np.int32)
        places = [
            m.outlier_places + np.array([0, start], np.int32)
            for m, start in zip(matrices, starts, strict=True)
        ]
        weights = [matrix.outlier_weights for matrix in matrices]
        return [
            self.constant(f"{name}.outlier_places", np.concatenate(places)),
            self.constant(f"{name}.outlier_weights", np.concatenate(weights)),
        ]

    def finish(self, model: onnx.ModelProto) -> None:
        """Do what is left when all nodes are in the graph."""
        add_operators(model)

    def _words(self) -> str:
        """Return the name of the table with the most rows; none where the graph looks none up.

        Others are small beside it, and stay as they are. In all-mpnet-base-v2 a few channels of positions are
        so large that 8 bits lost 3 % of each row.
        """
        gathers = [node for node in self.model.graph.node if node.op_type == "Gather"]
        tables = [node.input[0] for node in gathers if self._is_table(node)]
        return max(tables, key=lambda name: self.quantizer.constants[name].dims[0], default="")

    def _is_table(self, node: onnx.NodeProto) -> bool:
        tensor = self.quantizer.constants.get(node.input[0])
        by_row = all(attribute.i == 0 for attribute in node.attribute if attribute.name == "axis")
        if tensor is None or tensor.data_type != TensorProto.FLOAT:
            return False
        return by_row and len(tensor.dims) == 2 and is_large(tensor.dims)

    def _rows(self, node: onnx.NodeProto) -> None:
        """Look rows up in 8 bits, each of their blocks with a scale of its own."""
        table, rows, output = node.input[0], node.input[1], node.output[0]
        exact = self.quantizer.constant(table)
        # A row whole where it has no blocks, or where nobody knows how many axes its places have.
        places = self.ranks.get(rows, 0)
        width = _BLOCK if places and exact.shape[1] % _BLOCK == 0 else exact.shape[1]
        blocks = exact.reshape(len(exact), -1, width)
        largest = np.abs(blocks).max(axis=2, keepdims=True)
        scales = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
        integers = np.rint(blocks / scales).astype(np.int8)
        # To whole cache lines, for what follows them in an optimized graph; see engine/runtime/session.py.
        scales = np.pad(scales, ((0, -len(scales) % 16), (0, 0), (0, 0)))
        if width == exact.shape[1]:
            integers, scales = integers[:, 0], scales[:, 0]
        looked_up = self.add("Gather", [self.constant(f"{table}.int8", integers), rows], f"{output}.int8")
        self.nodes.append(cast_node(looked_up, f"{output}.steps", TensorProto.FLOAT))
        scale = self.add("Gather", [self.constant(f"{table}.scales", scales), rows], f"{output}.scale")
        if width == exact.shape[1]:
            self.add("Mul", [f"{output}.steps", scale], output)
            return
        scaled = self.add("Mul", [f"{output}.steps", scale], f"{output}.blocks")
        whole = self.constant(f"{table}.whole", np.array([0] * places + [-1]))
        self.add("Reshape", [scaled, whole], output)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add (once) an initializer, and return its name."""
        if name not in self.added:
            self.added[name] = (
                self.weights.tensor(name, value)
                if is_large(value.shape)
                else numpy_helper.from_array(value, name)
            )
        return name

    def add(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node whose single output, and whose own name, is `output`; return that name."""
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output
