"""LinearInt8: a linear layer over bytes, as an operator of ours that every onnxruntime can run.

In the graph it is a function: its body says in onnxruntime's own operators what it does. Where paritas's
library of operators is registered, onnxruntime runs the library's kernel instead, see
`paritas.engine.runtime.kernels`. That rounds the inputs too, and is apart from the body by no more than that.

The weights are stored as the kernels read them, so that sessions and processes map one copy. The body undoes
that. onnxruntime does so once, while it optimizes the graph. The body does not need the sums.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper

from paritas.export.graph.nodes import add_domain

LINEAR_INT8 = "LinearInt8"
DOMAIN = "paritas"
# As native/linear.h has them: outputs side by side, and inputs of one output side by side.
PANEL, GROUP = 16, 4

_INPUTS = ["x", "weights", "sums", "scales", "bias"]


def linear_int8(inputs: list[str], output: str, shape: tuple[int, int]) -> onnx.NodeProto:
    """Return the node y = x @ (weights * scales) + bias.

    Args:
        inputs: names of x, float32, (..., inputs); weights, int8, packed by `pack`; sums, int32, (outputs,),
            of each output's weights; scales, float32, (outputs,); bias, float32, (outputs,).
        output: the name of y, float32, (..., outputs), and of the node.
        shape: (inputs, outputs).
    """
    return helper.make_node(LINEAR_INT8, inputs, [output], name=output, domain=DOMAIN, shape=list(shape))


def add_linear_int8(model: onnx.ModelProto) -> None:
    """Let a model use `LinearInt8`."""
    add_domain(model, DOMAIN)
    opset = next(opset.version for opset in model.opset_import if not opset.domain)
    model.functions.append(_function(opset))


def pack(weights: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return a matrix as the kernels read it.

    Args:
        weights: int8, (inputs, outputs).

    Returns:
        int8, (outputs / PANEL, inputs / GROUP, PANEL, GROUP), both rounded up, zeros where nothing was.
    """
    padded = np.pad(
        weights, [(0, -size % by) for size, by in zip(weights.shape, (GROUP, PANEL), strict=True)]
    )
    groups, panels = padded.shape[0] // GROUP, padded.shape[1] // PANEL
    return np.ascontiguousarray(padded.reshape(groups, GROUP, panels, PANEL).transpose(2, 0, 3, 1))


def _function(opset: int) -> onnx.FunctionProto:
    nodes = [
        helper.make_node("Transpose", ["weights"], ["by_input"], perm=[1, 3, 0, 2]),
        helper.make_node("Flatten", ["by_input"], ["padded"], axis=2),
        helper.make_node("Constant", [], ["start"], value_ints=[0, 0]),
        helper.make_node("Constant", [], ["end"]),
        helper.make_node("Slice", ["padded", "start", "end"], ["matrix"]),
        helper.make_node("Cast", ["matrix"], ["integers"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["integers", "scales"], ["exact"]),
        helper.make_node("MatMul", ["x", "exact"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]
    nodes[3].attribute.append(
        AttributeProto(name="value_ints", type=AttributeProto.INTS, ref_attr_name="shape")
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_function(DOMAIN, LINEAR_INT8, _INPUTS, ["y"], nodes, opsets, attributes=["shape"])
