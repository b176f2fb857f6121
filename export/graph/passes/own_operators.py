"""Linear layers with what follows them, and attention, as operators of paritas's own."""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper

from paritas.export.graph.nodes import attributes, set_nodes
from paritas.export.graph.operators import (
    ATTENTION,
    BIASED_ATTENTION,
    DOMAIN,
    HEADS_APART,
    LINEAR_GELU_INT8,
    LINEAR_INT8,
    LINEAR_NORM_INT8,
    RELATIVE_ATTENTION,
    add_operators,
    attention,
    with_more,
)
from paritas.export.graph.passes.cleanup import drop_unused
from paritas.export.graph.passes.relative_bias import Windows
from paritas.export.graph.view import GraphView

_TURNED = {axis: [*perm[:2], perm[3], perm[2]] for axis, perm in HEADS_APART.items()}


def fuse_own_operators(model: onnx.ModelProto, longest: int) -> bool:
    """Let a graph that holds LinearInt8 use the other operators where it computes what they do.

    Args:
        model: a graph for CPUs.
        longest: the most tokens of a text.

    Returns:
        Whether it holds any.
    """
    if all(node.op_type != LINEAR_INT8 for node in model.graph.node):
        return False
    view = GraphView(model)
    windows = Windows(view, longest)
    fused: dict[str, onnx.NodeProto] = {}
    """What takes the place of the node with an output."""
    dropped: set[str] = set()
    """The outputs of nodes whose place is taken further on."""
    for node in model.graph.node:
        if node.op_type == LINEAR_INT8 and node.domain == DOMAIN:
            new = _with_gelu(node, view) or _with_norm(node, view)
            if new is not None and new.output[0] in fused:  # the sum of two layers: one of them stays
                new = None
            if new is not None:
                dropped.add(node.output[0])
        else:
            new = _attention(node, view, windows) if node.op_type == "Softmax" else None
        if new is not None:
            fused[new.output[0]] = new
    kept = [fused.get(node.output[0], node) for node in model.graph.node if node.output[0] not in dropped]
    set_nodes(model, [*windows.nodes, *kept])
    model.graph.initializer.extend(windows.constants)
    drop_unused(model)
    add_operators(model)
    return True


def _with_gelu(linear: onnx.NodeProto, view: GraphView) -> onnx.NodeProto | None:
    gelu = view.down(linear.output[0], "Gelu")
    if not gelu or gelu[0].attribute:  # another form of it
        return None
    return with_more(linear, LINEAR_GELU_INT8, [], gelu[0].output[0])


def _with_norm(linear: onnx.NodeProto, view: GraphView) -> onnx.NodeProto | None:
    output = linear.output[0]
    if view.reads(output) != 1 or [node.op_type for node in view.consumers[output]] != ["Add"]:
        return None
    (add,) = view.consumers[output]
    norm = view.down(add.output[0], "LayerNormalization")
    if not norm or len(norm[0].input) != 3 or len(norm[0].output) != 1:
        return None
    given = attributes(norm[0])
    residual = add.input[1] if add.input[0] == output else add.input[0]
    weights = [view.constants.get(name) for name in norm[0].input[1:]]
    outputs = attributes(linear)["shape"][1]
    if given.get("axis", -1) != -1 or any(
        tensor is None or list(tensor.dims) != [outputs] for tensor in weights
    ):
        return None
    if residual in view.constants:  # which has another shape
        return None
    new = with_more(linear, LINEAR_NORM_INT8, [residual, *norm[0].input[1:]], norm[0].output[0])
    new.attribute.append(helper.make_attribute("epsilon", given.get("epsilon", 1e-5)))
    return new


def _attention(softmax: onnx.NodeProto, view: GraphView, windows: Windows) -> onnx.NodeProto | None:
    """Return the attention around a Softmax; None where it has another form."""
    if attributes(softmax) != {"axis": -1}:
        return None
    scores, bias = _scores(softmax.input[0], view)
    context = view.down(softmax.output[0], "MatMul", "Transpose", "Reshape")
    if scores is None or not context:
        return None
    turned = scores.op_type == "MatMul"
    if not turned and attributes(scores) != {"transB": 1}:
        return None
    for axis, apart in HEADS_APART.items():
        orders = [apart, _TURNED[axis] if turned else apart, apart]
        names = [scores.input[0], scores.input[1], context[0].input[1]]
        paths = [view.up(name, "Transpose", "Reshape", "Split") for name in names]
        if not all(paths) or [attributes(path[0])["perm"] for path in paths] != orders:
            continue
        if not _parts_in_order(paths) or attributes(context[1]) != {"perm": _back(apart)}:
            continue
        if axis == 0 and not bias:
            continue
        heads = _heads({_shape(path[1], view) for path in paths}, _shape(context[2], view))
        if heads:
            projections, output = paths[0][2].input[0], context[2].output[0]
            if not bias:
                return attention(ATTENTION, [projections], output, heads)
            window = windows.of(bias[0], heads)
            op_type, added = (RELATIVE_ATTENTION, window) if window else (BIASED_ATTENTION, bias[0])
            return attention(op_type, [projections, added], output, heads, sequence_axis=axis)
    return None


def _heads(apart: set[tuple[int, ...]], together: tuple[int, ...]) -> int:
    """Return how many heads there are; 0 where reshaping does more than take them apart and together."""
    if len(apart) > 1 or together[:2] != (0, 0) or len(together) != 3:
        return 0
    (shape,) = apart
    return shape[2] if shape[:2] == (0, 0) and len(shape) == 4 and shape[2] > 0 else 0


def _scores(name: str, view: GraphView) -> tuple[onnx.NodeProto | None, list[str]]:
    """Return the product that makes scores, and what is added to it."""
    node = view.producers.get(name)
    if node is None or view.reads(name) != 1:
        return None, []
    if node.op_type in ("MatMul", "FusedMatMul"):
        return node, []
    if node.op_type != "Add":
        return None, []
    for place in (0, 1):
        product = view.producers.get(node.input[place])
        if (
            product is not None
            and product.op_type in ("MatMul", "FusedMatMul")
            and view.reads(node.input[place]) == 1
        ):
            return product, [node.input[1 - place]]
    return None, []


def _parts_in_order(paths: list[list[onnx.NodeProto]]) -> bool:
    """Say whether three tensors are the thirds of one, in their order."""
    splits = [path[2] for path in paths]
    if any(split is not splits[0] for split in splits) or attributes(splits[0]) != {
        "axis": -1,
        "num_outputs": 3,
    }:
        return False
    return [path[1].input[0] for path in paths] == list(splits[0].output)


def _shape(reshape: onnx.NodeProto, view: GraphView) -> tuple[int, ...]:
    """Return the constant shape that a Reshape is given; none where it is computed."""
    shape = view.constants.get(reshape.input[1])
    return () if shape is None else tuple(int(size) for size in numpy_helper.to_array(shape))


def _back(perm: list[int]) -> list[int]:
    return [perm.index(axis) for axis in range(len(perm))]
