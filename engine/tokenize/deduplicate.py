"""Deduplication: a text that comes more than once in a call is computed once, and its vector is copied."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paritas.engine.tokenize.tokenizer import Text

# Rows filled at a time: all at once, a million of 384 components would be held twice, 1.5 GB more.
_ROWS = 4096


class Deduplicated:
    """The distinct texts among many, each at its first place."""

    def __init__(self, texts: Iterable[Text]) -> None:
        """Find them. Of texts that are made as they are asked for, only the distinct ones are kept."""
        numbers: dict[Text, int] = {}
        first = array("q")

        def numbered() -> Iterator[int]:
            for place, text in enumerate(texts):
                number = numbers.setdefault(text, len(first))
                if number == len(first):
                    first.append(place)
                yield number

        # No list in between, which would take four times as much.
        self._numbers = np.fromiter(numbered(), np.int64)
        self.distinct: list[Text] = list(numbers)
        self.rows: NDArray[np.int64] = np.array(first, np.int64)
        """The first place of each distinct text, (distinct,)."""
        self.counts: NDArray[np.int64] = np.bincount(self._numbers, minlength=len(numbers))
        """How often each comes, (distinct,)."""

    def __len__(self) -> int:
        """Return how many texts there are, repeated ones counted each time."""
        return len(self._numbers)

    @property
    def first(self) -> NDArray[np.int64]:
        """For each text the first place where an equal one stands, (texts,)."""
        return self.rows[self._numbers]

    def fill(self, vectors: NDArray[Any]) -> None:
        """Copy the rows at the first places to the others; in place, (texts, dim)."""
        if len(self.distinct) == len(self):
            return
        for start in range(0, len(self), _ROWS):
            first = self.rows[self._numbers[start : start + _ROWS]]
            later = np.flatnonzero(first != np.arange(start, start + len(first)))
            vectors[start + later] = vectors[first[later]]
