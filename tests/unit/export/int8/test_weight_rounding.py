"""8-bit weights: each rounding error made good by the rounding of the rows after it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from paritas.export.int8.weight_rounding import LARGEST, blocks, column_scales, outliers, round_weights


def correlated(inputs: int, tokens: int = 2000) -> NDArray[np.float32]:
    random = np.random.default_rng(11)
    mixing = random.standard_normal((inputs // 4, inputs))
    values = random.standard_normal((tokens, inputs // 4)) @ mixing + 0.1 * random.standard_normal(
        (tokens, inputs)
    )
    return values.astype(np.float32)


def moments(values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [values[:, rows].T @ values[:, rows] for rows in blocks(values.shape[1])]


@pytest.mark.parametrize("inputs", [64, 65, 512, 600])
def test_products_change_less_than_with_the_nearest_steps(inputs: int) -> None:
    values = correlated(inputs)
    weights = np.random.default_rng(5).standard_normal((inputs, 24)).astype(np.float32)
    scales = column_scales(weights)
    rounded = round_weights(weights.copy(), scales, moments(values))
    nearest = np.rint(weights / scales)
    ours = np.square(values @ (rounded * scales - weights)).sum()
    theirs = np.square(values @ (nearest * scales - weights)).sum()
    assert ours < 0.5 * theirs


def test_steps_stay_within_8_bits_and_the_largest_weight_uses_them() -> None:
    weights = np.random.default_rng(5).standard_normal((64, 24)).astype(np.float32)
    rounded = round_weights(weights, column_scales(weights), moments(correlated(64)))
    assert rounded.dtype == np.int8
    assert np.abs(rounded.astype(int)).max() == LARGEST


def test_the_weights_given_are_not_changed() -> None:
    weights = np.random.default_rng(5).standard_normal((64, 24)).astype(np.float32)
    before = weights.copy()
    round_weights(weights, column_scales(weights), moments(correlated(64)))
    assert np.array_equal(weights, before)


def test_a_column_of_zeros_stays_zeros() -> None:
    weights = np.random.default_rng(5).standard_normal((64, 3)).astype(np.float32)
    weights[:, 1] = 0
    rounded = round_weights(weights, column_scales(weights), moments(correlated(64)))
    assert not rounded[:, 1].any()


def test_inputs_that_are_never_anything_but_zero_are_rounded_all_the_same() -> None:
    weights = np.random.default_rng(5).standard_normal((64, 24)).astype(np.float32)
    values = correlated(64)
    values[:, 10:20] = 0
    rounded = round_weights(weights, column_scales(weights), moments(values))
    scales = column_scales(weights)
    assert np.abs(rounded[10:20] * scales - weights[10:20]).max() <= 1.01 * scales.max()


def test_rounding_twice_gives_the_same() -> None:
    weights = np.random.default_rng(5).standard_normal((600, 24)).astype(np.float32)
    values = correlated(600)
    first, second = (round_weights(weights, column_scales(weights), moments(values)) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("inputs", [1, 511, 512, 513, 3264])
def test_blocks_cover_every_row_once(inputs: int) -> None:
    rows = [row for block in blocks(inputs) for row in range(block.start, block.stop)]
    assert rows == list(range(inputs))
    assert max(block.stop - block.start for block in blocks(inputs)) <= 512


def test_outliers_are_weights_far_larger_than_the_rest_of_their_column() -> None:
    weights = np.random.default_rng(5).standard_normal((600, 24)).astype(np.float32)
    assert len(outliers(weights)) == 0
    weights[:, 7] = 0  # none, of a column of zeros
    weights[40, 21], weights[5, 20], weights[599, 3] = 60, -80, 70
    weights[:, 11] *= 1000  # a whole column is no outlier
    places = outliers(weights)
    assert places.dtype == np.int32
    assert places.tolist() == [[599, 3], [5, 20], [40, 21]]


def test_no_more_outliers_than_are_worth_their_time_the_largest_ones() -> None:
    weights = np.ones((600, 200), np.float32)
    weights[0] = np.linspace(40, 60, 200)
    places = outliers(weights)
    assert [output for _, output in places.tolist()] == list(range(136, 200))
    assert (places[:, 0] == 0).all()
