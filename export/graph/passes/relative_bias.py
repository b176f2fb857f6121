"""A bias by the distance of two tokens, found in a graph that spreads it over all pairs of them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from paritas.export.graph.nodes import attributes
from paritas.export.graph.view import GraphView

# Names that no other tensor has.
_WINDOW = "paritas.window"


class Windows:
    """What spread biases are taken from, each made once: for as many tokens as a text has."""

    def __init__(self, view: GraphView, longest: int) -> None:
        """Look for biases in a graph whose inputs are (texts, tokens), of so many tokens at most."""
        self._view = view
        self._longest = longest
        self._names: dict[tuple[str, int], str] = {}
        self.nodes: list[onnx.NodeProto] = []
        """What makes them: it reads nothing but the graph's inputs and constants."""
        self.constants: list[onnx.TensorProto] = []

    def of(self, bias: str, heads: int) -> str:
        """Return the name of what a bias, (heads, tokens, tokens), is taken from; none where it is another.

        It is (heads, 2 * tokens - 1), and column `tokens - 1 + key - query` holds the bias of such a pair.
        """
        if (bias, heads) not in self._names:
            self._names[bias, heads] = self._window(bias, heads)
        return self._names[bias, heads]

    def _window(self, bias: str, heads: int) -> str:
        found = _spread(bias, self._view)
        if found is None:
            return ""
        shape, zero = list(found.table.dims), found.zero
        # Beyond a table Gather counts from its end, or tells of an error, and Slice does neither.
        if shape[:-1] != [heads] or not self._longest - 1 <= zero <= shape[-1] - self._longest:
            return ""
        name = f"{_WINDOW}.{bias}.{heads}"
        before, middle, axis = f"{name}.before", f"{name}.middle", f"{name}.axis"
        tokens, start, end = f"{name}.tokens", f"{name}.start", f"{name}.end"
        for constant, value in ((before, zero + 1), (middle, zero), (axis, 1)):
            self.constants.append(numpy_helper.from_array(np.array([value]), constant))
        self.nodes += [
            helper.make_node("Shape", [found.ids], [tokens], start=1, end=2),
            helper.make_node("Sub", [before, tokens], [start]),
            helper.make_node("Add", [middle, tokens], [end]),
            helper.make_node("Slice", [found.table.name, start, end, axis], [name]),
        ]
        return name


class _Spread(NamedTuple):
    """A bias of all pairs of tokens."""

    table: onnx.TensorProto
    """Of heads and distances."""
    zero: int
    """Its column of the distance 0."""
    ids: str
    """The input whose tokens it is for."""


def _spread(bias: str, view: GraphView) -> _Spread | None:
    """Return what a bias is spread from, in the form that networks/mpnet.py writes, and in no other."""
    path = view.up(bias, "Transpose", "Gather")
    if not path or [attributes(node) for node in path] != [{"perm": [2, 0, 1]}, {"axis": 0}]:
        return None
    rows, column = path[1].input
    turned, place = view.up(rows, "Transpose"), view.up(column, "Add", "Sub", "Range")
    if not turned or attributes(turned[0]) != {"perm": [1, 0]} or not place:
        return None
    key, query = place[1].input
    above, counted = view.up(query, "Unsqueeze"), view.up(place[2].input[1], "Squeeze", "Shape")
    if not above or above[0].input[0] != key or not counted:
        return None
    if len(counted[0].input) != 1 or attributes(counted[1]) != {"start": 1, "end": 2}:
        return None
    start, _, step = place[2].input
    numbers = [_integer(name, view) for name in (start, step, *above[0].input[1:])]
    table, zero = view.constants.get(turned[0].input[0]), _integer(place[0].input[1], view)
    ids = counted[1].input[0]
    if numbers != [0, 1, 1] or table is None or zero is None or ids not in view.inputs:
        return None
    return _Spread(table, zero, ids)


def _integer(name: str, view: GraphView) -> int | None:
    """Return a constant of one integer; None where it is no such."""
    tensor = view.constants.get(name)
    if tensor is None or tensor.data_type != TensorProto.INT64 or math.prod(tensor.dims) != 1:
        return None
    return int(numpy_helper.to_array(tensor).item())
