"""What a call of `Encoder.encode` did, and how long it took over what."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EncodeStats:
    """What one call of `Encoder.encode` did."""

    texts: int
    """As given; what comes more than once is computed once."""
    tokens: int
    """Computed, padding aside."""
    truncated: int
    """Texts that were cut to the role's max_length."""
    padding: int
    """Padding tokens that were computed."""
    batches: int
    tokenize_s: float
    """Tokenizing, in the calling thread; earlier batches may run meanwhile."""
    run_s: float
    """In onnxruntime, of all workers together."""
    pool_s: float
    """Pooling, of all workers together."""
    total_s: float

    @property
    def padding_share(self) -> float:
        """Padding among the tokens computed, 0 to 1."""
        return self.padding / (self.tokens + self.padding) if self.tokens else 0.0

    def __add__(self, other: EncodeStats) -> EncodeStats:
        """Return what two calls did together, for streams encoded in parts."""
        names = EncodeStats.__slots__
        return EncodeStats(*(getattr(self, name) + getattr(other, name) for name in names))


class Tally:
    """The stats of a call under way, to which several workers add."""

    def __init__(self) -> None:
        """Begin to count the time."""
        self._begun = time.perf_counter()
        self._lock = threading.Lock()
        # Plain numbers: to add two EncodeStats takes 8 µs, and a query adds three times.
        self.texts = self._tokens = self._truncated = self._padding = self._batches = 0
        self._tokenize_s = self._run_s = self._pool_s = 0.0
        self.done = 0
        """Texts whose vectors are there; `texts` are those given."""
        self.computed = 0
        """Tokens of those texts; equal ones count once."""

    def add(
        self,
        *,
        texts: int = 0,
        done: int = 0,
        computed: int = 0,
        tokens: int = 0,
        truncated: int = 0,
        padding: int = 0,
        batches: int = 0,
        tokenize_s: float = 0.0,
        run_s: float = 0.0,
        pool_s: float = 0.0,
    ) -> None:
        """Add what was done, by the names of `EncodeStats` and of this class."""
        with self._lock:
            self.texts += texts
            self.done += done
            self.computed += computed
            self._tokens += tokens
            self._truncated += truncated
            self._padding += padding
            self._batches += batches
            self._tokenize_s += tokenize_s
            self._run_s += run_s
            self._pool_s += pool_s

    def stats(self) -> EncodeStats:
        """Return what was added, and the time since this object was made."""
        with self._lock:
            return EncodeStats(
                texts=self.texts,
                tokens=self._tokens,
                truncated=self._truncated,
                padding=self._padding,
                batches=self._batches,
                tokenize_s=self._tokenize_s,
                run_s=self._run_s,
                pool_s=self._pool_s,
                total_s=time.perf_counter() - self._begun,
            )
