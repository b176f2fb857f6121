"""What comes after the graph, step by step, against plain float64."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from paritas.engine.bundle.manifest import MODULES, Contract, Module
from paritas.engine.pool.head import Head, cut
from paritas.errors import BundleError
from paritas.registry import Role

RANDOM = np.random.default_rng(7)
HIDDEN = RANDOM.standard_normal((5, 9, 16)).astype(np.float32)
MASK = (np.arange(9) < np.array([9, 1, 4, 7, 2])[:, None]).astype(np.int64)
WEIGHT = RANDOM.standard_normal((6, 16)).astype(np.float32)
BIAS = RANDOM.standard_normal(6).astype(np.float32)

FORMULAS = {
    "": lambda x: x,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def contract(*modules: Module, dim: int = 6, **fields: object) -> Contract:
    given = {"pooling": "mean", "normalize": False, **fields}
    return Contract("bert", dim, roles={"query": Role(12)}, modules=list(modules), **given)  # type: ignore[arg-type]


def mean(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.stack(
        [states[on > 0].astype(np.float64).mean(0) for states, on in zip(hidden, mask, strict=True)]
    )


@pytest.mark.parametrize("activation", FORMULAS)
def test_a_dense_module_is_a_product_a_bias_and_an_activation(activation: str) -> None:
    head = Head(contract(Module("dense", activation)), {"0.weight": WEIGHT, "0.bias": BIAS})  # type: ignore[arg-type]
    found = head(HIDDEN, MASK)
    assert found.dtype == np.float32
    expected = FORMULAS[activation](mean(HIDDEN, MASK) @ WEIGHT.astype(np.float64).T + BIAS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_text_has_the_same_bits_alone_and_in_a_batch() -> None:
    modules = Module("dense", "tanh"), Module("layer_norm", epsilon=1e-5)
    arrays = {"0.weight": WEIGHT, "0.bias": BIAS, "1.weight": BIAS + 1, "1.bias": BIAS}
    head = Head(contract(*modules, normalize=True), arrays)
    together = head(HIDDEN, MASK)
    for row in range(len(HIDDEN)):
        np.testing.assert_array_equal(together[row], head(HIDDEN[row : row + 1], MASK[row : row + 1])[0])


def test_layer_norm_and_normalisation_come_in_the_order_of_the_contract() -> None:
    arrays = {"1.weight": WEIGHT[0], "1.bias": WEIGHT[1]}
    head = Head(contract(Module("normalize"), Module("layer_norm", epsilon=0.1), dim=16), arrays)
    x = mean(HIDDEN, MASK)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 0.1) * WEIGHT[0] + WEIGHT[1]
    np.testing.assert_allclose(head(HIDDEN, MASK), x, rtol=0, atol=1e-5)


def test_a_prompts_tokens_can_be_left_out_of_the_pooling() -> None:
    mask = np.ones_like(MASK)
    found = Head(contract(dim=16), {})(HIDDEN, mask, prompt_tokens=3)
    np.testing.assert_allclose(found, HIDDEN[:, 3:].mean(1), rtol=0, atol=1e-6)
    assert mask.all()
    first = Head(contract(dim=16, pooling="cls"), {})(HIDDEN, mask, prompt_tokens=3)
    np.testing.assert_array_equal(first, HIDDEN[:, 3])
    weighted = Head(contract(dim=16, pooling="weightedmean"), {})(HIDDEN, mask, prompt_tokens=3)
    expected = np.average(HIDDEN[:, 3:], axis=1, weights=np.arange(4, 10))
    np.testing.assert_allclose(weighted, expected, rtol=0, atol=1e-6)


def test_the_width_follows_from_poolings_and_modules() -> None:
    wide = Head(
        contract(Module("dense"), pooling="cls+mean"),
        {"0.weight": np.zeros((6, 32), np.float32), "0.bias": BIAS},
    )
    assert wide.dim(16) == 6
    assert wide.dim(17) is None
    assert Head(contract(pooling="cls+mean+max"), {}).dim(16) == 48


def test_a_declared_cut_comes_after_normalisation() -> None:
    head = Head(contract(Module("normalize"), Module("truncate", dim=5), dim=5), {})
    x = mean(HIDDEN, MASK)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(head(HIDDEN, MASK), x[:, :5], rtol=0, atol=1e-6)
    assert head.dim(16) == 5


@pytest.mark.parametrize("normalized", [True, False])
def test_cut_vectors_are_the_first_channels(normalized: bool) -> None:
    vectors = RANDOM.standard_normal((4, 16)).astype(np.float32)
    expected = vectors[:, :5].astype(np.float64)
    if normalized:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(cut(vectors.copy(), 5, normalized=normalized), expected, rtol=0, atol=1e-6)
    assert cut(vectors, 16, normalized=normalized) is vectors


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_weights_that_cannot_be_read_are_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / MODULES).write_bytes(content)
    with pytest.raises(BundleError, match=r"modules\.npz: cannot be read: .*; export the model again"):
        Head.load(contract(Module("dense")), tmp_path)


def test_weights_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / MODULES, **{"0.weight": np.array([{}], dtype=object), "0.bias": BIAS})
    with pytest.raises(BundleError, match="allow_pickle"):
        Head.load(contract(Module("dense")), tmp_path)
