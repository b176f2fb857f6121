"""Vectors in one byte or one bit a channel."""

from __future__ import annotations

import numpy as np
import pytest

from paritas.engine.pool.embedding_quantization import quantize_vectors
from paritas.engine.pool.pooling import normalize


def random_vectors(count: int, dim: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(1).standard_normal((count, dim)).astype(np.float32)


@pytest.mark.parametrize("dim", [16, 384, 768])
def test_a_byte_a_channel_keeps_directions(dim: int) -> None:
    vectors = random_vectors(200, dim)
    small = quantize_vectors(vectors, "int8")
    assert (small.dtype, small.shape) == (np.int8, vectors.shape)
    cosines = (normalize(small.astype(np.float32)) * normalize(vectors)).sum(axis=1)
    assert cosines.min() > 0.999


def test_the_scale_is_that_of_the_width_and_not_of_the_vector() -> None:
    # 127 / 8 * sqrt(4) = 31.75 a unit.
    vectors = np.array([[1, 0, 0, 0], [0.5, -0.5, 0.5, 0.5], [0, -3, 0, 0]], np.float32)
    expected = [[32, 0, 0, 0], [16, -16, 16, 16], [0, -32, 0, 0]]
    assert quantize_vectors(vectors, "int8").tolist() == expected
    assert quantize_vectors(vectors, "uint8").tolist() == (np.array(expected) + 128).tolist()


def test_what_is_out_of_range_is_the_last_value() -> None:
    vector = np.zeros((1, 400), np.float32)
    vector[0, :2] = 1, -1
    assert quantize_vectors(vector, "int8")[0, :3].tolist() == [127, -127, 0]
    assert quantize_vectors(vector, "uint8")[0, :3].tolist() == [255, 1, 128]
    assert quantize_vectors(np.zeros((1, 8), np.float32), "int8").tolist() == [[0] * 8]


def test_a_bit_a_channel_is_its_sign_the_first_one_highest() -> None:
    vectors = np.array([[1, -1, 0, 1, -1, -1, -1, 1, 0.5]], np.float32)
    small = quantize_vectors(vectors, "ubinary")
    assert (small.dtype, small.tolist()) == (np.uint8, [[0b10010001, 0b10000000]])
    signed = quantize_vectors(vectors, "binary")
    assert (signed.dtype, signed.tolist()) == (np.int8, [[0b10010001 - 128, 0]])


def test_float_is_what_it_was() -> None:
    vectors = random_vectors(3, 16)
    before = vectors.copy()
    for kind in ("int8", "uint8", "binary", "ubinary"):
        quantize_vectors(vectors, kind)
    assert np.array_equal(vectors, before)
    assert quantize_vectors(vectors, "float") is vectors
