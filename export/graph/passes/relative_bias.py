"""A bias by the distance of two tokens, found in a graph that spreads it over all pairs of them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from paritas.export.graph.nodes import attributes
from paritas.export.graph.view import GraphView


class Windows:
    """What spread biases are taken from, each made once: for as many tokens as a text has."""

    def __init__(self, view: GraphView) -> None:
        self._view = view
        self._names: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []
        """What makes them: it reads nothing but the graph's inputs and constants."""
        self.constants: list[onnx.TensorProto] = []

    def of(self, bias: str) -> str:
        """Return the name of what a bias, (heads, tokens, tokens), is taken from; none where it is another.

        It is (heads, 2 * tokens - 1), and column `tokens - 1 + key - query` holds the bias of such a pair.
        """
        if bias not in self._names:
            self._names[bias] = self._window(bias)
        return self._names[bias]

    def _window(self, bias: str) -> str:
        found = _spread(bias, self._view)
        if found is None:
            return ""
        table, zero, tokens = found
        name = f"{bias}.window"
        made = {"before": np.array([zero + 1]), "zero": np.array([zero]), "axis": np.array([1])}
        self.constants += [numpy_helper.from_array(value, f"{name}.{what}") for what, value in made.items()]
        self.nodes += [
            helper.make_node("Shape", [tokens], [f"{name}.tokens"], start=1, end=2),
            helper.make_node("Sub", [f"{name}.before", f"{name}.tokens"], [f"{name}.start"]),
            helper.make_node("Add", [f"{name}.zero", f"{name}.tokens"], [f"{name}.end"]),
            helper.make_node("Slice", [table, f"{name}.start", f"{name}.end", f"{name}.axis"], [name]),
        ]
        return name


def _spread(bias: str, view: GraphView) -> tuple[str, int, str] | None:
    """Return the table of a bias, its column of the distance 0, and the input whose tokens it is for.

    It is found in the form that networks/mpnet.py writes, and in no other.
    """
    path = view.up(bias, "Transpose", "Gather")
    if not path or [attributes(node) for node in path] != [{"perm": [2, 0, 1]}, {"axis": 0}]:
        return None
    rows, column = path[1].input
    turned = view.up(rows, "Transpose")
    place = view.up(column, "Add", "Sub", "Range")
    if not turned or attributes(turned[0]) != {"perm": [1, 0]} or not place:
        return None
    table, zero = turned[0].input[0], _integer(place[0].input[1], view)
    key, query = place[1].input
    start, limit, step = place[2].input
    unsqueeze, counted = view.up(query, "Unsqueeze"), view.up(limit, "Squeeze", "Shape")
    if not unsqueeze or list(unsqueeze[0].input[:1]) != [key] or _integer(unsqueeze[0].input[1], view) != 1:
        return None
    if (_integer(start, view), _integer(step, view)) != (0, 1) or not counted or len(counted[0].input) != 1:
        return None
    shape = counted[1]
    if table not in view.constants or zero is None or attributes(shape) != {"start": 1, "end": 2}:
        return None
    return (table, zero, shape.input[0]) if shape.input[0] in view.inputs else None


def _integer(name: str, view: GraphView) -> int | None:
    """Return a constant of one element; None where it is no such."""
    tensor = view.constants.get(name)
    value = None if tensor is None else numpy_helper.to_array(tensor)
    return int(value.item()) if value is not None and value.size == 1 else None
