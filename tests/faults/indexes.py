"""Indexes for the trials, and what must be true of one, whatever was done to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from paritas.engine.index import VectorIndex


def vectors_of(numbers: list[int]) -> NDArray[np.float32]:
    """Return each document's vector, which its number alone decides, float32, (count, 16)."""
    found = np.stack([np.random.default_rng(number).standard_normal(16) for number in numbers])
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def add(index: VectorIndex, numbers: list[int]) -> None:
    """Add the documents of some numbers."""
    ids = [str(number) for number in numbers]
    index.add(ids, vectors_of(numbers), texts=[f"text {number}" for number in numbers])


def check_whole(index: VectorIndex) -> set[int]:
    """Find all documents, each with its own vector and text, and return their numbers."""
    count = len(index)
    if not count:
        return set()
    hits = index.search(np.eye(1, 16, dtype=np.float32), count, exact=True)[0]
    assert len(hits) == count == len({hit.id for hit in hits})
    scores = vectors_of([int(hit.id) for hit in hits])[:, 0]
    assert np.allclose([hit.score for hit in hits], scores, rtol=0, atol=1e-5)
    assert all(hit.text == f"text {hit.id}" for hit in hits)
    return {int(hit.id) for hit in hits}
