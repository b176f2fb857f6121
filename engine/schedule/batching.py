"""Which texts run together: groups of equal length, within a budget of tokens.

A batch whose texts have one length needs no padding. So no padding token is computed, and no text's vector
can depend on its neighbours. On a CPU small batches cost nothing: 256 to 512 tokens are already as
fast as any larger number. Accelerators want larger batches; `max_padding` lets near lengths share one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts that run together, by their place in the caller's order."""

    rows: NDArray[np.int64]
    """(batch,)"""
    length: int
    """Tokens a text, after padding."""

    @property
    def cells(self) -> int:
        """Tokens computed: padding included."""
        return len(self.rows) * self.length


def plan(lengths: NDArray[np.int64], *, max_batch_tokens: int, max_padding: float = 0.0) -> Iterator[Batch]:
    """Yield batches, longest texts first, that hold every text once.

    Longest first: what does not fit the memory shows at once, and the progress bar speeds up.

    Args:
        lengths: int64, (texts,), tokens of each text.
        max_batch_tokens: most tokens a batch may have, padding included; a longer text runs alone.
        max_padding: most of a batch's tokens, as a share of 1, that may be padding.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        room = max(1, max_batch_tokens // max(longest, 1))
        window = lengths[order[start : start + room]]
        cells = longest * np.arange(1, len(window) + 1)
        fits = cells - np.cumsum(window) <= max_padding * cells
        # The share of padding only grows along a sorted window as long as the texts get shorter.
        count = len(window) if fits.all() else int(np.argmin(fits))
        yield Batch(rows=order[start : start + count], length=longest)
        start += count
