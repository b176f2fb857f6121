"""What a bundle is compared with: the checkpoint's own vectors, computed another way.

`reference_numpy` is a second implementation of BERT and MPNet, in float64 and NumPy alone, each text by
itself: it shares no graph, kernel or precision with what it judges, and lets every export be certified
without torch. `reference_torch` takes the token vectors of transformers' AutoModel instead. Both pool them by
formulas of their own, and take their token ids from the second reading of the checkpoint, not from the
engine. The parity tests hold the two against each other.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paritas.engine.bundle.directory import Bundle
from paritas.engine.bundle.manifest import Contract
from paritas.engine.tokenize.tokenizer import Tokenizer
from paritas.errors import ExportError, MissingExtraError, SourceError
from paritas.export.certificate.certify import compare_tokens, load_reference
from paritas.export.certificate.probes import Probe, tokenized
from paritas.export.checkpoint.facts import Facts, read_facts
from paritas.export.networks.encoder import Network, Parameters, open_network, relative_position_bias
from paritas.export.second_reading.reading import open_second_reading

Array = NDArray[np.float64]


def reference_numpy(facts: Facts, contract: Contract, probes: Sequence[Probe]) -> NDArray[np.float32]:
    """Return the checkpoint's vectors of the probes, computed in float64: float32, (probes, dim).

    Args:
        facts: the checkpoint's.
        contract: how vectors are made of token vectors.
        probes: with their token ids.

    Raises:
        SourceError, ExportError: as `open_network`; a token that the weights do not have.
    """
    network, parameters = open_network(facts.directory)
    _check_rows(network, probes, facts.directory)
    ends = np.cumsum([len(probe.input_ids) for probe in probes])
    spans = [slice(end - len(probe.input_ids), end) for end, probe in zip(ends, probes, strict=True)]
    hidden = _embed(network, parameters, probes)
    bias = None
    if network.buckets:
        bias = relative_position_bias(parameters["relative_attention_bias"], network.max_length)
    for index in range(network.layers):
        hidden = _Layer(network, parameters, f"layer.{index}", bias)(hidden, spans)
    states = [hidden[span] for span in spans]
    return _vectors(states, contract, facts.weights, probes)


def _check_rows(network: Network, probes: Sequence[Probe], directory: Path) -> None:
    """Refuse a tokenizer that is not the weights' own."""
    tables = [("token id", [probe.input_ids for probe in probes], network.vocab_size)]
    if network.token_types:
        tables.append(("token type", [probe.token_type_ids for probe in probes], network.token_types))
    for what, found, rows in tables:
        highest = max((max(numbers, default=0) for numbers in found), default=0)
        if highest >= rows:
            raise SourceError(
                f"{directory}: the tokenizer gives {what} {highest}, and the weights have {rows} of them"
            )


# From token vectors to vectors, a second time: each text by itself, in float64.

_POOLS: dict[str, Callable[[Array, Array], Array]] = {
    "cls": lambda states, _places: states[0],
    "max": lambda states, _places: states.max(axis=0),
    "mean": lambda states, _places: states.mean(axis=0),
    "mean_sqrt_len_tokens": lambda states, _places: states.sum(axis=0) / math.sqrt(len(states)),
    "weightedmean": lambda states, places: places @ states / places.sum(),
    "lasttoken": lambda states, _places: states[-1],
}
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "": lambda x: x,
    "tanh": lambda x: np.asarray(np.tanh(x)),
    "relu": lambda x: x * (x > 0),
    "gelu": lambda x: _gelu(x),  # noqa: PLW0108 - defined below
    "sigmoid": lambda x: np.asarray(0.5 * (1 + np.tanh(0.5 * x))),
}


def _vectors(
    states: Sequence[Array],
    contract: Contract,
    weights: Mapping[str, NDArray[np.float32]],
    probes: Sequence[Probe],
) -> NDArray[np.float32]:
    """Return the vectors of texts from all their tokens' states, (tokens, width) each."""
    pooled = zip(states, (probe.prompt_tokens for probe in probes), strict=True)
    vectors = np.stack([_pooled(text, skip, contract) for text, skip in pooled])
    for place, module in enumerate(contract.modules):
        if module.kind == "normalize":
            vectors = _unit(vectors)
        elif module.kind == "truncate":
            vectors = vectors[:, : module.dim]
        else:
            weight, bias = (weights[f"{place}.{name}"].astype(np.float64) for name in ("weight", "bias"))
            if module.kind == "dense":
                vectors = _ACTIVATIONS[module.activation](vectors @ weight.T + bias)
            else:
                deviation = np.sqrt(vectors.var(axis=1, keepdims=True) + module.epsilon)
                vectors = (vectors - vectors.mean(axis=1, keepdims=True)) / deviation * weight + bias
    return (_unit(vectors) if contract.normalize else vectors).astype(np.float32)


def _pooled(states: Array, skip: int, contract: Contract) -> Array:
    places = np.arange(1.0, len(states) + 1)
    modes = contract.pooling.split("+")
    return np.concatenate([_POOLS[mode](states[skip:], places[skip:]) for mode in modes])


def _unit(vectors: Array) -> Array:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


# The network in float64.


def _embed(network: Network, parameters: Parameters, probes: Sequence[Probe]) -> Array:
    """Return the embedding layer's output for all texts, end to end: (tokens, dim)."""
    words, positions = parameters["word_embeddings"], parameters["position_embeddings"]
    types = parameters["token_type_embeddings"] if network.token_types else None
    hidden = []
    for probe in probes:
        input_ids = np.array(probe.input_ids, np.int64)
        rows = np.arange(len(input_ids))
        if network.kind == "mpnet":
            is_token = input_ids != network.pad_token_id
            rows = np.cumsum(is_token) * is_token + network.pad_token_id
        total = words[input_ids].astype(np.float64) + positions[rows]
        if types is not None:
            total += types[np.array(probe.token_type_ids, np.int64)]
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
            wide[span] = _gelu(wide[span])
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


def _gelu(x: Array) -> Array:
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


def reference_torch(facts: Facts, contract: Contract, probes: Sequence[Probe]) -> NDArray[np.float32]:
    """Return the vectors of transformers' AutoModel, FP32: float32, (probes, dim).

    Args:
        facts: the checkpoint's.
        contract: how vectors are made of token vectors.
        probes: with their token ids.

    Raises:
        MissingExtraError: torch or transformers is not installed.
        SourceError: transformers cannot load the checkpoint, or its weights do not fit its configuration.
        ExportError: PyTorch cannot run one of the probes.
    """
    model = _load_torch(facts.directory)
    states = [_torch_states(model, probe) for probe in probes]
    return _vectors(states, contract, facts.weights, probes)


def reference_again(bundle: Bundle, directory: Path) -> NDArray[np.float32]:
    """Return PyTorch's vectors of a bundle's probes, anew from the checkpoint: float32, (probes, dim).

    Args:
        bundle: its probes, and its tokenizer, which is held against the checkpoint's first.
        directory: the checkpoint's.

    Raises:
        ParityError: the bundle's tokens are not the checkpoint's.
        SourceError, ExportError, MissingExtraError: as `read_facts` and `reference_torch`.
    """
    facts, contract = read_facts(directory), bundle.manifest.contract
    reading = open_second_reading(facts.directory, lowercase=facts.lowercase)
    probes = tokenized(load_reference(bundle)[0], contract, reading)
    compare_tokens(
        Tokenizer.of(bundle.directory, contract), contract, probes, bundle.manifest.model, reading.name
    )
    return reference_torch(facts, contract, probes)


def _load_torch(directory: Path) -> Any:
    try:
        import torch  # noqa: F401
        from transformers import AutoModel
    except ImportError as error:
        raise MissingExtraError(
            "the PyTorch reference needs torch and transformers; type: pip install 'paritas[optimum]'"
        ) from error
    try:
        # Code that comes with a checkpoint is never run.
        options = {"local_files_only": True, "trust_remote_code": False}
        model, info = AutoModel.from_pretrained(directory, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SourceError(f"{directory}: transformers cannot load it: {reason}") from error
    _check_loaded(model, info, directory)
    return model.eval().float()


def _check_loaded(model: Any, info: dict[str, Any], directory: Path) -> None:
    """Refuse what transformers only warns of: it makes up missing weights and ignores those left over.

    A pooler may be missing, as no vector here comes from it; heads of other tasks may be left over.
    """
    own = {name.partition(".")[0] for name in model.state_dict()}
    prefix = f"{model.base_model_prefix}."
    left_over = {name: name.removeprefix(prefix).partition(".")[0] for name in info["unexpected_keys"]}
    faults = [f"missing {name!r}" for name in info["missing_keys"] if "pooler" not in name]
    faults += [f"unexpected {name!r}" for name, part in left_over.items() if part in own]
    if faults:
        more = f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise SourceError(
            f"{directory}: the weights do not fit config.json: {'; '.join(sorted(faults)[:8])}{more}"
        )


def _torch_states(model: Any, probe: Probe) -> Array:
    """Return a text's token vectors: float64, (tokens, width)."""
    import torch

    given = {
        "input_ids": probe.input_ids,
        "attention_mask": [1] * len(probe.input_ids),
        "token_type_ids": probe.token_type_ids,
    }
    # Not every network takes token types.
    taken = inspect.signature(model.forward).parameters
    inputs = {name: torch.tensor([numbers]) for name, numbers in given.items() if name in taken}
    with torch.inference_mode():
        try:
            hidden = model(**inputs).last_hidden_state
        except (IndexError, RuntimeError) as error:
            # Too few positions, or a tokenizer of another model.
            raise ExportError(
                f"PyTorch cannot run {len(probe.input_ids)} tokens of role {probe.role}: {error}; "
                "max_position_embeddings of config.json may count positions that no token has; say the "
                "length in tokenizer_config.json (model_max_length) or in a registry entry"
            ) from error
    return np.asarray(hidden[0].numpy(), np.float64)
