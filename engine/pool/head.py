"""What comes after the graph: pooling, the modules behind it, and unit length; NumPy, float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from paritas.engine.bundle.manifest import MODULES, Contract, Module
from paritas.engine.pool.pooling import normalize, pool
from paritas.errors import BundleError

Vectors = NDArray[np.float32]

_erf = np.vectorize(math.erf, otypes=[np.float32])  # NumPy has none; a few hundred values a text

_ACTIVATIONS: dict[str, Callable[[Vectors], Vectors]] = {
    "": lambda x: x,
    "tanh": lambda x: np.asarray(np.tanh(x)),
    "relu": lambda x: np.asarray(np.maximum(x, np.float32(0))),
    "gelu": lambda x: np.asarray(np.float32(0.5) * x * (1 + _erf(x * np.float32(math.sqrt(0.5))))),
    "sigmoid": lambda x: np.asarray(1 / (1 + np.exp(-x))),
}


class Head:
    """A contract's way from last_hidden_state to vectors. May be used by many threads at once."""

    def __init__(self, contract: Contract, weights: Mapping[str, Vectors]) -> None:
        """Make it from arrays.

        Args:
            contract: what the vectors are.
            weights: of its modules, as `MODULES` names them.
        """
        self._contract = contract
        self._weights = weights
        self._steps = [_step(module, place, weights) for place, module in enumerate(contract.modules)]

    @classmethod
    def load(cls, contract: Contract, directory: Path) -> Head:
        """Make it from the files of a bundle's directory, taken as checked.

        Raises:
            BundleError: the weights of a module are missing or cannot be read.
        """
        if not contract.weighted:
            return cls(contract, {})
        path = directory / MODULES
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(contract, {name: arrays[name] for name in arrays.files})
        except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
            raise BundleError(f"{path}: cannot be read: {error!r}; export the model again") from error

    def dim(self, width: int) -> int | None:
        """Return the width of the vectors where token vectors have `width`; None where that does not fit."""
        dim = width * len(self._contract.pooling.split("+"))
        for place, module in enumerate(self._contract.modules):
            if module.kind == "truncate":
                dim = min(dim, module.dim)
            if not module.weighted:
                continue
            weight = self._weights[f"{place}.weight"]
            if weight.shape[-1] != dim:
                return None
            dim = len(weight)
        return dim

    def __call__(
        self, last_hidden_state: Vectors, attention_mask: NDArray[np.int64], *, prompt_tokens: int = 0
    ) -> Vectors:
        """Return the vectors of a batch: float32, (batch, dim).

        Args:
            last_hidden_state: float32, (batch, seq, width).
            attention_mask: int64, (batch, seq); the padding is to the right.
            prompt_tokens: tokens at the beginning of each text that are not pooled.
        """
        if prompt_tokens:
            attention_mask = attention_mask.copy()
            attention_mask[:, :prompt_tokens] = 0
        vectors = pool(last_hidden_state, attention_mask, pooling=self._contract.pooling, normalized=False)
        for step in self._steps:
            vectors = step(vectors)
        return normalize(vectors) if self._contract.normalize else vectors


def _step(module: Module, place: int, weights: Mapping[str, Vectors]) -> Callable[[Vectors], Vectors]:
    if module.kind == "normalize":
        return normalize
    if module.kind == "truncate":
        return lambda x: cut(x, module.dim, normalized=False)
    weight, bias = weights[f"{place}.weight"], weights[f"{place}.bias"]
    if module.kind == "layer_norm":
        return lambda x: _layer_norm(x, weight, bias, module.epsilon)
    activate = _ACTIVATIONS[module.activation]
    return lambda x: activate(_linear(x, weight, bias))


def _linear(x: Vectors, weight: Vectors, bias: Vectors) -> Vectors:
    """Return x W' + b, row by row: a matrix product's last bits depend on how many rows there are."""
    result = np.empty((len(x), len(weight)), np.float32)
    for row, vector in enumerate(x):
        np.dot(weight, vector, out=result[row])
    result += bias
    return result


def _layer_norm(x: Vectors, weight: Vectors, bias: Vectors, epsilon: float) -> Vectors:
    centred = x - x.mean(axis=1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + np.float32(epsilon))
    return np.asarray(scaled * weight + bias)


def cut(vectors: Vectors, dim: int, *, normalized: bool) -> Vectors:
    """Return the first `dim` channels of vectors, scaled to unit length again if `normalized`.

    For models trained so that the beginning of a vector serves alone (Kusupati et al. 2022, Matryoshka
    Representation Learning, arXiv:2205.13147).

    Args:
        vectors: float32, (batch, width).
        dim: channels to keep; no fewer where there are fewer.
        normalized: scale the rows.
    """
    if vectors.shape[1] <= dim:
        return vectors
    kept = np.ascontiguousarray(vectors[:, :dim])
    return normalize(kept) if normalized else kept
