"""Texts that stand in several shards: each is encoded for the first shard that comes to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from paritas.bulk.cache import Entry, VectorCache

_ASKED_EVERY_S = 0.1
# Of a key, so that many are found in one look.
_PREFIX_BYTES = 8


def prefixes(keys: Iterable[bytes]) -> bytes:
    """Return the beginnings of keys that stand in order, end to end: 8 bytes of each."""
    return b"".join([key[:_PREFIX_BYTES] for key in keys])


class Repeated:
    """What is kept of texts for other shards, while several threads encode."""

    def __init__(self, cache: VectorCache, known: bytes | None) -> None:
        """Begin.

        Args:
            cache: where vectors are kept.
            known: the texts that are kept, as `prefixes` returns them; all of them where None.
        """
        self._cache = cache
        whole = None if known is None else known[: len(known) // _PREFIX_BYTES * _PREFIX_BYTES]
        self._known = None if whole is None else np.frombuffer(whole, ">u8").astype(np.uint64)
        self._changed = threading.Condition()
        self._under_way: set[bytes] = set()

    def kept(self, keys: Sequence[bytes]) -> set[bytes]:
        """Return which keys are of texts that are kept."""
        if self._known is None:
            return set(keys)
        if not len(self._known) or not len(keys):
            return set()
        beginnings = np.array([int.from_bytes(key[:_PREFIX_BYTES], "big") for key in keys], np.uint64)
        places = np.minimum(np.searchsorted(self._known, beginnings), len(self._known) - 1)
        return {key for key, known in zip(keys, self._known[places] == beginnings, strict=True) if known}

    def claim(self, keys: set[bytes]) -> tuple[dict[bytes, Entry], set[bytes]]:
        """Return what is kept of texts, and which of the others another thread encodes just now.

        The rest is the caller's to encode, and to `put`.
        """
        with self._changed:
            found = self._cache.get(sorted(keys))
            awaited = (keys - found.keys()) & self._under_way
            self._under_way |= keys - found.keys()
        return found, awaited

    def put(self, entries: dict[bytes, Entry]) -> None:
        """Keep what the caller has encoded."""
        self._cache.put(sorted(entries.items()))
        with self._changed:
            self._under_way -= entries.keys()
            self._changed.notify_all()

    def wait(self, keys: set[bytes], check: Callable[[], object]) -> dict[bytes, Entry]:
        """Wait for what other threads encode, and return it.

        Args:
            keys: those that `claim` returned.
            check: called now and then; raises where the others will not end.
        """
        with self._changed:
            while keys & self._under_way:
                self._changed.wait(_ASKED_EVERY_S)
                check()
        return self._cache.get(sorted(keys))
