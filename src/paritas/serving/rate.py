"""How fast something goes while it is busy."""

from __future__ import annotations

import math
import threading
import time

# What was done so long ago counts for a third.
_MEMORY_S = 10.0


class Rate:
    """A rate per second of busy time, over the last ten seconds of it or so. May be used by many threads."""

    def __init__(self) -> None:
        """Begin without any; `per_s` is 0 until something was done."""
        self._lock = threading.Lock()
        self._amount = self._seconds = 0.0
        self._last = time.monotonic()

    def begin(self) -> None:
        """Note that work comes after a pause, which does not count."""
        with self._lock:
            self._last = time.monotonic()

    def add(self, amount: int) -> None:
        """Note what was done since the last call of this or of `begin`."""
        with self._lock:
            now = time.monotonic()
            passed = max(now - self._last, 1e-6)
            kept = math.exp(-passed / _MEMORY_S)
            self._amount = self._amount * kept + amount
            self._seconds = self._seconds * kept + passed
            self._last = now

    @property
    def per_s(self) -> float:
        """What is done in a second; 0 where nothing was done yet."""
        return self._amount / self._seconds if self._seconds else 0.0
