"""A thin writer of ONNX graphs: each call adds one node and returns the name of its output."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from paritas.export.graph.weights_file import WeightsFile, is_large

# Gelu came with opset 20, LayerNormalization with 17. IR 10 is what onnxruntime read from 1.18 on.
OPSET = 20
IR_VERSION = 10


class GraphBuilder:
    """Nodes and initializers of a graph under construction; large ones go straight to the weights file."""

    def __init__(self, weights: WeightsFile) -> None:
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}

    def add(self, op_type: str, *inputs: str, output: str, **attributes: Any) -> str:
        """Append a node whose single output, and whose own name, is `output`; return that name."""
        self._nodes.append(helper.make_node(op_type, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add an initializer; return its name. The same name may be given again, with the same value."""
        if name not in self._initializers:
            self._initializers[name] = (
                self._weights.tensor(name, value)
                if is_large(value.shape)
                else numpy_helper.from_array(np.asarray(value, order="C"), name)
            )
        return name

    def ints(self, *values: int) -> str:
        """Add (once) a one-dimensional int64 constant, such as axes or a shape."""
        return self.constant("ints." + "_".join(map(str, values)), np.array(values, dtype=np.int64))

    def model(
        self,
        *,
        inputs: list[onnx.ValueInfoProto],
        outputs: list[onnx.ValueInfoProto],
        name: str,
        producer_version: str,
    ) -> onnx.ModelProto:
        """Return the finished model."""
        graph = helper.make_graph(
            self._nodes, name, inputs, outputs, initializer=list(self._initializers.values())
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="paritas",
            producer_version=producer_version,
        )


def ids_input(name: str) -> onnx.ValueInfoProto:
    """Describe an int64 (batch_size, sequence_length) input."""
    return helper.make_tensor_value_info(name, TensorProto.INT64, ["batch_size", "sequence_length"])


def hidden_output(name: str, tokens: str | int, dim: int) -> onnx.ValueInfoProto:
    """Describe the float32 (batch_size, tokens, dim) output."""
    shape: list[str | int] = ["batch_size", tokens, dim]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
