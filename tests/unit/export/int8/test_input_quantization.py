"""Grids: 8-bit integers of channels made alike by factors, or counting on in overflow columns."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from paritas.errors import ExportError
from paritas.export.int8.input_quantization import (
    ChannelStatistics,
    InputQuantization,
    choose_input_quantization,
)

CHANNELS = 192


def outlying(tokens: int = 400, *, far: float = 60) -> NDArray[np.float32]:
    """Activations as encoders have them: two channels far out on either side, now and then."""
    random = np.random.default_rng(7)
    values = random.standard_normal((tokens, CHANNELS))
    values[::50, 5] = far
    values[7::90, 40] = -far / 2
    return values.astype(np.float32)


def weights() -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((CHANNELS, 8)).astype(np.float32)


def grid_of(values: NDArray[np.float32]) -> InputQuantization:
    return choose_input_quantization(ChannelStatistics.of(values), weights()[: values.shape[1]])


def restored(quantization: InputQuantization, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values a layer sees: every overflow column added to its channel again, the factors taken out."""
    return quantization.quantize(values) @ quantization.extend(np.eye(values.shape[1], dtype=np.float32))


def product_error(quantization: InputQuantization, values: NDArray[np.float32]) -> float:
    """What rounding the inputs costs a product, the weights exact."""
    exact = values @ weights()
    return float(np.square(quantization.quantize(values) @ quantization.extend(weights()) - exact).mean())


def assert_held(quantization: InputQuantization, values: NDArray[np.float32]) -> None:
    assert (
        np.abs(restored(quantization, values) - values) <= 0.5001 * quantization.scale / quantization.factors
    ).all()


@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
@pytest.mark.parametrize("far", [6, 60, 600])
def test_every_value_seen_is_held_to_half_a_step_outliers_too(shift: float, far: float) -> None:
    values = outlying(far=far) + np.float32(shift)
    assert_held(grid_of(values), values)


def test_channels_a_little_further_out_get_factors_alone() -> None:
    quantization = grid_of(outlying(far=8))
    assert quantization.has_factors
    assert quantization.columns == 0
    assert quantization.factors.max() == 1
    assert int(np.argmin(quantization.factors)) == 5


def test_channels_far_out_get_overflow_columns_too() -> None:
    quantization = grid_of(outlying(far=600))
    assert quantization.has_factors
    assert 0 < quantization.columns <= CHANNELS // 96
    assert set(quantization.channels) <= {5, 40}


def test_channels_all_alike_get_neither() -> None:
    quantization = grid_of(np.tile(np.linspace(-1, 1, 100, dtype=np.float32)[:, None], CHANNELS))
    assert not quantization.has_factors
    assert quantization.columns == 0


def test_weights_that_would_be_rounded_worse_hold_a_factor_back() -> None:
    """A channel whose weights are large already would set the steps of every column."""
    values = outlying(far=20)
    heavy = weights()
    heavy[[5, 40]] *= 30
    light = choose_input_quantization(ChannelStatistics.of(values), weights())
    assert choose_input_quantization(ChannelStatistics.of(values), heavy).factors.min() > light.factors.min()


@pytest.mark.parametrize("far", [8, 60, 600])
def test_products_are_nearer_than_those_of_a_single_range(far: float) -> None:
    values = outlying(far=far)
    scale = np.float32((values.max() - values.min()) / 255)
    none = np.empty(0)
    plain = InputQuantization(
        scale,
        round(float(-values.min() / scale)),
        np.ones(CHANNELS, np.float32),
        none.astype(np.int32),
        none.astype(np.float32),
        none.astype(np.int64),
    )
    assert product_error(grid_of(values), values) < product_error(plain, values) / 2


def test_a_value_beyond_what_calibration_saw_stops_at_the_end_of_the_range() -> None:
    values = outlying()
    quantization = grid_of(values)
    beyond = values[:1].copy()
    beyond[0, 5] = 1000
    found = restored(quantization, beyond)
    assert 60 <= found[0, 5] < 500
    assert_held(quantization, np.where(beyond == 1000, np.float32(0), beyond))


def test_values_of_one_sign_use_the_whole_range_and_columns_alone() -> None:
    values = np.abs(outlying())
    quantization = grid_of(values)
    assert quantization.zero_point == 0
    assert not quantization.has_factors
    assert 0 < quantization.columns <= CHANNELS // 8
    assert_held(quantization, values)


def test_a_silent_channel_of_one_sign_has_room_to_speak() -> None:
    values = np.abs(outlying())
    values[:, 7] = 0.01
    quantization = grid_of(values)
    louder = values.copy()
    louder[:, 7] = 1.4 * np.median(values.max(axis=0))
    assert_held(quantization, louder)


def relu(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.maximum(values, 0)


def gelu(values: NDArray[np.float32]) -> NDArray[np.float32]:
    both = [0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in values.ravel().tolist()]
    return np.array(both, np.float32).reshape(values.shape)


@pytest.mark.parametrize(("rectifier", "corner"), [(relu, 0.0), (gelu, 0.17)])
@pytest.mark.parametrize("far", [6, 60, 600])
def test_the_layer_before_a_rectifier_computes_what_overflows(
    rectifier: Callable[[NDArray[np.float32]], NDArray[np.float32]], corner: float, far: float
) -> None:
    before = outlying(far=far)
    values = rectifier(before)
    quantization = choose_input_quantization(ChannelStatistics.of(values), weights(), rectified=True)
    assert quantization.rectified
    assert (CHANNELS + quantization.columns) % 16 == 0
    places, factors, shifts = quantization.for_layer_before()
    wide = rectifier(before[:, places] * factors + shifts)
    integers = (
        np.clip(np.rint(wide / quantization.scale) + quantization.zero_point, 0, 255)
        - quantization.zero_point
    )
    found = (integers * quantization.scale) @ quantization.extend(np.eye(CHANNELS, dtype=np.float32))
    # Every column of a channel may stand on its rectifier's corner, though only one at a time.
    assert np.abs(found - values).max() <= 0.51 * quantization.scale + corner
    assert (
        np.abs(quantization.quantize(values) @ quantization.extend(np.eye(CHANNELS)) - found).max()
        <= quantization.scale + corner
    )
    assert not quantization.constant(quantization.extend(weights()).astype(np.float64)).any()


def test_the_channels_nearest_to_overflowing_get_what_fills_a_strip() -> None:
    values = relu(outlying())
    quantization = choose_input_quantization(ChannelStatistics.of(values), weights(), rectified=True)
    high = 1.1 * values.max(axis=0)
    high = np.maximum(high, 1.5 * np.sort(high)[-CHANNELS // 8 - 1])  # the headroom of silent channels
    top = quantization.scale * (255 - quantization.zero_point)
    needed = np.ceil(np.maximum(0, high - top - quantization.scale / 2) / top)
    more = np.bincount(quantization.channels, minlength=CHANNELS) - needed
    assert 0 < more.sum() < 16
    room = top * (1 + needed) - high
    assert room[more > 0].max() <= room[more == 0].min() + 1e-5


def test_values_of_both_signs_are_never_rectified() -> None:
    quantization = choose_input_quantization(ChannelStatistics.of(outlying()), weights(), rectified=True)
    assert not quantization.rectified
    places, factors, shifts = quantization.for_layer_before()
    assert np.array_equal(places, np.arange(CHANNELS))
    assert np.array_equal(factors, quantization.factors)
    assert not shifts.any()


def test_what_calibration_saw_is_joined() -> None:
    values = outlying()
    both = ChannelStatistics.of(values[:150]).joined(ChannelStatistics.of(values[150:]))
    whole = ChannelStatistics.of(values)
    assert np.array_equal(both.lowest, whole.lowest)
    assert np.array_equal(both.highest, whole.highest)
    np.testing.assert_allclose(both.squares, np.square(values, dtype=np.float64).sum(axis=0))
    assert both.tokens == 400


def test_a_tensor_of_zeros_has_a_grid() -> None:
    quantization = grid_of(np.zeros((4, 32), np.float32))
    assert np.array_equal(restored(quantization, np.zeros((4, 32), np.float32)), np.zeros((4, 32)))


def test_the_integers_and_the_constant_give_the_product() -> None:
    """What the graph computes: the zero point taken off every column, then the constant added."""
    values = outlying(far=600)
    quantization = grid_of(values)
    assert quantization.columns
    extended = quantization.extend(weights()).astype(np.float64)
    even = values * quantization.factors
    columns = np.concatenate([even, even[:, quantization.channels] + quantization.shifts], axis=1)
    integers = np.clip(np.rint(columns / quantization.scale) + quantization.zero_point, 0, 255)
    product = float(quantization.scale) * (
        integers - quantization.zero_point
    ) @ extended + quantization.constant(extended)
    assert np.allclose(product, quantization.quantize(values).astype(np.float64) @ extended, atol=2e-2)
    assert np.allclose(product, values @ weights(), atol=20 * quantization.scale / quantization.factors.min())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_range_that_is_not_finite_is_refused(value: float) -> None:
    values = np.ones((4, 32), np.float32)
    values[2, 3] = value
    with pytest.raises(ExportError, match="NaN or infinite"):
        grid_of(values)
