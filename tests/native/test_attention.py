"""Attention against NumPy, in 64 bits and in its integers, and against the body for other machines."""

from __future__ import annotations

import itertools
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from paritas.export.graph.operators import ATTENTION, BIASED_ATTENTION, RELATIVE_ATTENTION, attention
from tests.native.compiling import FLAGS, NATIVE, compiled_for, compiles
from tests.native.products import Kernels, model_of, run, session

# Lengths around the tiles of queries (6) and vectors of keys (4, 8, 16); heads around 16 and 64 channels.
LENGTHS = (1, 2, 6, 7, 9, 15, 16, 17, 33, 64, 65, 166)
WIDTHS = (1, 4, 15, 16, 20, 32, 64, 80)
IN_C = Path(__file__).with_name("attention_in_c.c")
# The form that the kernels of this architecture have, and the other one.
FORMS = ("int16", "fp32") if platform.machine() == "x86_64" else ("fp32", "int16")
# Places between two integers, by token: 0 to 15 with their bits reversed.
EDGES = (np.array([int(f"{token:04b}"[::-1], 2) for token in range(16)]) - 7.5) / 16
# Off by at most so much, of the largest value: sums and exponentials in floats, and rounding to integers too.
BOUNDS = {"fp32": 5e-6, "int16": 1e-3}


def projections(texts: int, length: int, heads: int, width: int, seed: int = 1) -> NDArray[np.float32]:
    x = np.random.default_rng(seed).standard_normal((texts, length, 3 * heads * width), np.float32)
    x[..., : heads * width] /= np.sqrt(width)
    return x


def exact(x: NDArray[np.float32], heads: int, bias: NDArray[Any] | float = 0) -> NDArray[np.float64]:
    """softmax(q k' + bias) v, (batch, sequence, dim)."""
    texts, length, wide = x.shape
    parts = x.astype(np.float64).reshape(texts, length, 3, heads, wide // (3 * heads))
    query, key, value = parts.transpose(2, 0, 3, 1, 4)
    scores = query @ key.swapaxes(-1, -2) + bias
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    context = shares / shares.sum(axis=-1, keepdims=True) @ value
    return context.transpose(0, 2, 1, 3).reshape(texts, length, wide // 3)


def in_integers(x: NDArray[np.float32], heads: int, bias: NDArray[Any] | float = 0) -> NDArray[np.float64]:
    """The same of the integers that native/attention_int16.h rounds to, with exact exponentials."""
    texts, length, wide = x.shape
    width = wide // (3 * heads)
    query, key, value = x.reshape(texts, length, 3, heads, width).transpose(2, 0, 3, 1, 4)
    largest = min(32767, int(((2**31 - 1) / width) ** 0.5))
    queries, query_steps = rounded_rows(query, largest)
    keys, key_steps = rounded_rows(key, largest)
    values, value_steps = rounded_rows(value, 4095)
    scores = (queries @ keys.swapaxes(-1, -2)) * key_steps.swapaxes(-1, -2) * query_steps + bias
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = shares * value_steps.swapaxes(-1, -2)
    sums = weights.sum(axis=-1, keepdims=True)
    steps = np.maximum(weights.max(axis=-1, keepdims=True) / 32767, sums / 2**18)
    integers = np.rint(weights / steps + np.resize(EDGES, length))
    context = (
        integers @ values * (sums / integers.sum(axis=-1, keepdims=True) / shares.sum(axis=-1, keepdims=True))
    )
    return np.asarray(context.transpose(0, 2, 1, 3).reshape(texts, length, wide // 3))


def rounded_rows(rows: NDArray[np.float32], largest: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return integers, and the step of each row."""
    reach = np.abs(rows).max(axis=-1, keepdims=True)
    steps = reach * (np.float32(1) / np.float32(largest))
    factors = np.float32(largest) / np.maximum(reach, np.float32(1e-30))
    return np.rint(rows * factors).astype(np.float64), steps.astype(np.float64)


def check(
    found: NDArray[np.float32],
    x: NDArray[np.float32],
    heads: int,
    bias: NDArray[Any] | float = 0,
    form: str = FORMS[0],
) -> None:
    """Hold a kernel's context against NumPy's."""
    largest = float(np.abs(x[..., 2 * x.shape[-1] // 3 :]).max())
    np.testing.assert_allclose(found, exact(x, heads, bias), rtol=0, atol=BOUNDS[form] * largest)
    if form == "int16":
        # Where an exponential stands on an edge, a share is an integer apart.
        np.testing.assert_allclose(found, in_integers(x, heads, bias), rtol=0, atol=5e-5 * largest)


def opened(
    heads: int, kernels: Kernels | None, op_type: str = ATTENTION, *, axis: int = 1, threads: int = 1
) -> Any:
    inputs = ["x"] if op_type == ATTENTION else ["x", "added"]
    return session(model_of(attention(op_type, inputs, "y", heads, sequence_axis=axis), {}), kernels, threads)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_numpys_at_sizes_around_its_tiles(kernels: Kernels, length: int, width: int) -> None:
    x = projections(2, length, 3, width)
    check(run(opened(3, kernels), x), x, 3)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    "shape",
    [(4, 3, 21, 21), (1, 3, 21, 21), (4, 1, 1, 21), (4, 1, 21, 21), (3, 21, 21), (21,), (1, 1, 1, 21)],
)
def test_a_bias_is_added_whatever_it_is_shared_by(
    kernels: Kernels, shape: tuple[int, ...], axis: int
) -> None:
    x, bias = projections(4, 21, 3, 20), np.random.default_rng(2).standard_normal(shape, np.float32)
    given = x if axis else x.swapaxes(0, 1).copy()
    found = run(opened(3, kernels, BIASED_ATTENTION, axis=axis), given, added=bias)
    check(found if axis else found.swapaxes(0, 1), x, 3, bias)
    body = run(opened(3, None, BIASED_ATTENTION, axis=axis), given, added=bias)
    np.testing.assert_allclose(body if axis else body.swapaxes(0, 1), exact(x, 3, bias), rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("length", [1, 2, 7, 16, 33, 70])
def test_a_bias_by_distance_is_that_of_all_pairs(kernels: Kernels, length: int, axis: int) -> None:
    x = projections(3, length, 4, 20)
    window = np.random.default_rng(4).standard_normal((4, 2 * length - 1), np.float32)
    places = np.arange(length)
    bias = window[:, length - 1 + places - places[:, None]]
    given = x if axis else x.swapaxes(0, 1).copy()
    found = run(opened(4, kernels, RELATIVE_ATTENTION, axis=axis), given, added=window)
    assert np.array_equal(found, run(opened(4, kernels, BIASED_ATTENTION, axis=axis), given, added=bias))
    check(found if axis else found.swapaxes(0, 1), x, 4, bias)
    body = run(opened(4, None, RELATIVE_ATTENTION, axis=axis), given, added=window)
    np.testing.assert_allclose(body if axis else body.swapaxes(0, 1), exact(x, 4, bias), rtol=1e-5, atol=5e-6)


def test_the_body_without_a_bias() -> None:
    x = projections(3, 37, 4, 32)
    np.testing.assert_allclose(run(opened(4, None), x), exact(x, 4), rtol=1e-5, atol=5e-6)


def test_bits_depend_on_no_batch_no_thread_and_no_padding(kernels: Kernels) -> None:
    x = projections(9, 30, 4, 32)
    expected = run(opened(4, kernels), x)
    assert np.array_equal(run(opened(4, kernels, threads=2), x), expected)
    assert np.array_equal(run(opened(4, kernels), x[4:5]), expected[4:5])
    # Tokens that a mask takes out weigh exactly nothing, however large they are.
    padded = np.concatenate([x, projections(9, 19, 4, 32, seed=7) * np.float32(1e36)], axis=1)
    mask = np.zeros((9, 1, 1, 49), np.float32)
    mask[..., 30:] = np.finfo(np.float32).min
    found = run(opened(4, kernels, BIASED_ATTENTION), padded, added=mask)
    assert np.array_equal(found[:, :30], expected)


@compiles
@pytest.mark.parametrize("form", FORMS)
def test_bits_depend_on_no_width_of_registers(kernels: Kernels, form: str, tmp_path: Path) -> None:
    """In C, so that what other CPUs compute shows on any."""
    others = [in_c(kernels, form, width, tmp_path) for width in (4, 8, 16)]
    if form == FORMS[0]:
        others.append(kernels)
    for length, channels in ((1, 4), (13, 20), (33, 32), (70, 64)):
        x = projections(2, length, 3, channels)
        bias = np.random.default_rng(5).standard_normal((2, 1, 1, length), np.float32)
        found = [run(opened(3, one), x) for one in others]
        biased = [run(opened(3, one, BIASED_ATTENTION), x, added=bias) for one in others]
        check(found[0], x, 3, form=form)
        check(biased[0], x, 3, bias, form=form)
        assert all(np.array_equal(one, found[0]) for one in found)
        assert all(np.array_equal(one, biased[0]) for one in biased)


def in_c(kernels: Kernels, form: str, width: int, folder: Path) -> Kernels:
    """Return the kernels with attention of another form, or of registers of another width."""
    fused = ["-mavx2", "-mfma"] if platform.machine() == "x86_64" else []
    flags = [*FLAGS, *fused, "-fPIC", "-shared", f"-I{NATIVE}", f"-DREGISTER={width}"]
    flags += [f'-DFORM="attention_{form}.h"', f"-DOF_PAIRS={int(form == 'int16')}"]
    library = folder / f"{form}_{width}.so"
    compiled_for(kernels.name, library, *flags, attention=IN_C)
    return Kernels(kernels.name, library)


def test_scores_however_far_apart(kernels: Kernels) -> None:
    x = projections(1, 20, 2, 16) * np.float32(30)
    found = run(opened(2, kernels), x)
    assert np.isfinite(found).all()
    expected = {"fp32": exact, "int16": in_integers}[FORMS[0]](x, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)
    # All masked: all weigh the same, as in onnxruntime.
    mask = np.full((1, 1, 1, 20), np.finfo(np.float32).min)
    x = projections(1, 20, 2, 16)
    values = x[0, :, 64:].mean(axis=0)
    np.testing.assert_allclose(
        run(opened(2, kernels, BIASED_ATTENTION), x, added=mask)[0, 3], values, atol=1e-3
    )


def test_what_is_far_smaller_or_larger_than_all_else(kernels: Kernels) -> None:
    """Steps are a row's own: a token's values may be any number of times another's."""
    x = projections(2, 40, 2, 32)
    x[:, ::3] *= np.float32(1e-3)
    x[:, 7, 128:] *= np.float32(1e3)
    x[0, 9] = 0
    check(run(opened(2, kernels), x), x, 2)
    for scale in (1e-34, 1e-20, 1e12):
        scaled = x.copy()
        scaled[..., 128:] *= np.float32(scale)
        assert np.isfinite(run(opened(2, kernels), scaled)).all()
    nothing = np.zeros((1, 20, 96), np.float32)
    assert not run(opened(2, kernels), nothing).any()


@pytest.mark.parametrize("width", WIDTHS)
def test_sums_as_large_as_they_get(kernels: Kernels, width: int) -> None:
    """Channels, and values, that are all at the edge: of either sign, so that a sum beyond 31 bits shows."""
    signs = np.resize(np.array([1, -1], np.float32), 700)[:, None]
    x = np.concatenate([np.ones((700, width), np.float32), np.tile(signs, 2 * width)], axis=1)[None]
    check(run(opened(1, kernels), x), x, 1)
    same = np.ones_like(x)
    check(run(opened(1, kernels), same), same, 1)


@pytest.mark.parametrize("length", [64, 512, 2000])
def test_many_small_shares_beside_a_large_one_count(kernels: Kernels, length: int) -> None:
    """Each is less than half of an integer, all of them up to 6 % of the whole."""
    x = np.ones((1, length, 3), np.float32)
    x[..., 1] = 0
    x[0, 0, 1:] = 11.12, -1
    np.testing.assert_allclose(run(opened(1, kernels), x), exact(x, 1), rtol=0, atol=2e-3)


def test_shares_of_many_tokens_keep_their_precision(kernels: Kernels) -> None:
    """All weigh about the same, one two-thousandth: of 15 bits these would be 16 at most."""
    x = projections(1, 2000, 1, 16)
    x[..., :16] *= np.float32(0.01)
    found, expected = run(opened(1, kernels), x), exact(x, 1)
    assert np.sqrt(np.square(found - expected).mean() / np.square(expected).mean()) < 5e-3


def test_what_is_not_finite_shows_in_its_text_and_in_no_other(kernels: Kernels) -> None:
    x = projections(3, 20, 2, 16)
    expected = run(opened(2, kernels), x)
    for wrong, place in itertools.product((np.nan, np.inf, -np.inf, -np.nan), (32, 47, 64, 79)):
        changed = x.copy()
        changed[1, 4, place] = wrong  # a key, and a value, of the first head
        found = run(opened(2, kernels), changed)
        assert not np.isfinite(found[1, :, :16]).all()
        assert np.array_equal(found[[0, 2]], expected[[0, 2]])
        assert np.array_equal(found[1, :, 16:], expected[1, :, 16:])


def test_nothing_may_be_there(kernels: Kernels) -> None:
    assert run(opened(2, kernels), projections(0, 20, 2, 16)).shape == (0, 20, 32)
    assert run(opened(2, kernels), projections(3, 0, 2, 16)).shape == (3, 0, 32)


@pytest.mark.parametrize(
    ("shape", "op_type", "bias", "message"),
    [
        ((2, 20, 100), ATTENTION, None, r"3 \* heads \* channels\), with 2 heads"),
        ((20, 96), ATTENTION, None, r"must be \(batch, sequence"),
        ((2, 20, 96), BIASED_ATTENTION, (19,), r"the bias must be \(2, 2, 20, 20\), or 1"),
        ((2, 20, 96), BIASED_ATTENTION, (1,), r"the bias must be"),
        ((2, 20, 96), BIASED_ATTENTION, (3, 1, 1, 20), r"the bias must be"),
        ((2, 20, 96), BIASED_ATTENTION, (1, 2, 2, 20, 20), r"the bias must be"),
        ((2, 20, 96), RELATIVE_ATTENTION, (2, 38), r"the bias must be \(2, 39\)"),
        ((2, 20, 96), RELATIVE_ATTENTION, (2, 40), r"the bias must be"),
        ((2, 20, 96), RELATIVE_ATTENTION, (1, 39), r"the bias must be"),
        ((2, 20, 96), RELATIVE_ATTENTION, (78,), r"the bias must be"),
        ((2, 20, 96), RELATIVE_ATTENTION, (1, 2, 39), r"the bias must be"),
    ],
)
def test_shapes_that_do_not_fit_are_an_error_and_no_crash(
    kernels: Kernels, shape: tuple[int, ...], op_type: str, bias: tuple[int, ...] | None, message: str
) -> None:
    others = {} if bias is None else {"added": np.zeros(bias, np.float32)}
    with pytest.raises(Exception, match=message):
        run(opened(2, kernels, op_type), np.zeros(shape, np.float32), **others)


def test_more_tokens_than_integers_have_room_for_are_an_error(kernels: Kernels) -> None:
    with pytest.raises(Exception, match="a text has 262145 tokens; 262144 are the most"):
        run(opened(1, kernels), np.zeros((1, 2**18 + 1, 3), np.float32))


@pytest.mark.parametrize(
    ("heads", "axis", "op_type"),
    [
        (0, 1, BIASED_ATTENTION),
        (-1, 1, RELATIVE_ATTENTION),
        (2, 2, BIASED_ATTENTION),
        (2, -1, RELATIVE_ATTENTION),
        (2, 0, ATTENTION),
    ],
)
def test_attributes_that_mean_nothing_are_an_error(
    kernels: Kernels, heads: int, axis: int, op_type: str
) -> None:
    node = attention(op_type, ["x"] if op_type == ATTENTION else ["x", "added"], "y", 2)
    for attribute, value in ((node.attribute[0], heads), (node.attribute[1], axis)):
        assert attribute.name in ("heads", "sequence_axis")
        attribute.i = value
    with pytest.raises(Exception, match="expected one head or more, and a sequence axis of 1"):
        session(model_of(node, {}), kernels)


def test_more_heads_than_channels_are_an_error_and_no_crash(kernels: Kernels) -> None:
    for heads in (3, 1000, (2**64 + 2) // 3):
        with pytest.raises(Exception, match="projections must be"):
            run(opened(heads, kernels), np.zeros((1, 3, 6), np.float32))
