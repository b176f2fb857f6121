"""Texts that come more than once in a call: which are computed, and where else their vectors belong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paritas.engine.tokenizer import Text

# Rows copied at a time: at once, a million of 384 components would be held twice, 1.5 GB more.
_ROWS = 4096


class Repeats:
    """The distinct texts among many, each at the first place it has."""

    def __init__(self, texts: Iterable[Text]) -> None:
        """Find them; of texts that are made as they are asked for, only the distinct ones are kept."""
        numbers: dict[Text, int] = {}
        # An array from the beginning: a list of a million numbers takes four times as much.
        self._places = np.fromiter((numbers.setdefault(text, len(numbers)) for text in texts), np.int64)
        self.distinct: list[Text] = list(numbers)
        # A text that is new has the next number.
        highest = np.maximum.accumulate(self._places)
        self.rows: NDArray[np.int64] = np.flatnonzero(np.diff(highest, prepend=-1))
        """The first place of each distinct text, (distinct,)."""
        self.counts: NDArray[np.int64] = np.bincount(self._places, minlength=len(numbers))
        """How often each comes, (distinct,)."""

    def __len__(self) -> int:
        """Return how many texts there are, repeated ones counted each time."""
        return len(self._places)

    def fill(self, vectors: NDArray[Any]) -> None:
        """Copy the rows at the first places to the others; in place, (texts, dim)."""
        if len(self.distinct) == len(self):
            return
        later = np.ones(len(self), np.bool_)
        later[self.rows] = False
        others = np.flatnonzero(later)
        for start in range(0, len(others), _ROWS):
            some = others[start : start + _ROWS]
            vectors[some] = vectors[self.rows[self._places[some]]]
