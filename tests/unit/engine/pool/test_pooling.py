"""Pooling against its definition, written naively in float64."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from paritas.engine.pool.pooling import cls_pool, mean_pool, normalize, pool
from paritas.errors import ShapeError
from paritas.registry import POOLINGS

BATCHES = pytest.mark.parametrize("batch", [1, 7, 33])
LENGTHS = pytest.mark.parametrize("length", [1, 15, 16, 17])  # either side of a SIMD register
DIM = 24


def case(batch: int, length: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Random token vectors; each text has one token or more, the rest is padding."""
    random = np.random.default_rng(100 * batch + length)
    hidden = random.standard_normal((batch, length, DIM)).astype(np.float32)
    counts = random.integers(1, length + 1, batch)
    return hidden, (np.arange(length) < counts[:, None]).astype(np.int64)


def naive_mean(hidden: NDArray[np.float32], mask: NDArray[np.int64]) -> NDArray[np.float64]:
    rows = []
    for states, present in zip(hidden.astype(np.float64), mask, strict=True):
        kept = [state for state, keep in zip(states, present, strict=True) if keep]
        rows.append(sum(kept) / len(kept))
    return np.stack(rows)


@BATCHES
@LENGTHS
def test_mean_pooling_is_the_mean_of_the_tokens(batch: int, length: int) -> None:
    hidden, mask = case(batch, length)
    pooled = mean_pool(hidden, mask)
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, naive_mean(hidden, mask), rtol=0, atol=1e-6)


# Each text by itself, float64: (tokens, dim) of tokens alone.
FORMULAS = {
    "cls": lambda x: x[0],
    "max": lambda x: x.max(axis=0),
    "mean": lambda x: x.mean(axis=0),
    "mean_sqrt_len_tokens": lambda x: x.sum(axis=0) / np.sqrt(len(x)),
    "weightedmean": lambda x: np.average(x, axis=0, weights=np.arange(1, len(x) + 1)),
    "lasttoken": lambda x: x[-1],
}


@BATCHES
@LENGTHS
@pytest.mark.parametrize("pooling", POOLINGS)
def test_each_pooling_is_its_formula(batch: int, length: int, pooling: str) -> None:
    hidden, mask = case(batch, length)
    expected = [
        FORMULAS[pooling](states[present > 0].astype(np.float64))
        for states, present in zip(hidden, mask, strict=True)
    ]
    pooled = pool(hidden, mask, pooling=pooling, normalized=False)
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, expected, rtol=0, atol=2e-6)


def test_joined_poolings_lie_side_by_side_in_the_order_given() -> None:
    hidden, mask = case(7, 16)
    joined = pool(hidden, mask, pooling="max+cls", normalized=False)
    parts = [pool(hidden, mask, pooling=part, normalized=False) for part in ("max", "cls")]
    np.testing.assert_array_equal(joined, np.concatenate(parts, axis=1))


@BATCHES
@LENGTHS
def test_cls_pooling_is_the_first_token(batch: int, length: int) -> None:
    hidden, _ = case(batch, length)
    pooled = cls_pool(hidden)
    assert pooled.dtype == np.float32
    np.testing.assert_array_equal(pooled, hidden[:, 0])


@BATCHES
@LENGTHS
@pytest.mark.parametrize("pooling", POOLINGS)
def test_what_stands_in_the_padding_does_not_matter(batch: int, length: int, pooling: str) -> None:
    hidden, mask = case(batch, length)
    clean = pool(hidden, mask, pooling=pooling, normalized=True)
    noisy = np.where(mask[:, :, None] == 1, hidden, np.float32(1e6))
    np.testing.assert_array_equal(pool(noisy, mask, pooling=pooling, normalized=True), clean)


@BATCHES
def test_a_text_pools_the_same_alone_and_in_a_batch(batch: int) -> None:
    hidden, mask = case(batch, 17)
    together = mean_pool(hidden, mask)
    for row in range(batch):
        alone = mean_pool(hidden[row : row + 1], mask[row : row + 1])[0]
        np.testing.assert_allclose(together[row], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("length", [0, 5])
def test_a_text_without_tokens_gives_zeros(length: int) -> None:
    hidden = np.full((2, length, DIM), 3.0, np.float32)
    mask = np.zeros((2, length), np.int64)
    for normalized in (False, True):
        pooled = pool(hidden, mask, pooling="mean", normalized=normalized)
        np.testing.assert_array_equal(pooled, np.zeros((2, DIM), np.float32))
        assert pooled.dtype == np.float32


def test_the_mask_may_be_of_any_integer_type() -> None:
    hidden, mask = case(7, 16)
    for dtype in (np.bool_, np.int32, np.int64):
        pooled = mean_pool(hidden, mask.astype(dtype))
        assert pooled.dtype == np.float32
        np.testing.assert_array_equal(pooled, mean_pool(hidden, mask))


@BATCHES
def test_normalised_rows_have_unit_length(batch: int) -> None:
    vectors = np.random.default_rng(batch).standard_normal((batch, 384)).astype(np.float32)
    expected = vectors.astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    result = normalize(vectors)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(result.astype(np.float64), axis=1), 1, rtol=0, atol=1e-6)


def test_normalising_works_in_place() -> None:
    vectors = np.array([[3.0, 4.0]], np.float32)
    assert normalize(vectors) is vectors
    np.testing.assert_allclose(vectors, [[0.6, 0.8]], rtol=1e-6)


def test_a_row_of_zeros_stays_zeros_among_others() -> None:
    vectors = np.array([[0.0, 0.0], [0.0, 2.0]], np.float32)
    np.testing.assert_array_equal(normalize(vectors), [[0, 0], [0, 1]])


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_very_short_and_very_long_rows_make_no_nan(scale: float) -> None:
    vectors = normalize(np.full((1, 4), scale, np.float32))
    assert np.isfinite(vectors).all()


def test_pooling_leaves_the_token_vectors_alone() -> None:
    hidden, mask = case(7, 16)
    before = hidden.copy()
    for pooling in POOLINGS:
        pool(hidden, mask, pooling=pooling, normalized=True)
        np.testing.assert_array_equal(hidden, before)


def test_without_normalisation_lengths_are_kept() -> None:
    hidden, mask = case(7, 16)
    np.testing.assert_array_equal(pool(hidden, mask, pooling="cls", normalized=False), hidden[:, 0])
    np.testing.assert_array_equal(
        pool(hidden, mask, pooling="mean", normalized=False), mean_pool(hidden, mask)
    )


@pytest.mark.parametrize("shape", [(7, 15), (6, 16), (7,), (7, 16, 1)])
def test_a_mask_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    hidden, _ = case(7, 16)
    with pytest.raises(ShapeError, match=r"attention_mask has shape \(.*\), expected \(7, 16\)"):
        mean_pool(hidden, np.ones(shape, np.int64))
