"""The encoder a second time: in float64 and NumPy alone, each text by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from paritas.export.networks.record import Network
from paritas.export.networks.weights import Parameters

Array = NDArray[np.float64]


def hidden_states(
    network: Network, parameters: Parameters, texts: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[Array]:
    """Return the last layer's output for each text: float64, (tokens, dim).

    Args:
        network: whose.
        parameters: its weights.
        texts: the token ids and token types of each.
    """
    ends = np.cumsum([len(input_ids) for input_ids, _ in texts])
    spans = [slice(end - len(input_ids), end) for end, (input_ids, _) in zip(ends, texts, strict=True)]
    hidden = _embed(network, parameters, texts)
    bias = None
    if network.position_bias is not None:
        bias = network.position_bias.by_distance(parameters["position_bias"], network.max_length)
    for index in range(network.layers):
        hidden = _Layer(network, parameters, f"layer.{index}", bias)(hidden, spans)
    return [hidden[span] for span in spans]


def _embed(
    network: Network, parameters: Parameters, texts: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> Array:
    """Return the embedding layer's output for all texts, end to end: (tokens, dim)."""
    words, positions = parameters["word_embeddings"], parameters["position_embeddings"]
    types = parameters["token_type_embeddings"] if network.token_types else None
    hidden = []
    for ids, type_ids in texts:
        input_ids = np.array(ids, np.int64)
        total = words[input_ids].astype(np.float64) + positions[network.positions.rows(input_ids)]
        if types is not None:
            total += types[np.array(type_ids, np.int64)]
        hidden.append(_norm(total, parameters, "embeddings_norm", network.norm_eps))
    return np.concatenate(hidden)


def _table(parameters: Parameters, name: str) -> Array:
    return parameters[name].astype(np.float64)


def _norm(x: Array, parameters: Parameters, name: str, eps: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    return np.asarray(scaled * parameters[f"{name}.weight"] + parameters[f"{name}.bias"])


class _Layer:
    """One encoder layer in float64. Texts lie end to end, (tokens, dim): only attention tells them apart."""

    def __init__(
        self, network: Network, parameters: Parameters, name: str, bias: NDArray[np.float32] | None
    ) -> None:
        self.network, self.parameters, self.name, self.bias = network, parameters, name, bias
        linears = ("query", "key", "value", "attention_output", "intermediate", "output")
        self.weights = {key: _table(parameters, f"{name}.{key}.weight") for key in linears}
        self.biases = {key: _table(parameters, f"{name}.{key}.bias") for key in linears}

    def __call__(self, x: Array, spans: Sequence[slice]) -> Array:
        eps = self.network.norm_eps
        query, key, value = (self._linear(name, x) for name in ("query", "key", "value"))
        context = [self._attention(query[span], key[span], value[span]) for span in spans]
        attended = self._linear("attention_output", np.concatenate(context))
        x = _norm(x + attended, self.parameters, f"{self.name}.attention_norm", eps)
        wide = self._linear("intermediate", x)
        for span in spans:  # a text at a time stays in the cache: a third of the time
            wide[span] = gelu(wide[span])
        widened = self._linear("output", wide)
        return _norm(x + widened, self.parameters, f"{self.name}.output_norm", eps)

    def _linear(self, key: str, x: Array) -> Array:
        return np.asarray(x @ self.weights[key].T + self.biases[key])

    def _attention(self, query: Array, key: Array, value: Array) -> Array:
        """One text's attention: (tokens, dim) each, and so is the result."""
        count, heads, width = len(query), self.network.heads, self.network.head_dim

        def split(x: Array) -> Array:
            return x.reshape(count, heads, width).transpose(1, 0, 2)

        scores = split(query) @ split(key).transpose(0, 2, 1) / math.sqrt(width)
        if self.bias is not None:
            offset = np.arange(count)[None, :] - np.arange(count)[:, None] + self.network.max_length - 1
            scores = scores + self.bias[:, offset]
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        return np.asarray((shares @ split(value)).transpose(1, 0, 2).reshape(count, -1))


def gelu(x: Array) -> Array:
    """Return x times the normal distribution's cumulative function at x."""
    return np.asarray(0.5 * x * (1.0 + _erf(x * math.sqrt(0.5))))


def _erf(x: Array) -> Array:
    """The error function to 1e-15, which NumPy lacks: a Taylor series around the nearest of many points."""
    values, slopes, step = _erf_table()
    near = np.minimum(np.abs(x), _ERF_END)
    index = np.rint(near / step).astype(np.intp)
    point = index * step
    t = near - point
    # erf'' = -2 x erf', and so on.
    series = t * (1 - t * (point - t * (2 * point * point - 1) / 3))
    return np.asarray(np.copysign(values[index] + slopes[index] * series, x))


_ERF_END = 6.0  # erf(6) is 1 to the last bit of float64


@cache
def _erf_table() -> tuple[Array, Array, float]:
    step = 1.0 / 2048
    grid = np.arange(0, _ERF_END + step, step)
    values = np.array([math.erf(x) for x in grid])
    return values, 2 / math.sqrt(math.pi) * np.exp(-(grid**2)), step
