"""Vectors and indexes of them, for the tests of the index."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from paritas.engine.encoder import Encoder
from paritas.engine.index import VectorIndex


def unit_vectors(count: int, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def filled(encoder: Encoder, count: int = 500, **options: Any) -> VectorIndex:
    index = VectorIndex(encoder, **options)
    ids = [f"doc-{number}" for number in range(count)]
    index.add(ids, unit_vectors(count), titles=[f"title {i}" for i in ids], texts=[f"text {i}" for i in ids])
    return index
