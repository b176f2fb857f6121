"""What follows a product in one operator with it: GELU, or a residual and LayerNorm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.native.products import Kernels, layer, model, product, run, session, values

SIZES = [(7, 5, 3), (1, 64, 16), (13, 48, 100), (40, 384, 384), (5, 768, 3072), (300, 39, 17)]


def gelu(x: NDArray[np.float32]) -> NDArray[np.float64]:
    exact = x.astype(np.float64)
    return exact * (1 + np.vectorize(math.erf)(exact / math.sqrt(2))) / 2


def norm(x: NDArray[Any], scale: NDArray[np.float32], shift: NDArray[np.float32]) -> NDArray[np.float64]:
    exact = x.astype(np.float64)
    centred = exact - exact.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + 1e-5) * scale + shift


def norm_model(outputs: int, constants: dict[str, NDArray[Any]], **replaced: NDArray[Any]) -> Any:
    generator = np.random.default_rng(3)
    weights = {
        "norm_scale": generator.uniform(0.5, 2, outputs).astype(np.float32),
        "norm_shift": generator.standard_normal(outputs, np.float32),
    } | replaced
    made = model(**constants, replaced=weights, op_type="LinearNormInt8", epsilon=1e-5)
    return made, weights


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_gelu_is_that_of_the_products_within_its_bound(
    kernels: Kernels, rows: int, inputs: int, outputs: int
) -> None:
    constants = layer(inputs, outputs)
    x = values(rows, inputs)
    found = run(session(model(**constants, op_type="LinearGeluInt8"), kernels), x)
    exact = gelu(product(kernels, x, **constants))
    assert (np.abs(found - exact) <= 4e-6 * np.maximum(np.abs(product(kernels, x, **constants)), 1)).all()


def test_gelu_is_right_over_its_whole_range(kernels: Kernels) -> None:
    """A layer that passes one number on, from where GELU is 0 to where it is the number itself."""
    constants = {
        "weights": np.ones((1, 1), np.int8),
        "scales": np.ones(1, np.float32),
        "bias": np.zeros(1, np.float32),
    }
    x = np.linspace(-30, 30, 20001, dtype=np.float32)[:, None]
    found = run(session(model(**constants, op_type="LinearGeluInt8"), kernels), x)
    assert (np.abs(found - gelu(x)) <= 2e-5 * np.maximum(np.abs(x), 1)).all()
    assert (found[x > 6] > 5.99).all()


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_norm_is_that_of_products_and_residual(
    kernels: Kernels, rows: int, inputs: int, outputs: int
) -> None:
    constants = layer(inputs, outputs)
    made, weights = norm_model(outputs, constants)
    x, residual = values(rows, inputs), values(rows, outputs, seed=5)
    found = run(session(made, kernels, threads=2), x, residual=residual)
    exact = norm(product(kernels, x, **constants) + residual, **{k[5:]: v for k, v in weights.items()})
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("op_type", ["LinearGeluInt8", "LinearNormInt8"])
def test_bits_depend_on_no_batch_and_no_thread(kernels: Kernels, op_type: str) -> None:
    constants = layer(96, 400)
    made, x, residual = model(**constants, op_type=op_type), values(300, 96), {}
    if op_type == "LinearNormInt8":
        made, residual = norm_model(400, constants)[0], {"residual": values(300, 400, seed=5)}
    one, two = session(made, kernels), session(made, kernels, threads=2)
    expected = run(one, x, **residual)
    assert np.array_equal(run(two, x, **residual), expected)
    for row in (0, 16, 299):
        of_row = {name: value[row : row + 1] for name, value in residual.items()}
        assert np.array_equal(run(two, x[row : row + 1], **of_row), expected[row : row + 1])


@pytest.mark.parametrize("op_type", ["LinearGeluInt8", "LinearNormInt8"])
@pytest.mark.parametrize("optimized", [True, False])
def test_the_body_is_the_same_in_fp32(op_type: str, optimized: bool) -> None:
    import onnxruntime

    constants = layer(50, 37)
    made, x, residual = model(**constants, op_type=op_type), values(9, 50), {}
    exact = x.astype(np.float64) @ (constants["weights"] * constants["scales"].astype(np.float64))
    exact += constants["bias"]
    if op_type == "LinearNormInt8":
        made, weights = norm_model(37, constants)
        residual = {"residual": values(9, 37, seed=5)}
        expected = norm(exact + residual["residual"], **{k[5:]: v for k, v in weights.items()})
    else:
        expected = gelu(exact)
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    opened = onnxruntime.InferenceSession(made.SerializeToString(), options)
    np.testing.assert_allclose(run(opened, x, **residual), expected, rtol=1e-4, atol=1e-4)


def test_what_is_not_finite_shows_in_its_row_and_in_no_other(kernels: Kernels) -> None:
    constants = layer(39, 20)
    made, _ = norm_model(20, constants)
    x, residual = values(7, 39), values(7, 20, seed=5)
    for opened, others in (
        (session(made, kernels), {"residual": residual}),
        (session(model(**constants, op_type="LinearGeluInt8"), kernels), {}),
    ):
        expected = run(opened, x, **others)
        wrong = x.copy()
        wrong[3, 5] = np.nan
        found = run(opened, wrong, **others)
        assert np.isnan(found[3]).all()
        assert np.array_equal(np.delete(found, 3, 0), np.delete(expected, 3, 0))


def test_a_residual_or_a_norm_of_another_shape_is_an_error(kernels: Kernels) -> None:
    constants = layer(32, 40)
    made, _ = norm_model(40, constants)
    for shape in ((2, 39), (40,), (1, 2, 40), (3, 40), (80,), (40, 2)):
        with pytest.raises(Exception, match="the residual must have the output's shape"):
            run(session(made, kernels), values(2, 32), residual=values(*shape))
    made, _ = norm_model(40, constants, norm_scale=np.ones(39, np.float32))
    with pytest.raises(Exception, match="one value an output"):
        run(session(made, kernels), values(2, 32), residual=values(2, 40))
