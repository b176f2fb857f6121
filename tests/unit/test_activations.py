"""Grids: 8-bit integers that count past their range in overflow columns."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from paritas.errors import ExportError
from paritas.export.activations import Grid, choose_grid


def outlying(tokens: int = 400, channels: int = 96) -> NDArray[np.float32]:
    """Activations as encoders have them: two channels far out on either side, now and then."""
    random = np.random.default_rng(7)
    values = random.standard_normal((tokens, channels))
    values[::50, 5] = 60
    values[7::90, 40] = -35
    return values.astype(np.float32)


def grid_of(values: NDArray[np.float32]) -> Grid:
    return choose_grid(values.min(axis=0), values.max(axis=0))


def restored(grid: Grid, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values a layer sees: every overflow column added to its channel again."""
    return grid.quantize(values) @ grid.extend(np.eye(values.shape[1], dtype=np.float32))


@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_every_value_seen_is_held_to_half_a_step_outliers_too(shift: float) -> None:
    values = outlying() + np.float32(shift)
    grid = grid_of(values)
    assert 0 < grid.columns <= values.shape[1] // 16
    assert np.abs(restored(grid, values) - values).max() <= 0.5001 * grid.scale


def test_outliers_do_not_coarsen_the_step_of_the_others() -> None:
    values = outlying()
    without = np.delete(values, [5, 40], axis=1)
    assert grid_of(values).scale < 2 * grid_of(without).scale
    assert grid_of(values).scale < (values.max() - values.min()) / 255 / 5


def test_a_value_beyond_what_calibration_saw_stops_at_the_end_of_the_range() -> None:
    values = outlying()
    grid = grid_of(values)
    beyond = values[:1].copy()
    beyond[0, 5] = 1000
    found = restored(grid, beyond)
    assert 60 <= found[0, 5] < 140
    assert np.abs(np.delete(found - beyond, 5)).max() <= 0.5001 * grid.scale


def test_values_of_one_sign_use_the_whole_range() -> None:
    values = np.abs(outlying())
    grid = grid_of(values)
    assert grid.zero_point == 0
    assert np.abs(restored(grid, values) - values).max() <= 0.5001 * grid.scale


def test_a_tensor_of_zeros_has_a_grid() -> None:
    grid = grid_of(np.zeros((4, 32), np.float32))
    assert np.array_equal(restored(grid, np.zeros((4, 32), np.float32)), np.zeros((4, 32)))


def test_the_integers_and_the_constant_give_the_product() -> None:
    """What the graph computes: the zero point taken off every column, then the constant added."""
    values = outlying()
    grid = grid_of(values)
    weights = np.random.default_rng(3).standard_normal((values.shape[1], 8))
    extended = grid.extend(weights.astype(np.float32)).astype(np.float64)
    columns = np.concatenate([values, values[:, grid.channels] + grid.shifts], axis=1)
    integers = np.clip(np.rint(columns / grid.scale) + grid.zero_point, 0, 255)
    product = float(grid.scale) * (integers - grid.zero_point) @ extended + grid.constant(extended)
    assert np.allclose(product, grid.quantize(values).astype(np.float64) @ extended, atol=2e-2)
    assert np.allclose(product, values @ weights, atol=20 * grid.scale)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_range_that_is_not_finite_is_refused(value: float) -> None:
    highest = np.ones(32, np.float32)
    highest[3] = value
    with pytest.raises(ExportError, match="NaN or infinite"):
        choose_grid(-np.ones(32, np.float32), highest)
