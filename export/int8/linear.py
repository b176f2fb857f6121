"""The linear layers of an ONNX graph, whichever front-end wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from paritas.errors import ExportError
from paritas.export.graph.nodes import every_node
from paritas.export.graph.view import GraphView
from paritas.export.graph.weights_file import is_large

_QUANTIZED = {
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul",
    "LinearInt8",
    "LinearGeluInt8",
    "LinearNormInt8",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QAttention",
    "QGemm",
    "QLinearMatMul",
}


# Orders of axes that take heads apart, (.., .., heads, head dim) to (batch, heads, seq, head dim), or put
# them together again, whether texts or tokens come first: a head's channels stay beside each other.
_HEADS_MOVED = [[[0, 2, 1, 3]], [[1, 2, 0, 3]], [[2, 0, 1, 3]]]


@dataclass(frozen=True, slots=True)
class Linear:
    """One layer x W + b: a MatMul with a constant matrix and, where there is one, the Add behind it."""

    name: str
    """The MatMul node's."""
    source: str
    """The tensor x, (..., inputs)."""
    weight: str
    """The constant W, float32, (inputs, outputs)."""
    bias: str | None
    """The constant b, float32, (outputs,)."""
    adder: str | None
    """The Add node's name."""
    output: str
    """The tensor x W + b."""


def linear_layers(model: onnx.ModelProto) -> list[Linear]:
    """Return the linear layers of an FP32 graph, in its order.

    Raises:
        ExportError: the graph has none, or is quantised already.
    """
    quantized = sorted({node.op_type for node in every_node(model.graph.node)} & _QUANTIZED)
    if quantized:
        raise ExportError(
            f"the graph is quantised already (it holds {', '.join(quantized)}); "
            "INT8 starts from the FP32 checkpoint"
        )
    constants = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    view = GraphView(model)
    layers = []
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[0] in constants or node.input[1] not in constants:
            continue
        matrix = constants[node.input[1]]
        if len(matrix.dims) != 2 or not is_large(matrix.dims):
            continue
        product = node.output[0]
        following = view.consumers[product]
        adder, bias = None, None
        if len(following) == 1 and following[0].op_type == "Add" and product not in view.outputs:
            other = [name for name in following[0].input if name != product]
            if (
                len(other) == 1
                and other[0] in constants
                and list(constants[other[0]].dims) == [matrix.dims[1]]
            ):
                adder, bias = following[0], other[0]
        layers.append(
            Linear(
                name=node.name,
                source=node.input[0],
                weight=node.input[1],
                bias=bias,
                adder=adder.name if adder is not None else None,
                output=adder.output[0] if adder is not None else product,
            )
        )
    if not layers:
        raise ExportError("the graph has no linear layer (a MatMul with a constant matrix) to quantise")
    return layers


def attention_values(model: onnx.ModelProto, layers: Sequence[Linear]) -> dict[str, str]:
    """Return, for sources that are attention's context, the name of the layer that gives its values.

    Attention mixes tokens and never channels, so the layer's output columns are the source's channels, times
    the same constants. Only where nothing else reads what lies between the two, and every head has values of
    its own: heads that share them make a source wider than the layer's output.
    """
    trace = _Trace(model, layers)
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    outputs = {layer.name: shapes[layer.weight][1] for layer in layers}
    values_of = {}
    for layer in layers:
        context = trace.input(trace.input(layer.source, "Reshape"), "Transpose")
        split = trace.input(trace.input(context, "MatMul", 1), "Transpose")
        values = trace.layer(trace.input(split, "Reshape"))
        if values is not None and outputs[values] == shapes[layer.weight][0]:
            values_of[layer.source] = values
    return values_of


def rectified_outputs(model: onnx.ModelProto, layers: Sequence[Linear]) -> dict[str, str]:
    """Return, for sources that are a rectifier's output, the name of the layer before the rectifier.

    Only where nothing else reads what lies between the two.
    """
    trace = _Trace(model, layers)
    names = {
        layer.source: trace.layer(trace.input(layer.source, "Gelu") or trace.input(layer.source, "Relu"))
        for layer in layers
    }
    return {source: name for source, name in names.items() if name is not None}


class _Trace:
    """The way back from a tensor, node by node, as long as nothing else reads what is passed."""

    def __init__(self, model: onnx.ModelProto, layers: Sequence[Linear]) -> None:
        self._view = GraphView(model)
        self._layers = {layer.output: layer.name for layer in layers}

    def input(self, name: str | None, op_type: str, place: int = 0) -> str | None:
        """Return an input of the node that makes a tensor; None where it is not such a node."""
        node = self._view.producers.get(name or "")
        if name is None or node is None or node.op_type != op_type or self._view.reads(name) != 1:
            return None
        if op_type == "Transpose" and [list(given.ints) for given in node.attribute] not in _HEADS_MOVED:
            return None
        return str(node.input[place])

    def layer(self, name: str | None) -> str | None:
        """Return the name of the linear layer that makes a tensor, None where there is none."""
        return self._layers.get(name) if name is not None and self._view.reads(name) == 1 else None
