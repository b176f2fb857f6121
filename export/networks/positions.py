"""How a network counts positions: each way with its graph and its NumPy form beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from paritas.export.graph.builder import GraphBuilder


class Positions(Protocol):
    """Which row of the position table a token takes."""

    def longest(self, rows: int) -> int:
        """Return the most tokens that a table of so many rows serves."""

    def rows(self, input_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row of each token of one text, both (tokens,)."""

    def write(self, graph: GraphBuilder, table: str, ids: str, sequence_axis: int) -> str:
        """Write what looks the rows up, and return its name.

        Args:
            graph: the one under construction.
            table: the position table's name.
            ids: the name of the token ids.
            sequence_axis: the axis of `ids` along which a text's tokens lie.
        """


@dataclass(frozen=True, slots=True)
class FromZero:
    """Each token's place in its text."""

    def longest(self, rows: int) -> int:
        """Return the number of rows."""
        return rows

    def rows(self, input_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return 0, 1, 2, ..."""
        return np.arange(len(input_ids))

    def write(self, graph: GraphBuilder, table: str, ids: str, sequence_axis: int) -> str:
        """Write the table's first rows: (S, D), or (S, 1, D) where tokens come first."""
        add = graph.add
        length = add("Shape", ids, output="positions.length", start=sequence_axis, end=sequence_axis + 1)
        rows = add("Slice", table, graph.ints(0), length, graph.ints(0), output="positions")
        return rows if sequence_axis else add("Unsqueeze", rows, graph.ints(1), output="positions.by_text")


@dataclass(frozen=True, slots=True)
class AfterPadding:
    """Counted from `pad_token_id` + 1, over the tokens that are not the padding id, as transformers does.

    A literal `<pad>` inside a text is such an id: it takes row `pad_token_id` and is not counted.
    """

    pad_token_id: int

    def longest(self, rows: int) -> int:
        """Return the rows behind the padding id's."""
        return rows - self.pad_token_id - 1

    def rows(self, input_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the padding id's row for padding, the next ones for tokens."""
        is_token = input_ids != self.pad_token_id
        return np.asarray(np.cumsum(is_token) * is_token + self.pad_token_id)

    def write(self, graph: GraphBuilder, table: str, ids: str, sequence_axis: int) -> str:
        """Write the same: `ids`' shape, and D behind it."""
        from onnx import TensorProto

        add = graph.add
        pad = graph.constant("pad_token_id", np.array(self.pad_token_id, dtype=np.int64))
        is_pad = add("Equal", ids, pad, output="positions.is_pad")
        is_token = add("Not", is_pad, output="positions.is_token")
        ones = add("Cast", is_token, output="positions.ones", to=TensorProto.INT64)
        axis = graph.constant("positions.axis", np.array(sequence_axis, dtype=np.int64))
        counts = add("CumSum", ones, axis, output="positions.counts")
        counted = add("Mul", counts, ones, output="positions.counted")
        return add("Gather", table, add("Add", counted, pad, output="positions.rows"), output="positions")
