"""The FP16 precision: one weights file, half the size, and two graphs over it.

`half_compute` is for accelerators: matrices and what lies between them in FP16; sums that feed a
LayerNormalization or a Softmax, and these themselves, in FP32, so that neither a large residual nor a
masked score can overflow. `half_weights` is for CPUs, which have no FP16 kernels worth using: the stored
FP16 matrices are cast to FP32, onnxruntime folds the casts while loading, and the file runs at FP32's speed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from paritas.errors import ExportError
from paritas.export.graph.nodes import cast_node, copy_model, names_read, rename_inputs, set_nodes
from paritas.export.graph.view import GraphView, tensors_of_type
from paritas.export.graph.weights_file import WeightsFile, is_large, read_tensor, replace_initializers

_FLOAT16_MAX = float(np.finfo(np.float16).max)

_MATRIX = {"MatMul", "Gemm"}
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Gelu", "Erf", "Tanh", "Relu", "Sigmoid"}
_LAYOUT = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Split", "Concat", "Slice", "Identity", "Gather"}


def half_weights(model: onnx.ModelProto, directory: Path, weights: WeightsFile) -> onnx.ModelProto:
    """Return the FP32 model over FP16 matrices, each widened by a Cast.

    Args:
        model: FP32, its large initializers in a weights file.
        directory: where that file lies.
        weights: the FP16 weights file being written.

    Raises:
        ExportError: a matrix holds a value beyond FP16's range.
    """
    result = copy_model(model)
    stored = _stored_half(result)
    casts = []
    initializers = []
    for tensor in result.graph.initializer:
        if tensor.name not in stored:
            initializers.append(weights.moved(tensor, directory))
            continue
        reference = weights.tensor(tensor.name, _to_half(tensor, directory))
        casts.append(cast_node(tensor.name, f"{tensor.name}.fp32", TensorProto.FLOAT))
        initializers.append(reference)
    replace_initializers(result, initializers)
    for node in result.graph.node:
        rename_inputs(node, {name: f"{name}.fp32" for name in stored})
    set_nodes(result, casts + list(result.graph.node))
    return result


def half_compute(model: onnx.ModelProto, directory: Path, weights: WeightsFile) -> onnx.ModelProto:
    """Return the model computing in FP16 where that is safe; arguments and errors as `half_weights`."""
    return _HalfCompute(copy_model(model), directory, weights).convert()


class _HalfCompute:
    """One walk over the nodes, in order, with the type every float tensor has by then."""

    def __init__(self, model: onnx.ModelProto, directory: Path, weights: WeightsFile) -> None:
        self.model, self.directory, self.weights = model, directory, weights
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.stored = _stored_half(model)
        self.floats = tensors_of_type(model, TensorProto.FLOAT)
        self.is_half: set[str] = set()
        self.nodes: list[onnx.NodeProto] = []
        self.casts: dict[tuple[str, int], str] = {}
        self.new_constants: dict[str, onnx.TensorProto] = {}

    def convert(self) -> onnx.ModelProto:
        full = self._kept_full()
        for node in self.model.graph.node:
            self._place(node, half=node.name not in full and self._wants_half(node))
        for output in self.model.graph.output:
            if output.name in self.is_half:
                self._widen_output(output.name)
        set_nodes(self.model, self.nodes)
        used = {name for node in self.nodes for name in names_read(node)}
        kept = [
            self.weights.moved(tensor, self.directory)
            for name, tensor in self.constants.items()
            if name in used
        ]
        replace_initializers(self.model, kept + list(self.new_constants.values()))
        del self.model.graph.value_info[:]
        return self.model

    def _kept_full(self) -> set[str]:
        """Names of the sums whose only readers compute in FP32: residuals, masked scores, their biases."""
        consumers = GraphView(self.model).consumers
        full: set[str] = set()
        for node in reversed(self.model.graph.node):
            if node.op_type in _MATRIX | _LAYOUT:
                continue
            following = [reader for name in node.output for reader in consumers[name]]
            only_full = bool(following) and all(reader.name in full for reader in following)
            if node.op_type not in _ELEMENTWISE or only_full:
                full.add(node.name)
        return full

    def _wants_half(self, node: onnx.NodeProto) -> bool:
        if node.op_type in _MATRIX:
            return True
        if node.op_type == "Gather" and node.input[0] in self.stored:
            return True
        return any(name in self.is_half for name in node.input)

    def _place(self, node: onnx.NodeProto, *, half: bool) -> None:
        wanted = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        rename_inputs(
            node, {name: self._as(name, wanted) for name in names_read(node) if name in self.floats}
        )
        self.nodes.append(node)
        if half:
            self.is_half.update(name for name in node.output if name in self.floats)

    def _as(self, name: str, wanted: int) -> str:
        """Return the name under which a float tensor can be read in the wanted type."""
        current = TensorProto.FLOAT16 if name in self.is_half | self.stored else TensorProto.FLOAT
        if current == wanted and name not in self.stored:
            return name
        if (name, wanted) not in self.casts:
            target = f"{name}.{'fp16' if wanted == TensorProto.FLOAT16 else 'fp32'}"
            if name in self.constants and wanted == TensorProto.FLOAT16:
                self._half_constant(name, target)
            else:
                # The file holds one form of a matrix, whatever else reads it.
                source = self._as(name, TensorProto.FLOAT16) if name in self.stored else name
                self.nodes.append(cast_node(source, target, wanted))
            self.casts[name, wanted] = target
        return self.casts[name, wanted]

    def _half_constant(self, name: str, target: str) -> None:
        value = _to_half(self.constants[name], self.directory)
        if name in self.stored:
            reference = self.weights.tensor(name, value)
            reference.name = target
            self.new_constants[target] = reference
        else:
            self.new_constants[target] = numpy_helper.from_array(value, target)

    def _widen_output(self, name: str) -> None:
        """Let the graph's output keep its name and be FP32."""
        inner = f"{name}.fp16"
        for node in self.nodes:
            rename_inputs(node, {name: inner})
            for position, output in enumerate(node.output):
                if output == name:
                    node.output[position] = inner
        self.nodes.append(cast_node(inner, name, TensorProto.FLOAT))


def _stored_half(model: onnx.ModelProto) -> set[str]:
    """Names of the matrices stored in FP16: linear weights and the tables rows are looked up in."""
    floats = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    large = {tensor.name for tensor in floats if is_large(tensor.dims)}
    stored: set[str] = set()
    for node in model.graph.node:
        if node.op_type in _MATRIX:
            stored.update(name for name in node.input if name in large)
        elif node.op_type == "Gather" and node.input[0] in large and _axis(node) == 0:
            stored.add(node.input[0])
    return stored


def _axis(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)


def _to_half(tensor: onnx.TensorProto, directory: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
    value = read_tensor(tensor, directory)
    largest = float(np.abs(value).max(initial=0.0))
    if largest > _FLOAT16_MAX:
        raise ExportError(
            f"{tensor.name} holds {largest:.6g}, beyond FP16's {_FLOAT16_MAX:g}; export --precision fp32"
        )
    return value.astype(np.float16)
