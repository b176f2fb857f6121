"""Texts that come more than once in a call: which are computed, and where else their vectors belong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paritas.engine.tokenizer import Text


class Repeats:
    """The distinct texts among many, each at the first place it has."""

    def __init__(self, texts: Sequence[Text]) -> None:
        """Find them."""
        numbers: dict[Text, int] = {}
        places = [numbers.setdefault(text, len(numbers)) for text in texts]
        self.distinct: list[Text] = list(numbers)
        self._places = np.array(places, dtype=np.int64)
        self.rows: NDArray[np.int64] = np.unique(self._places, return_index=True)[1]
        """The first place of each distinct text, (distinct,)."""
        self.counts: NDArray[np.int64] = np.bincount(self._places, minlength=len(numbers))
        """How often each comes, (distinct,)."""

    def fill(self, vectors: NDArray[Any]) -> None:
        """Copy the rows at the first places to the others; in place, (texts, dim)."""
        if len(self.distinct) == len(self._places):
            return
        later = np.ones(len(self._places), np.bool_)
        later[self.rows] = False
        others = np.flatnonzero(later)
        vectors[others] = vectors[self.rows[self._places[others]]]
