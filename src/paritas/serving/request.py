"""One caller's texts on their way through the batcher."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from paritas.engine.schedule.call import Call, Encoded, EncodedTokens, Window

Key = tuple[int, int | None]
"""What texts of one batch have in common: their tokens, and those of them that are not pooled."""

Outcome = Encoded | EncodedTokens | BaseException


class Request:
    """Texts of one caller. It is counted before they are tokenised, and what it holds goes when it ends."""

    def __init__(self, tokens: int, end: Callable[[Outcome], object]) -> None:
        """Take what is known before the texts are tokenised.

        Args:
            tokens: about how many they will have.
            end: called once with what came of it, in any thread.
        """
        self.tokens = tokens
        """Of all distinct texts, which are all computed."""
        self.end = end
        self.waiting: dict[int, NDArray[np.int64]] = {}
        """Rows that nobody has taken, by their tokens a text, the longest first."""
        self.unfinished = 0
        """Texts without a vector."""
        self.served = 0
        """Tokens that were taken."""
        self.left = self.asked = self.small = 0
        """Tokens that wait; those that are tokenised by now, and those that count whole in the queue."""
        self.arrival = 0
        self.call: Call[Encoded] | Call[EncodedTokens]
        self.window: Window

    def tokenized(self, call: Call[Encoded] | Call[EncodedTokens], window: Window) -> None:
        """Take the tokens of all distinct texts."""
        self.call, self.window = call, window
        lengths = window.tokens.lengths
        self.tokens = int(lengths.sum())
        self.waiting = dict(_by_length(lengths))
        self.unfinished = len(lengths)

    def take(self, length: int, most: int) -> NDArray[np.int64]:
        """Take rows of so many tokens each, at most so many rows."""
        rows = self.waiting[length]
        taken, left = rows[:most], rows[most:]
        if len(left):
            self.waiting[length] = left
        else:
            del self.waiting[length]
        self.served += len(taken) * length
        return taken

    def key(self, length: int) -> Key:
        """Return what texts of one batch have in common."""
        return length, self.window.prompt_tokens


def _by_length(lengths: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each length, the longest first, with the texts that have it."""
    if len(lengths) == 1:
        yield int(lengths[0]), np.zeros(1, np.int64)
        return
    order = np.argsort(-lengths, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
        if len(rows):
            yield int(lengths[rows[0]]), rows
