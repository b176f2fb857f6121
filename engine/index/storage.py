"""How vectors lie in an index: what usearch is given of them, and what comes back.

f32, f16 and bf16 keep numbers. i8 and b1 keep directions alone: whole numbers of one byte, compared by their
cosine, and the signs of the channels, compared by how many differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paritas.engine.index.info import IndexInfo, Metric, ScalarType
from paritas.engine.pool.embedding_quantization import quantize_vectors
from paritas.errors import InputError

DIRECTIONS: tuple[ScalarType, ...] = ("i8", "b1")
"""Types that keep no lengths."""


def check_metric(dtype: ScalarType, metric: Metric, *, unit: bool) -> None:
    """Refuse a type that cannot answer by a metric.

    Args:
        dtype: how vectors are stored.
        metric: what they are compared by.
        unit: whether all of them have length 1.

    Raises:
        InputError: the type keeps directions alone, and the metric compares lengths too.
    """
    if dtype in DIRECTIONS and not (metric == "cos" or (metric == "ip" and unit)):
        raise InputError(
            f"dtype {dtype} keeps directions alone, and metric {metric} compares lengths too; "
            "use dtype f32, f16 or bf16, or metric cos"
        )


def stored(vectors: NDArray[np.float32], dtype: ScalarType) -> NDArray[Any]:
    """Return vectors as usearch is given them, (count, dim), or (count, ceil(dim / 8)) for "b1".

    bf16 is rounded by usearch itself, for NumPy has no such type.
    """
    match dtype:
        case "f16":
            return vectors.astype(np.float16)
        case "i8":
            return _bytes(vectors)
        case "b1":
            return quantize_vectors(vectors, "ubinary")
        case _:
            return vectors


def _bytes(vectors: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return whole numbers from -127 to 127; the channel farthest from zero is one of the two.

    A scale a vector costs nothing, for the cosine does not see it. `quantize_vectors` has one for all: its
    steps were two and a half times as coarse for all-MiniLM-L6-v2, and channels beyond 8/sqrt(dim) were cut.
    """
    farthest = np.abs(vectors).max(axis=1, keepdims=True)
    scaled = vectors * (np.float32(127) / np.where(farthest > 0, farthest, np.float32(1)))
    whole: NDArray[np.int8] = np.rint(scaled).astype(np.int8)
    return whole


def restored(kept: NDArray[Any], info: IndexInfo) -> NDArray[np.float32]:
    """Return what `stored` gave as float32, (count, dim); for "i8" and "b1" of length 1."""
    match info.dtype:
        case "i8":
            vectors: NDArray[np.float32] = kept.reshape(-1, info.dim).astype(np.float32)
        case "b1":
            bits = np.unpackbits(kept.reshape(-1, math.ceil(info.dim / 8)), axis=1, count=info.dim)
            vectors = bits.astype(np.float32) * 2 - 1
        case _:
            return np.asarray(kept, np.float32).reshape(-1, info.dim)
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    vectors /= np.maximum(lengths, np.float32(1))[:, None]
    return vectors


def graph_metric(info: IndexInfo) -> str:
    """Return usearch's name of what the graph compares by."""
    return {"i8": "cos", "b1": "hamming"}.get(info.dtype, info.metric)


def score(info: IndexInfo) -> Callable[[float], float]:
    """Return what makes an answer's score, larger where nearer, of usearch's distance.

    usearch gives 1 - inner product, 1 - cosine, the squared Euclidean distance, or how many bits differ. Of
    those an angle is estimated: signs differ in as large a share of random directions as the angle is of a
    half turn (Charikar 2002, Similarity estimation techniques from rounding algorithms).
    """
    if info.dtype == "b1":
        return lambda bits: math.cos(math.pi * bits / info.dim)
    if info.metric == "l2sq":
        return lambda distance: -distance
    return lambda distance: 1.0 - distance
