"""How a linear layer's input becomes unsigned 8-bit integers, with constants alone.

One scale and one zero point serve all channels, and calibration fixes both: a vector then depends on nothing
but its own text. What makes that hard for encoders is a few channels that reach several times, some at one
token in a hundred fifty times, as far as the others. A range wide enough for them leaves the others a few
steps; cutting them off changes the meaning. Two ways out, both exact:

*Factors* (Xiao et al. 2022, arXiv:2211.10438, SmoothQuant): a channel is multiplied by a constant, its
weights are divided by it. That costs one product a value, and weights that are less alike are rounded worse:
how far to go is what `choose_input_quantization` weighs.

*Overflow columns*, for channels too far out for that: where the main column of a channel is full, the first
overflow column goes on counting, then the next, each over a copy of the same weights,

    x = scale * (main - zero_point) + scale * (first - idle) + scale * (second - idle) + ...

with idle 0 for columns above the main one and 255 for those below. The sum is exact as long as the last
column is not full. An 8-bit saturating conversion of the shifted value is just that counting, so a column
costs one more row in the integer product. (Zhao et al. 2019, arXiv:1901.09504, split outlier channels in
halves; here only what overflows is split off.) The alternative is a product in FP32 of the clipped part with
those channels' weights. It needs a pass of its own over every output, and those are up to four times as wide.

Behind a rectifier the layer before computes the overflow columns itself, *rectified*: a channel's weights
once more, the bias lowered by as much as the main column holds, because max(x - c, 0) is what a ReLU makes of
x - c. A GELU rounds that corner off, by 0.17 at most and only within 3 of it. One to four more columns in a
hundred then take the place of seven operators behind the rectifier: 2 to 4 % of all-MiniLM-L6-v2's time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paritas.errors import ExportError
from paritas.export.int8.weight_rounding import column_scales

# Texts that calibration never saw reach a little further: in a range that all channels share, and in ranges
# fitted to each channel by factors, where none has room to spare. With 1.17 there one question in 10,570 of
# SQuAD fell to a cosine of 0.975 on all-mpnet-base-v2, with 1.25 to 0.989, at 0.00004 of the mean.
_SHARED_MARGIN = 1.1
_FITTED_MARGIN = 1.25
# How much of a channel's reach its factor takes away: the exponents to choose from.
_EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
# Columns besides factors: the first one after 768 inputs costs 5 to 10 % of the product, which then goes over
# its outputs a third time. Taken only where they save half of the error, which are the inputs of
# all-mpnet-base-v2's intermediate layers. There one channel in 768 reaches 57 where the median reaches 1.4.
_FEW = 96
# What follows a GELU is nearly one-sided, and in each channel mostly nothing: a channel that stood at 1.5 in
# all of calibration reaches 9 for a phrase that was not in it. Factors taken from such ranges cut it off: a
# question of SQuAD fell to a cosine of 0.965. So there columns serve alone, at most one for 8 inputs, and
# each channel is given half as much again as all but the furthest eighth reached. On all-mpnet-base-v2 that
# headroom raised the worst of 12,637 SQuAD texts from a cosine of 0.972 to 0.990. Half of the noise that INT8
# brings into scores is rounded here. With an eighth, not a sixteenth, the range shrinks by a seventh and the
# squared error, what is cut off included, by a fifth, for 30 more columns on 3,072.
_ONE_SIDED = 0.2
_MANY = 8
_HEADROOM = 1.5
# Outputs that the integer product computes at a time: 3,102 of them take 3 to 5 % longer than 3,104.
_STRIP = 16
_LEVELS = 255


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """What calibration saw of a tensor's channels, each (channels,)."""

    lowest: NDArray[np.float32]
    highest: NDArray[np.float32]
    squares: NDArray[np.float64]
    """The sum of squares."""
    tokens: int

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> ChannelStatistics:
        """Look at values, float32, (tokens, channels)."""
        squares = np.einsum("ij,ij->j", values, values, dtype=np.float64)
        return cls(values.min(axis=0), values.max(axis=0), squares, len(values))

    def joined(self, other: ChannelStatistics) -> ChannelStatistics:
        """Return what both saw."""
        return ChannelStatistics(
            np.minimum(self.lowest, other.lowest),
            np.maximum(self.highest, other.highest),
            self.squares + other.squares,
            self.tokens + other.tokens,
        )


@dataclass(frozen=True, slots=True)
class InputQuantization:
    """How one tensor becomes 8-bit integers."""

    scale: np.float32
    zero_point: int
    factors: NDArray[np.float32]
    """(channels,), what each channel is multiplied by first."""
    channels: NDArray[np.int32]
    """(columns,), the channel that each overflow column counts."""
    shifts: NDArray[np.float32]
    """(columns,), added to the channel's values before the same conversion as the main column's."""
    idle: NDArray[np.int64]
    """(columns,), the integer of an overflow column that adds nothing.

    It is 0 above the main column, 255 below it, and the zero point where columns are rectified.
    """
    rectified: bool = False
    """Whether the layer before computes the overflow columns, through its rectifier."""

    @property
    def columns(self) -> int:
        """The overflow columns."""
        return len(self.channels)

    @property
    def has_factors(self) -> bool:
        """Whether any channel's factor is not 1."""
        return bool((self.factors != 1).any())

    def quantize(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the integers stand for, the factors still in it.

        Args:
            values: float32, (tokens, channels).

        Returns:
            float32, (tokens, channels + columns), every value a multiple of the scale.
        """
        even = values * self.factors
        main = self._count(even) - np.float32(self.zero_point)
        over = even[:, self.channels] + self.shifts
        if self.rectified:
            over = np.maximum(over, 0)
        over = self._count(over) - self.idle.astype(np.float32)
        return np.asarray(np.concatenate([main, over], axis=1) * self.scale)

    def extend(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the matrix (channels, outputs) for `quantize`'s values: a row more for each column."""
        even = weights / self.factors[:, None]
        return np.concatenate([even, even[self.channels]])

    def for_layer_before(self) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Return what the layer before may do for this one: columns, each times a factor, plus a
        shift.

        Returns:
            The columns' places, int64, their factors and their shifts, float32: all (channels,) or, where the
            columns are rectified, (channels + columns,).
        """
        places = np.arange(len(self.factors))
        if not self.rectified:
            return places, self.factors, np.zeros_like(self.factors)
        shifts = np.concatenate([np.zeros_like(self.factors), self.shifts])
        return np.concatenate([places, self.channels]), np.ones_like(shifts), shifts

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


def choose_input_quantization(
    seen: ChannelStatistics, weights: NDArray[np.float32], *, rectified: bool = False
) -> InputQuantization:
    """Return the quantisation whose product with these weights is expected to be nearest to the exact one.

    Args:
        seen: what calibration saw of the tensor.
        weights: float32, (channels, outputs), of all layers that read it.
        rectified: whether the tensor is a rectifier's output and the layer before may compute more columns.

    Raises:
        ExportError: a range is not finite.
    """
    if not (np.isfinite(seen.lowest).all() and np.isfinite(seen.highest).all()):
        raise ExportError("holds NaN or infinite values")
    low = np.minimum(seen.lowest, 0).astype(np.float64)
    high = np.maximum(seen.highest, 0).astype(np.float64)
    if -low.sum() < _ONE_SIDED * high.sum():
        columns = len(low) // _MANY
        low, high = _SHARED_MARGIN * low, _SHARED_MARGIN * high
        high = np.maximum(high, _HEADROOM * np.sort(high)[-columns - 1])
        return _finest(low, high, np.ones(len(low), np.float32), columns, rectified=rectified)
    low, high = _FITTED_MARGIN * low, _FITTED_MARGIN * high
    reach = np.maximum(high, -low)
    far = np.maximum(reach / max(float(np.median(reach)), 1e-30), 1)
    choices = [(far**-exponent).astype(np.float32) for exponent in _EXPONENTS]

    def best(columns: int) -> tuple[float, InputQuantization]:
        quantizations = [_finest(low * factors, high * factors, factors, columns) for factors in choices]
        errors = [_expected_error(quantization, seen, weights) for quantization in quantizations]
        return min(errors), quantizations[int(np.argmin(errors))]

    (error, plain), (left, extended) = best(0), best(len(low) // _FEW)
    return extended if left < error / 2 else plain


def _expected_error(
    quantization: InputQuantization, seen: ChannelStatistics, weights: NDArray[np.float32]
) -> float:
    """Return the sum over the outputs of the mean squared error, each rounding off by step / sqrt(12)."""
    even = weights / quantization.factors[:, None]
    inputs = np.square(quantization.scale) * np.square(even).sum()
    steps = column_scales(even)
    products = np.square(steps).sum() * (seen.squares * np.square(quantization.factors)).sum() / seen.tokens
    return float(inputs + products) / 12


def _finest(
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    factors: NDArray[np.float32],
    columns: int,
    *,
    rectified: bool = False,
) -> InputQuantization:
    """Return the finest quantisation that holds every channel's range with at most so many overflow
    columns."""
    # Where more channels than there may be columns overflow on one side the scale is too fine,
    # whatever the others do: those furthest out decide.
    furthest = np.sort(low)[: columns + 1], np.sort(high)[-columns - 1 :]
    full = max(float(high.max() - low.min()), 1e-6) / _LEVELS
    # By bisection: at `full` a single range holds everything, up to what rounding the zero point moves it.
    fine, coarse = full / 256, float(np.float32(full * 1.02))
    zero_point, _ = _zero_point(*furthest, coarse, rectified=rectified)
    for _ in range(24):
        middle = float(np.float32((fine * coarse) ** 0.5))
        found, needed = _zero_point(*furthest, middle, rectified=rectified)
        if needed <= columns:
            coarse, zero_point = middle, found
        else:
            fine = middle
    room = _Room(coarse, np.array([zero_point]), rectified=rectified)
    up, down = (counts[:, 0] for counts in room.needed(low, high))
    if rectified:
        # A product runs in strips of outputs: what fills the last one costs nothing, so the channels with
        # the least room left get another column.
        spare = -(len(up) + int(up.sum())) % _STRIP
        up[np.argsort(room.above(up) - high, kind="stable")[:spare]] += 1
    return _quantization(np.float32(coarse), zero_point, factors, up, down, rectified=rectified)


def _zero_point(
    low: NDArray[np.float64], high: NDArray[np.float64], scale: float, *, rectified: bool
) -> tuple[int, int]:
    """Return the zero point that needs the fewest overflow columns at a scale, and how many."""
    up, down = _Room(scale, np.arange(_LEVELS + 1), rectified=rectified).needed(low, high)
    columns = (up + down).sum(axis=0)
    best = int(columns.argmin())
    return best, int(columns[best])


class _Room:
    """How far columns reach at a scale and some zero points."""

    def __init__(self, scale: float, zero_points: NDArray[np.int64], *, rectified: bool) -> None:
        self._half_step, self._rectified = scale / 2, rectified
        self._top, self._bottom = scale * (_LEVELS - zero_points), scale * zero_points
        # A rectified column stays at the zero point where it counts nothing, any other goes down to 0.
        self._column = (
            np.maximum(self._top, scale) if rectified else np.full(len(zero_points), _LEVELS * scale)
        )

    def above(self, columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how far so many columns above the main one, (channels,), reach at the first zero point."""
        return np.asarray(self._top[0] + self._column[0] * columns)

    def needed(
        self, low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the columns each channel needs above and below, (channels, zero points)."""
        # Half a step beyond the range is still rounded into it.
        above = np.maximum(0, high[:, None] - self._top - self._half_step)
        below = np.maximum(0, -low[:, None] - self._bottom - self._half_step)
        up, down = (np.ceil(beyond / self._column).astype(np.int64) for beyond in (above, below))
        # Nothing rectified counts downwards: more than there may ever be.
        return up, down * (len(low) if self._rectified else 1)


def _quantization(
    scale: np.float32,
    zero_point: int,
    factors: NDArray[np.float32],
    up: NDArray[np.int64],
    down: NDArray[np.int64],
    *,
    rectified: bool,
) -> InputQuantization:
    channels = np.concatenate([np.repeat(np.arange(len(need)), need) for need in (up, down)])
    # A channel's columns above it count from 255, 510, ... steps on; those below from as many before. Those
    # that are rectified stay at the zero point till then.
    levels = _LEVELS - zero_point if rectified else _LEVELS
    steps = np.concatenate([_ordinals(up) * -levels, _ordinals(down) * levels])
    idle = np.full(len(steps), zero_point) if rectified else np.where(steps < 0, 0, _LEVELS)
    return InputQuantization(
        scale,
        zero_point,
        factors,
        channels.astype(np.int32),
        (steps * np.float64(scale)).astype(np.float32),
        idle,
        rectified,
    )


def _ordinals(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 1 to n for each count n, end to end."""
    return np.arange(1, counts.sum() + 1) - np.repeat(np.cumsum(counts) - counts, counts)
