"""Nodes of an ONNX graph, the graphs inside them, and what every pass does to both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx
from onnx import helper

CONTRIB = "com.microsoft"
"""The domain of onnxruntime's own operators."""


def add_domain(model: onnx.ModelProto, domain: str) -> None:
    """Let a model use operators of a domain, such as `CONTRIB`."""
    if all(opset.domain != domain for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(domain, 1))


def cast_node(source: str, target: str, to: int) -> onnx.NodeProto:
    """Return a Cast node."""
    return helper.make_node("Cast", [source], [target], name=f"{target}.cast", to=to)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return what a node is given beside its inputs."""
    return {given.name: helper.get_attribute_value(given) for given in node.attribute}


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs inside a node: the branches of an If, the body of a Loop."""
    return [graph for given in node.attribute for graph in (given.g, *given.graphs) if graph.node]


def every_node(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield the nodes and all those inside them."""
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from every_node(body.node)


def names_read(node: onnx.NodeProto) -> list[str]:
    """Return the names of all tensors a node reads: its inputs, and what its bodies read from outside."""
    names = list(node.input)
    for body in bodies(node):
        own = _names_made(body)
        names += [name for inner in body.node for name in names_read(inner) if name not in own]
    return names


def _names_made(body: onnx.GraphProto) -> set[str]:
    """Return the names of a body's own tensors, which hide those of the same names outside."""
    own = {value.name for value in (*body.input, *body.initializer)}
    return own.union(*(node.output for node in body.node))


def rename_inputs(node: onnx.NodeProto, names: dict[str, str]) -> None:
    """Let a node, and what is inside it, read other tensors."""
    for position, name in enumerate(node.input):
        if name in names:
            node.input[position] = names[name]
    for body in bodies(node):
        own = _names_made(body)
        outer = {name: other for name, other in names.items() if name not in own}
        for inner in body.node:
            rename_inputs(inner, outer)


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
