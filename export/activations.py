"""How a linear layer's input becomes unsigned 8-bit integers, with constants alone.

One scale and one zero point serve all channels, and calibration fixes both: a vector then depends on nothing
but its own text. What makes that hard for encoders is a handful of channels whose values, at one token in a
hundred, are fifty times everyone else's. A range wide enough for them leaves the others a few steps; cutting
them off changes the meaning. So each of them gets *overflow columns*: where the main column of a channel is
full, the first overflow column goes on counting, then the next, each over a copy of the same weights,

    x = scale * (main - zero_point) + scale * (first - idle) + scale * (second - idle) + ...

with idle 0 for columns above the main one and 255 for those below. The sum is exact as long as the last
column is not full. An 8-bit saturating conversion of the shifted value is just that counting, so a column
costs one more row in the integer product and nothing else. (Zhao et al. 2019, arXiv:1901.09504, split outlier
channels in halves; here only what overflows is split off.)

The alternative, a product in FP32 of the clipped part with those channels' weights, needs a pass of its own
over every output, and those are up to four times as wide as the inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paritas.errors import ExportError

# Inputs for each overflow column: 6 % more multiplications. On the certificate's paragraphs all-mpnet-base-v2
# has a mean cosine of 0.9989 with two thirds of these columns, 0.9990 with a third more.
_INPUTS_PER_COLUMN = 16
# Texts that calibration never saw reach a little further.
_MARGIN = 1.1
# What follows a GELU is nearly one-sided, and in each channel mostly nothing: a channel that stood at 1.5 in
# all of calibration reaches 9 for a phrase that was not in it. So there each channel is given half as much
# again as all but the furthest reached. On all-mpnet-base-v2 the worst of 12,637 SQuAD texts rose from a
# cosine of 0.972 to 0.990, and the mean of its questions fell from 0.9988 to 0.9986.
_ONE_SIDED = 0.2
_HEADROOM = 1.5
_LEVELS = 255


@dataclass(frozen=True, slots=True)
class Grid:
    """The 8-bit form of one tensor."""

    scale: np.float32
    zero_point: int
    channels: NDArray[np.int32]
    """(columns,), the channel that each overflow column counts."""
    shifts: NDArray[np.float32]
    """(columns,), added to the channel's values before the same conversion as the main column's."""
    idle: NDArray[np.int64]
    """(columns,), the count that stands for nothing: 0, or 255 in columns below the main one."""

    @property
    def columns(self) -> int:
        """The overflow columns."""
        return len(self.channels)

    def quantize(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the integers stand for.

        Args:
            values: float32, (tokens, channels).

        Returns:
            float32, (tokens, channels + columns), every value a multiple of the scale.
        """
        main = self._count(values) - np.float32(self.zero_point)
        over = self._count(values[:, self.channels] + self.shifts) - self.idle.astype(np.float32)
        return np.asarray(np.concatenate([main, over], axis=1) * self.scale)

    def extend(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the matrix (channels, outputs) with a row more for each overflow column."""
        return np.concatenate([weights, weights[self.channels]])

    def constant(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what the product misses that takes the zero point off every column, idle or not.

        Args:
            weights: float64, (channels + columns, outputs).

        Returns:
            float64, (outputs,), to be added to the bias.
        """
        missing = float(self.scale) * (self.zero_point - self.idle)
        return np.asarray(missing @ weights[len(weights) - self.columns :])

    def _count(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(np.clip(np.rint(values / self.scale) + np.float32(self.zero_point), 0, _LEVELS))


def choose_grid(lowest: NDArray[np.float32], highest: NDArray[np.float32]) -> Grid:
    """Return the finest grid that holds every channel's range with an overflow column for 16 channels.

    Args:
        lowest, highest: float32, (channels,), what calibration saw of each.

    Raises:
        ExportError: a range is not finite.
    """
    if not (np.isfinite(lowest).all() and np.isfinite(highest).all()):
        raise ExportError("holds NaN or infinite values")
    low, high = (
        _MARGIN * np.minimum(lowest, 0).astype(np.float64),
        _MARGIN * np.maximum(highest, 0).astype(np.float64),
    )
    columns = len(lowest) // _INPUTS_PER_COLUMN
    if -low.min() < _ONE_SIDED * high.max():
        high = np.maximum(high, _HEADROOM * np.sort(high)[-columns - 1])
    # Where more channels than there may be columns overflow on one side the grid is too fine, whatever the
    # others do: those furthest out decide.
    furthest = np.sort(low)[: columns + 1], np.sort(high)[-columns - 1 :]
    full = max(float(high.max() - low.min()), 1e-6) / _LEVELS
    # By bisection: at `full` a single range holds everything, up to what rounding the zero point moves it.
    fine, coarse = full / 256, float(np.float32(full * 1.02))
    chosen = _zero_point(*furthest, coarse)
    for _ in range(24):
        middle = float(np.float32((fine * coarse) ** 0.5))
        found = _zero_point(*furthest, middle)
        if found[1] <= columns:
            coarse, chosen = middle, found
        else:
            fine = middle
    scale, zero_point = np.float32(coarse), chosen[0]
    up, down = _needed(low, high, float(scale), np.array([zero_point]))
    return _grid(scale, zero_point, up[:, 0], down[:, 0])


def _zero_point(low: NDArray[np.float64], high: NDArray[np.float64], scale: float) -> tuple[int, int]:
    """Return the zero point that needs the fewest overflow columns at a scale, and how many."""
    up, down = _needed(low, high, scale, np.arange(_LEVELS + 1))
    columns = (up + down).sum(axis=0)
    best = int(columns.argmin())
    return best, int(columns[best])


def _needed(
    low: NDArray[np.float64], high: NDArray[np.float64], scale: float, zero_points: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the columns each channel needs above and below, (channels, zero points)."""
    reach = _LEVELS * scale
    above = high[:, None] - scale * (_LEVELS - zero_points)
    below = -low[:, None] - scale * zero_points
    # Half a step beyond the range is still rounded into it.
    return tuple(  # type: ignore[return-value]
        np.ceil(np.maximum(0, part - scale / 2) / reach).astype(np.int64) for part in (above, below)
    )


def _grid(scale: np.float32, zero_point: int, up: NDArray[np.int64], down: NDArray[np.int64]) -> Grid:
    channels = np.concatenate([np.repeat(np.arange(len(need)), need) for need in (up, down)])
    # A channel's columns above it count from 255, 510, ... steps on; those below from as many before.
    steps = np.concatenate([_ordinals(up) * -_LEVELS, _ordinals(down) * _LEVELS])
    return Grid(
        scale,
        zero_point,
        channels.astype(np.int32),
        (steps * np.float64(scale)).astype(np.float32),
        np.where(steps < 0, 0, _LEVELS),
    )


def _ordinals(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 1 to n for each count n, end to end."""
    return np.arange(1, counts.sum() + 1) - np.repeat(np.cumsum(counts) - counts, counts)
