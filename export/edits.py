"""Small edits of an ONNX graph that is already there, shared by the passes that rewrite graphs."""

from __future__ import annotations

import onnx
from onnx import helper


def tensors_of_type(model: onnx.ModelProto, element: int) -> set[str]:
    """Return the names of all tensors of one type (`TensorProto.FLOAT`, ...), found by shape inference."""
    # Inference knows the types though the large initializers hold no data.
    inferred = onnx.shape_inference.infer_shapes(model)
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    names = {value.name for value in values if value.type.tensor_type.elem_type == element}
    return names | {tensor.name for tensor in model.graph.initializer if tensor.data_type == element}


def cast_node(source: str, target: str, to: int) -> onnx.NodeProto:
    """Return a Cast node."""
    return helper.make_node("Cast", [source], [target], name=f"{target}.cast", to=to)


def rename_inputs(node: onnx.NodeProto, names: dict[str, str]) -> None:
    """Let a node read other tensors."""
    for position, name in enumerate(node.input):
        if name in names:
            node.input[position] = names[name]


def set_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Replace all nodes of a graph; they may be its own."""
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def copy_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model whose large tensors lie outside: a few hundred kilobytes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
