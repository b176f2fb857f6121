"""LinearInt8: our kernel against NumPy, to the last bit, and against the body that runs without it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from paritas.export.graph.operators import GROUP, PANEL, pack
from tests.native.products import Kernels, layer, model, product, rounded, run, session, values

# Around a group of inputs, half a panel, a panel, a tile of inputs and of panels, and the tiles of rows.
SIZES = (1, 3, 4, 5, 8, 9, 15, 16, 17, 31, 48, 64, 65, 129)
ROWS = (1, 2, 5, 6, 7, 12, 13, 16, 17, 32, 33, 67)


@pytest.mark.parametrize("inputs", SIZES)
@pytest.mark.parametrize("outputs", SIZES)
def test_the_kernel_is_numpys_product_to_the_last_bit(kernels: Kernels, inputs: int, outputs: int) -> None:
    constants = layer(inputs, outputs)
    opened = session(model(**constants), kernels)
    for rows in ROWS:
        x = values(rows, inputs, seed=rows)
        assert np.array_equal(run(opened, x), product(kernels, x, **constants))


@pytest.mark.parametrize(
    ("inputs", "outputs"), [(384, 1536), (768, 768), (3102, 768), (768, 3072), (32768, 5)]
)
def test_so_it_is_at_the_sizes_of_encoders(kernels: Kernels, inputs: int, outputs: int) -> None:
    constants = layer(inputs, outputs)
    opened = session(model(**constants), kernels, threads=2)
    for rows in (1, 14, 200, 700):
        x = values(rows, inputs, seed=rows)
        assert np.array_equal(run(opened, x), product(kernels, x, **constants))


def test_so_it_is_for_shapes_nobody_chose(kernels: Kernels) -> None:
    generator = np.random.default_rng(20)
    for seed in range(60):
        rows, inputs, outputs = (int(size) for size in generator.integers(1, [50, 700, 200]))
        constants = layer(inputs, outputs, seed)
        x = values(rows, inputs, seed=seed) * np.float32(10.0 ** generator.integers(-6, 6))
        assert np.array_equal(
            run(session(model(**constants), kernels, threads=1 + seed % 2), x),
            product(kernels, x, **constants),
        )


def test_bits_depend_on_no_batch_no_order_and_no_thread(kernels: Kernels) -> None:
    constants = layer(384, 400)
    one, two = session(model(**constants), kernels), session(model(**constants), kernels, threads=2)
    x = values(300, 384)
    expected = run(one, x)
    assert np.array_equal(run(two, x), expected)
    assert np.array_equal(run(two, x[::-1].copy()), expected[::-1])
    for row in (0, 7, 299):
        assert np.array_equal(run(two, x[row : row + 1]), expected[row : row + 1])
    # Rows that start anywhere in memory.
    shifted = np.empty(300 * 384 + 1, np.float32)[1:].reshape(300, 384)
    shifted[:] = x
    assert np.array_equal(run(one, shifted), expected)


def test_many_callers_at_once_get_the_same_bits(kernels: Kernels) -> None:
    opened = session(model(**layer(384, 384)), kernels, threads=2)
    inputs = [values(1 + place % 9, 384, seed=place) for place in range(40)]
    expected = [run(opened, x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            found = list(pool.map(lambda x: run(opened, x), inputs))
            assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_leading_axes_are_kept_and_may_be_empty(kernels: Kernels) -> None:
    constants = layer(32, 20)
    opened = session(model(**constants), kernels)
    x = values(3, 5, 32)
    assert np.array_equal(run(opened, x), product(kernels, x.reshape(15, 32), **constants).reshape(3, 5, 20))
    assert run(opened, x[0, 0]).shape == (20,)
    assert run(opened, x[:0]).shape == (0, 5, 20)


@pytest.mark.parametrize("optimized", [True, False])
def test_the_body_is_the_layer_in_fp32(optimized: bool) -> None:
    import onnxruntime

    constants = layer(50, 37)
    made = model(**constants)
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    x = values(9, 50)
    exact = x.astype(np.float64) @ (constants["weights"] * constants["scales"].astype(np.float64))
    found = run(onnxruntime.InferenceSession(made.SerializeToString(), options), x)
    np.testing.assert_allclose(found, exact + constants["bias"], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("inputs", [32, 384, 768, 3072])
def test_kernel_and_body_are_apart_by_what_rounding_inputs_allows(kernels: Kernels, inputs: int) -> None:
    constants = layer(inputs, 64)
    x = values(20, inputs)
    found, exact = run(session(model(**constants), kernels), x), run(session(model(**constants)), x)
    steps = rounded(kernels, x)[1]
    # Half a step an input at most; independent ones add up like a root.
    bound = steps * np.sqrt(inputs) * 127 * constants["scales"] + 1e-4
    assert (np.abs(found - exact) < bound).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 15, 36, 38])
def test_what_is_not_finite_shows_in_its_row_and_in_no_other(
    kernels: Kernels, wrong: float, place: int
) -> None:
    constants = layer(39, 20)
    x = values(7, 39)
    expected = product(kernels, x, **constants)
    x[3, place] = wrong
    found = run(session(model(**constants), kernels), x)
    assert np.isnan(found[3]).all()
    assert np.array_equal(np.delete(found, 3, 0), np.delete(expected, 3, 0))


def test_a_row_of_zeros_or_next_to_nothing_gives_the_bias(kernels: Kernels) -> None:
    constants = layer(39, 20)
    x = values(4, 39)
    x[0], x[1], x[2] = 1e-30, 1e-38, -0.0
    found = run(session(model(**constants), kernels), x)
    assert (found[:3] == constants["bias"]).all()


def extremes(inputs: int) -> NDArray[np.float32]:
    """Return rows that are rounded at the edges of what there is."""
    x = values(13, inputs) / 40
    x[0] = 1  # no five larger than the others
    x[1] = 0
    x[1, inputs // 2] = -3  # one alone
    x[2] = np.abs(x[2])  # one side alone
    x[3] = -np.abs(x[3])
    x[4, :2] = 1e7, -1e7  # so far off that the others are zeros
    x[5, :4] = -20, 20, -300, 300  # second digits of both signs, in one group
    x[6] *= np.float32(1e-33)
    x[7] *= np.float32(1e33)
    x[8, ::2] = 2  # ties across the edge of what stands apart
    x[9] = np.linspace(-1, 1, inputs)
    x[10, -1] = 5
    x[11, 5:] = 0
    # Second digits around what a signed byte holds.
    x[12] = np.linspace(-1, 1, inputs)
    x[12, :4] = np.array([127, -128, 128, -129]) * 256 / 127
    return x


@pytest.mark.parametrize("inputs", [6, 39, 64, 384])
def test_so_it_is_for_rows_at_the_edges(kernels: Kernels, inputs: int) -> None:
    constants = layer(inputs, 70)
    x = extremes(inputs)
    assert np.array_equal(run(session(model(**constants), kernels), x), product(kernels, x, **constants))


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        (
            {"weights": np.zeros((2, 8, 16, 4), np.int8)},
            r"for 40 outputs must be packed as \(3, groups, 16, 4\)",
        ),
        ({"weights": np.zeros((3, 7, 16, 4), np.int8)}, r"for 32 inputs must have 8 groups of 4, and have 7"),
        ({"weights": np.zeros((3, 0, 16, 4), np.int8)}, r"must be packed as \(3, groups, 16, 4\)"),
        ({"weights": np.zeros((32, 40), np.int8)}, r"must be packed as \(3, groups, 16, 4\)"),
        ({"sums": np.zeros(39, np.int32)}, "one value an output"),
        ({"bias": np.zeros(41, np.float32)}, "one value an output"),
        ({"scales": np.zeros((40, 1), np.float32)}, "one value an output"),
    ],
)
def test_shapes_that_do_not_fit_are_an_error_and_no_crash(
    kernels: Kernels, replaced: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(Exception, match=message):
        run(session(model(**layer(32, 40), replaced=replaced), kernels), values(2, 32))


def test_weights_that_a_graph_computes_are_an_error(kernels: Kernels) -> None:
    made = model(**layer(32, 40))
    scales = next(each for each in made.graph.initializer if each.name == "scales")
    made.graph.initializer.remove(scales)
    made.graph.input.append(helper.make_tensor_value_info("scales", TensorProto.FLOAT, [40]))
    with pytest.raises(Exception, match="LinearInt8, node 'y': input 3 must be an initializer of its graph"):
        session(made, kernels)


def test_so_is_a_width_that_does_not_fit(kernels: Kernels) -> None:
    opened = session(model(**layer(32, 40)), kernels)
    for x in (values(2, 36), values(2, 32)[:, :0]):
        with pytest.raises(Exception, match="LinearInt8: "):
            run(opened, x)


def test_packing_is_what_the_header_says() -> None:
    weights = layer(11, 18)["weights"]
    packed = pack(weights)
    assert (packed.shape, packed.dtype) == ((2, 3, PANEL, GROUP), np.int8)
    for row in range(11):
        for column in range(18):
            place = (column // PANEL, row // GROUP, column % PANEL, row % GROUP)
            assert packed[place] == weights[row, column]
    assert np.abs(packed.astype(int)).sum() == np.abs(weights.astype(int)).sum()
