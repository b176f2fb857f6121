"""Weights that stand apart from the packed ones: what they add, in every operator with a product."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.native.products import Kernels, layer, model, product, run, session, values
from tests.native.test_following import gelu, norm, norm_model

# Rows around those that are rounded together (8), outputs around a part of a layer's.
SIZES = ((1, 5, 3), (7, 39, 20), (9, 384, 400), (33, 768, 64), (300, 100, 3072))


def apart(inputs: int, outputs: int, count: int = 24) -> dict[str, NDArray[Any]]:
    """Return places, some of one input or of one output, the first and the last ones too, and weights."""
    generator = np.random.default_rng(9)
    places = generator.integers(0, [inputs, outputs], (count, 2))
    places[:3] = (0, 0), (inputs - 1, outputs - 1), (0, outputs - 1)
    weights = generator.standard_normal(count, np.float32) * np.float32(9)
    return {"outlier_places": places.astype(np.int32), "outlier_weights": weights}


def with_outliers(
    y: NDArray[np.float32], x: NDArray[np.float32], outliers: dict[str, NDArray[Any]]
) -> NDArray[np.float32]:
    """Return products and what outliers add to them, each operation rounded once, in their order."""
    y = y.copy()
    for (place, output), weight in zip(*outliers.values(), strict=True):
        y[:, output] += x[:, place] * weight
    return y


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_they_are_added_to_the_last_bit(kernels: Kernels, rows: int, inputs: int, outputs: int) -> None:
    constants, outliers = layer(inputs, outputs), apart(inputs, outputs)
    x = values(rows, inputs)
    expected = with_outliers(product(kernels, x, **constants), x, outliers)
    for threads in (1, 2):
        opened = session(model(**constants, replaced=outliers), kernels, threads)
        assert np.array_equal(run(opened, x), expected)
        assert np.array_equal(run(opened, x[-1:]), expected[-1:])


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_what_follows_a_product_has_them(kernels: Kernels, rows: int, inputs: int, outputs: int) -> None:
    constants, outliers = layer(inputs, outputs), apart(inputs, outputs)
    x, residual = values(rows, inputs), values(rows, outputs, seed=5)
    y = with_outliers(product(kernels, x, **constants), x, outliers)
    found = run(session(model(**constants, replaced=outliers, op_type="LinearGeluInt8"), kernels), x)
    assert (np.abs(found - gelu(y)) <= 4e-6 * np.maximum(np.abs(y), 1)).all()
    made, weights = norm_model(outputs, constants, **outliers)
    exact = norm(y + residual, weights["norm_scale"], weights["norm_shift"])
    np.testing.assert_allclose(
        run(session(made, kernels, 2), x, residual=residual), exact, rtol=1e-5, atol=2e-5
    )


def test_bodies_have_them_on_top_of_the_packed_ones() -> None:
    constants, outliers = layer(39, 20), apart(39, 20)
    x, residual = values(7, 39), values(7, 20, seed=5)
    matrix = constants["weights"] * constants["scales"].astype(np.float64)
    np.add.at(matrix, tuple(outliers["outlier_places"].T), outliers["outlier_weights"])
    exact = x @ matrix + constants["bias"]
    found = run(session(model(**constants, replaced=outliers)), x)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-3)
    found = run(session(model(**constants, replaced=outliers, op_type="LinearGeluInt8")), x)
    np.testing.assert_allclose(found, gelu(exact), rtol=1e-5, atol=1e-3)
    made, weights = norm_model(20, constants, **outliers)
    expected = norm(exact + residual, weights["norm_scale"], weights["norm_shift"])
    np.testing.assert_allclose(run(session(made), x, residual=residual), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op_type", ["LinearInt8", "LinearGeluInt8", "LinearNormInt8"])
def test_nodes_of_former_bundles_have_none(kernels: Kernels, op_type: str) -> None:
    constants = layer(32, 40)
    made = (
        norm_model(40, constants)[0] if op_type == "LinearNormInt8" else model(**constants, op_type=op_type)
    )
    given = {"residual": values(3, 40)} if op_type == "LinearNormInt8" else {}
    expected = run(session(made, kernels), values(3, 32), **given)
    (node,) = made.graph.node
    del node.input[-2:]
    node.attribute.remove(next(one for one in node.attribute if one.name == "outliers"))
    for function in made.functions:  # which had other bodies
        del function.input[-2:]
        function.attribute.remove("outliers")
        for inner in function.node:
            if inner.op_type == "LinearInt8":
                del inner.input[-2:]
                inner.attribute.remove(next(one for one in inner.attribute if one.name == "outliers"))
        if function.name == "LinearInt8":
            kept = [inner for inner in function.node if inner.output[0] not in ("places", "exact")]
            next(inner for inner in kept if inner.op_type == "MatMul").input[1] = "dequantized"
            del function.node[:]
            function.node.extend(kept)
    assert np.array_equal(run(session(made, kernels), values(3, 32), **given), expected)


@pytest.mark.parametrize(
    ("places", "weights", "message"),
    [
        ([[32, 0]], [1], "an outlier is of input 33 of 32"),
        ([[-1, 0]], [1], "of no input or of no output"),
        ([[0, 40]], [1], "of no input or of no output"),
        ([[0, -1]], [1], "of no input or of no output"),
        ([[0, 0], [1, 1]], [1], "an input, an output and a weight each"),
        ([[0]], [1], "an input, an output and a weight each"),
        ([0, 0], [1], "an input, an output and a weight each"),
    ],
)
def test_what_the_layer_has_not_is_an_error_and_no_crash(
    kernels: Kernels, places: list[Any], weights: list[float], message: str
) -> None:
    outliers = {
        "outlier_places": np.array(places, np.int32),
        "outlier_weights": np.array(weights, np.float32),
    }
    with pytest.raises(Exception, match=message):
        run(session(model(**layer(32, 40), replaced=outliers), kernels), values(2, 32))


@pytest.mark.parametrize("computed", ["outlier_places", "outlier_weights"])
def test_those_that_a_graph_computes_are_an_error(kernels: Kernels, computed: str) -> None:
    outliers = apart(32, 40)
    made = model(**layer(32, 40), replaced=outliers)
    made.graph.initializer.remove(next(each for each in made.graph.initializer if each.name == computed))
    kind = TensorProto.INT32 if computed == "outlier_places" else TensorProto.FLOAT
    made.graph.input.append(helper.make_tensor_value_info(computed, kind, outliers[computed].shape))
    with pytest.raises(Exception, match=r"input [56] must be an initializer of its graph"):
        session(made, kernels)


def test_an_input_that_is_not_finite_shows_in_its_row_and_in_no_other(kernels: Kernels) -> None:
    constants, outliers = layer(39, 20), apart(39, 20)
    x = values(7, 39)
    opened = session(model(**constants, replaced=outliers), kernels)
    expected = run(opened, x)
    x[3, 0] = np.inf
    found = run(opened, x)
    assert np.isnan(found[3]).all()
    assert np.array_equal(np.delete(found, 3, 0), np.delete(expected, 3, 0))
