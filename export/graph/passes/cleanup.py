"""What a graph loses without its outputs changing: unused nodes, detours to constants."""

from __future__ import annotations

import onnx

from paritas.export.graph.nodes import names_read, rename_inputs, set_nodes
from paritas.export.graph.weights_file import replace_initializers


def drop_unused(model: onnx.ModelProto) -> None:
    """Drop the nodes and initializers that no output needs."""
    needed = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(names_read(node))
    set_nodes(model, kept[::-1])
    replace_initializers(model, [tensor for tensor in model.graph.initializer if tensor.name in needed])


def read_constants_directly(model: onnx.ModelProto) -> None:
    """Let what reads an Identity of an initializer read the initializer.

    PyTorch writes parameters of equal values once and an Identity for each other place: a matrix that layers
    share would be a layer's constant in the first of them alone.
    """
    constants = {tensor.name: tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        rename_inputs(node, constants)
        if node.op_type == "Identity" and node.input[0] in constants:
            constants[node.output[0]] = node.input[0]
