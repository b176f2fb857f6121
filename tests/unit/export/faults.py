"""Graphs that are wrong in one place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from paritas.export import precisions
from paritas.export.graph.weights_file import WeightsFile
from paritas.export.networks.graph import export_native

Fault = Callable[[onnx.GraphProto], None]


def with_constant(name: str, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Fault:
    """A graph with one other initializer."""

    def fault(graph: onnx.GraphProto) -> None:
        (tensor,) = [tensor for tensor in graph.initializer if tensor.name == name]
        value = change(numpy_helper.to_array(tensor)).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))

    return fault


def with_attribute(op_type: str, **attribute: object) -> Fault:
    """A graph whose nodes of one kind have another attribute."""

    def fault(graph: onnx.GraphProto) -> None:
        for node in (node for node in graph.node if node.op_type == op_type):
            kept = [item for item in node.attribute if item.name not in attribute]
            del node.attribute[:]
            node.attribute.extend(kept)
            node.attribute.extend(helper.make_attribute(key, value) for key, value in attribute.items())

    return fault


ONE_WEIGHT = with_constant("layer.1.output.weight", lambda value: value + 0.1 * (value == value.max()))


def let_native_be_wrong(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    def export(directory: Path, weights: WeightsFile, **options: Any) -> onnx.ModelProto:
        model = export_native(directory, weights, **options)
        fault(model.graph)
        return model

    monkeypatch.setattr(precisions, "export_native", export)
