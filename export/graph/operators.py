"""paritas's own operators, which every onnxruntime can run.

In the graph each is a function: its body says in onnxruntime's own operators what it does. Where paritas's
library is registered, onnxruntime runs the library's kernel instead, see `paritas.engine.runtime.kernels`.
That rounds the inputs of products too, and is apart from the body by little more than that.

    LinearInt8(x, weights, sums, scales, bias, *outliers)   x @ (weights * scales + outliers) + bias
    LinearGeluInt8(x, weights, sums, scales, bias,          Gelu of that
                   *outliers)
    LinearNormInt8(x, weights, sums, scales, bias,          LayerNormalization of that and the residual
                   residual, norm_scale, norm_shift,
                   *outliers)
    Attention(projections)                                  softmax(queries . keys) . values
    BiasedAttention(projections, bias)                      the same with a bias added to the scores
    RelativeAttention(projections, window)                  the same with a bias by the tokens' distance

Weights are int8, packed by `pack`, so that sessions and processes map one copy of what the kernels read. The
bodies undo that; onnxruntime does so once, while it optimizes the graph. Sums, int32, are those of each
output's weights, which only kernels need. Outliers are what some weights are beyond 8 bits: their places,
int32, (outliers, 2), an input and an output each, and their values. All else is float32.

Projections are (batch, sequence, 3 * dim) or (sequence, batch, 3 * dim): queries, keys and values side by
side, each of them its heads side by side. Of the bias' axes, (batch, heads, sequence, sequence), any but the
last may be 1. A window is (heads, 2 * sequence - 1): its column sequence - 1 + key - query is added to their
score. Written out for all pairs, such a bias took a quarter of attention's time at 512 tokens, for each layer
read 12 MB of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper

from paritas.export.graph.nodes import CONTRIB, add_domain

LINEAR_INT8, LINEAR_GELU_INT8, LINEAR_NORM_INT8 = "LinearInt8", "LinearGeluInt8", "LinearNormInt8"
ATTENTION, BIASED_ATTENTION, RELATIVE_ATTENTION = "Attention", "BiasedAttention", "RelativeAttention"
DOMAIN = "paritas"
# As native/kernels.h has them: outputs side by side, and inputs of one output side by side.
PANEL, GROUP = 16, 4

_LINEAR_INPUTS = ["x", "weights", "sums", "scales", "bias"]
_OF_LINEAR = ["shape", "outliers"]
_OUTLIERS = ["outlier_places", "outlier_weights"]
# Orders of axes: from heads side by side to (batch, heads, sequence, width) and back, by the sequence's axis.
HEADS_APART = {1: [0, 2, 1, 3], 0: [1, 2, 0, 3]}
_TOGETHER = {1: [0, 2, 1, 3], 0: [2, 0, 1, 3]}


def linear_int8(inputs: list[str], output: str, shape: tuple[int, int], outliers: int) -> onnx.NodeProto:
    """Return a LinearInt8 node, (..., inputs) to (..., outputs), named like its output.

    Args:
        inputs: the names of its inputs.
        output: the name of what it gives.
        shape: (inputs, outputs).
        outliers: how many there are.
    """
    return helper.make_node(
        LINEAR_INT8, inputs, [output], name=output, domain=DOMAIN, shape=list(shape), outliers=outliers
    )


def with_more(linear: onnx.NodeProto, op_type: str, more: list[str], output: str) -> onnx.NodeProto:
    """Return a LinearInt8 node as another operator, with more inputs and another output, and name."""
    first = len(_LINEAR_INPUTS)
    inputs = [*linear.input[:first], *more, *linear.input[first:]]
    node = helper.make_node(op_type, inputs, [output], name=output, domain=DOMAIN)
    node.attribute.extend(linear.attribute)
    return node


def attention(
    op_type: str, inputs: list[str], output: str, heads: int, *, sequence_axis: int = 1
) -> onnx.NodeProto:
    """Return a node of one of the attentions.

    Args:
        op_type: which one.
        inputs: the names of projections, and of a bias or a window. Without either the sequence's axis is 1.
        output: the name of the context, laid out as the projections, (..., dim), and of the node.
        heads: how many.
        sequence_axis: which axis of the projections the tokens are, 0 or 1.
    """
    node = helper.make_node(
        op_type, inputs, [output], name=output, domain=DOMAIN, heads=heads, sequence_axis=sequence_axis
    )
    if op_type != ATTENTION:  # what the body needs of the two
        orders = {
            "split": [0, 0, heads, -1],
            "apart": HEADS_APART[sequence_axis],
            "together": _TOGETHER[sequence_axis],
        }
        node.attribute.extend(helper.make_attribute(name, order) for name, order in orders.items())
    return node


def add_operators(model: onnx.ModelProto) -> None:
    """Let a model use those of the operators that its graph has nodes of."""
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    if not used:
        return
    add_domain(model, DOMAIN)
    if ATTENTION in used:
        add_domain(model, CONTRIB)
    opset = next(opset.version for opset in model.opset_import if not opset.domain)
    del model.functions[:]
    if used & {LINEAR_GELU_INT8, LINEAR_NORM_INT8}:
        used.add(LINEAR_INT8)
    model.functions.extend(make(opset) for name, make in _FUNCTIONS.items() if name in used)


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


def _linear(opset: int) -> onnx.FunctionProto:
    nodes = [
        helper.make_node("Transpose", ["weights"], ["by_input"], perm=[1, 3, 0, 2]),
        helper.make_node("Flatten", ["by_input"], ["padded"], axis=2),
        helper.make_node("Constant", [], ["start"], value_ints=[0, 0]),
        _given("Constant", [], ["end"], value_ints="shape"),
        helper.make_node("Slice", ["padded", "start", "end"], ["matrix"]),
        helper.make_node("Cast", ["matrix"], ["integers"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["integers", "scales"], ["dequantized"]),
        helper.make_node("Cast", ["outlier_places"], ["places"], to=TensorProto.INT64),
        helper.make_node(
            "ScatterND", ["dequantized", "places", "outlier_weights"], ["exact"], reduction="add"
        ),
        helper.make_node("MatMul", ["x", "exact"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]
    return _function(LINEAR_INT8, [*_LINEAR_INPUTS, *_OUTLIERS], nodes, opset, _OF_LINEAR)


def _linear_gelu(opset: int) -> onnx.FunctionProto:
    nodes = [_product(), helper.make_node("Gelu", ["sum"], ["y"])]
    return _function(LINEAR_GELU_INT8, [*_LINEAR_INPUTS, *_OUTLIERS], nodes, opset, _OF_LINEAR)


def _linear_norm(opset: int) -> onnx.FunctionProto:
    nodes = [
        _product(),
        helper.make_node("Add", ["sum", "residual"], ["both"]),
        _given("LayerNormalization", ["both", "norm_scale", "norm_shift"], ["y"], epsilon="epsilon"),
    ]
    inputs = [*_LINEAR_INPUTS, "residual", "norm_scale", "norm_shift", *_OUTLIERS]
    return _function(LINEAR_NORM_INT8, inputs, nodes, opset, [*_OF_LINEAR, "epsilon"])


def _attention(opset: int) -> onnx.FunctionProto:
    parts = ["queries", "keys", "values"]
    nodes = [
        helper.make_node("Split", ["projections"], parts, axis=-1, num_outputs=3),
        _given("MultiHeadAttention", parts, ["y"], num_heads="heads"),
    ]
    nodes[1].domain = CONTRIB
    nodes[1].attribute.append(helper.make_attribute("scale", 1.0))
    return _function(ATTENTION, ["projections"], nodes, opset, ["heads", "sequence_axis"])


def _biased_attention(opset: int) -> onnx.FunctionProto:
    nodes = _softmax_attention()
    return _function(BIASED_ATTENTION, ["projections", "bias"], nodes, opset, _BY_AXIS)


def _relative_attention(opset: int) -> onnx.FunctionProto:
    # The same nodes in each layer, of the same window: onnxruntime runs those before attention once.
    nodes = [
        helper.make_node("Shape", ["window"], ["distances"], start=1, end=2),
        helper.make_node("Constant", [], ["one"], value_int=1),
        helper.make_node("Constant", [], ["axis"], value_ints=[1]),
        helper.make_node("Constant", [], ["two"], value_int=2),
        helper.make_node("Squeeze", ["distances"], ["number"]),
        helper.make_node("Div", ["number", "two"], ["zero"]),
        helper.make_node("Add", ["zero", "one"], ["tokens"]),
        helper.make_node("Constant", [], ["first"], value_int=0),
        helper.make_node("Range", ["first", "tokens", "one"], ["key"]),
        helper.make_node("Unsqueeze", ["key", "axis"], ["query"]),
        helper.make_node("Sub", ["key", "query"], ["distance"]),
        helper.make_node("Add", ["distance", "zero"], ["column"]),
        helper.make_node("Transpose", ["window"], ["by_column"], perm=[1, 0]),
        helper.make_node("Gather", ["by_column", "column"], ["by_pair"], axis=0),
        helper.make_node("Transpose", ["by_pair"], ["bias"], perm=[2, 0, 1]),
        *_softmax_attention(),
    ]
    return _function(RELATIVE_ATTENTION, ["projections", "window"], nodes, opset, _BY_AXIS)


def _softmax_attention() -> list[onnx.NodeProto]:
    """Return the nodes from projections, and a bias, to the context."""
    parts = ["queries", "keys", "values"]
    nodes = [
        helper.make_node("Split", ["projections"], parts, axis=-1, num_outputs=3),
        _given("Constant", [], ["split"], value_ints="split"),
    ]
    for part in parts:
        nodes.append(helper.make_node("Reshape", [part, "split"], [f"{part}_split"]))
        nodes.append(_given("Transpose", [f"{part}_split"], [f"{part}_apart"], perm="apart"))
    nodes += [
        helper.make_node("Transpose", ["keys_apart"], ["keys_turned"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["queries_apart", "keys_turned"], ["scores"]),
        helper.make_node("Add", ["scores", "bias"], ["biased"]),
        helper.make_node("Softmax", ["biased"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "values_apart"], ["context"]),
        _given("Transpose", ["context"], ["rows"], perm="together"),
        helper.make_node("Constant", [], ["joined"], value_ints=[0, 0, -1]),
        helper.make_node("Reshape", ["rows", "joined"], ["y"]),
    ]
    return nodes


_BY_AXIS = ["heads", "sequence_axis", "split", "apart", "together"]
_FUNCTIONS = {
    LINEAR_INT8: _linear,
    LINEAR_GELU_INT8: _linear_gelu,
    LINEAR_NORM_INT8: _linear_norm,
    ATTENTION: _attention,
    BIASED_ATTENTION: _biased_attention,
    RELATIVE_ATTENTION: _relative_attention,
}

_TYPES = {
    "shape": AttributeProto.INTS,
    "outliers": AttributeProto.INT,
    "split": AttributeProto.INTS,
    "apart": AttributeProto.INTS,
    "together": AttributeProto.INTS,
    "heads": AttributeProto.INT,
    "epsilon": AttributeProto.FLOAT,
}


def _given(op_type: str, inputs: list[str], outputs: list[str], **attributes: str) -> onnx.NodeProto:
    """Return a node of a body, its attributes those that the function is given by other names."""
    node = helper.make_node(op_type, inputs, outputs)
    for name, given in attributes.items():
        node.attribute.append(AttributeProto(name=name, type=_TYPES[given], ref_attr_name=given))
    return node


def _product() -> onnx.NodeProto:
    node = _given(LINEAR_INT8, [*_LINEAR_INPUTS, *_OUTLIERS], ["sum"], shape="shape", outliers="outliers")
    node.domain = DOMAIN
    return node


def _function(
    name: str, inputs: list[str], nodes: Sequence[onnx.NodeProto], opset: int, attributes: list[str]
) -> onnx.FunctionProto:
    domains = {node.domain for node in nodes if node.domain}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
    return helper.make_function(DOMAIN, name, inputs, ["y"], nodes, opsets, attributes=attributes)
