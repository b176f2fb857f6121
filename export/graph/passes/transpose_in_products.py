"""Attention's keys are turned inside the product instead of before it."""

from __future__ import annotations

import onnx
from onnx import helper

from paritas.export.graph.nodes import CONTRIB, add_domain
from paritas.export.graph.view import GraphView


def transpose_in_products(model: onnx.ModelProto) -> None:
    """Let products read attention's keys as they lie, (batch, heads, seq, head dim).

    Turned to columns before the product they move value by value, 400 us for 495 tokens of 768 channels on
    two cores; the rows of a head move in 130, and the product takes no longer.
    """
    view = GraphView(model)
    for node in model.graph.node:
        transpose = view.producers.get(node.input[1]) if node.op_type == "MatMul" else None
        if transpose is None or not _to_columns(transpose) or view.reads(node.input[1]) > 1:
            continue
        transpose.attribute[0].ints[:] = [0, 2, 1, 3]
        node.op_type, node.domain = "FusedMatMul", CONTRIB
        node.attribute.append(helper.make_attribute("transB", 1))
        add_domain(model, CONTRIB)


def _to_columns(node: onnx.NodeProto) -> bool:
    """Say whether a node turns (batch, seq, heads, head dim) into (batch, heads, head dim, seq)."""
    return node.op_type == "Transpose" and [list(given.ints) for given in node.attribute] == [[0, 2, 3, 1]]
