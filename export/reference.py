"""What a bundle is compared with: the checkpoint's own vectors, computed another way.

`reference_numpy` is a second implementation of BERT and MPNet, in float64 and NumPy alone, each text by
itself: it shares no graph, kernel or precision with what it judges, and lets every export be certified
without torch. `reference_torch` is transformers' AutoModel and AutoTokenizer with the pooling of the model
cards. The parity tests hold the two against each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paritas.engine.manifest import Contract
from paritas.engine.tokenizer import Tokenizer, Tokens, check_texts
from paritas.errors import ExportError, MissingExtraError, SourceError
from paritas.export.networks import Network, Parameters, open_network, relative_position_bias
from paritas.export.probes import Probe

Array = NDArray[np.float64]


def reference_numpy(
    directory: Path, contract: Contract, tokenizer: Tokenizer, probes: Sequence[Probe]
) -> NDArray[np.float32]:
    """Return the checkpoint's vectors of the probes, computed in float64: float32, (probes, dim).

    Raises:
        SourceError, ExportError: as `open_network`; a token that the weights do not have.
    """
    network, parameters = open_network(directory)
    tokens = []
    for probe in probes:
        texts = check_texts([probe.text], contract.roles[probe.role])
        tokens.append(tokenizer.encode(texts, probe.role))
        _check_rows(network, tokens[-1], directory)
    ends = np.cumsum([len(text.input_ids) for text in tokens])
    spans = [slice(end - len(text.input_ids), end) for end, text in zip(ends, tokens, strict=True)]
    hidden = _embed(network, parameters, tokens)
    bias = None
    if network.buckets:
        bias = relative_position_bias(parameters["relative_attention_bias"], network.max_length)
    for index in range(network.layers):
        hidden = _Layer(network, parameters, f"layer.{index}", bias)(hidden, spans)
    outputs = [hidden[span] for span in spans]
    pooled = [states[0] if contract.pooling == "cls" else states.mean(axis=0) for states in outputs]
    vectors = np.stack(pooled)
    if contract.normalize:
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors.astype(np.float32)


def _check_rows(network: Network, tokens: Tokens, directory: Path) -> None:
    """Refuse a tokenizer that is not the weights' own."""
    tables = [("token id", tokens.input_ids, network.vocab_size)]
    if network.token_types:
        tables.append(("token type", tokens.token_type_ids, network.token_types))
    for what, found, rows in tables:
        highest = int(found.max(initial=0))
        if highest >= rows:
            raise SourceError(
                f"{directory}: tokenizer.json gives {what} {highest}, and the weights have {rows} of them"
            )


def _embed(network: Network, parameters: Parameters, tokens: Sequence[Tokens]) -> Array:
    """Return the embedding layer's output for all texts, end to end: (tokens, dim)."""
    words, positions = parameters["word_embeddings"], parameters["position_embeddings"]
    types = parameters["token_type_embeddings"] if network.token_types else None
    hidden = []
    for text in tokens:
        rows = np.arange(len(text.input_ids))
        if network.kind == "mpnet":
            is_token = text.input_ids != network.pad_token_id
            rows = np.cumsum(is_token) * is_token + network.pad_token_id
        total = words[text.input_ids].astype(np.float64) + positions[rows]
        if types is not None:
            total += types[text.token_type_ids]
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


def reference_torch(directory: Path, contract: Contract, probes: Sequence[Probe]) -> NDArray[np.float32]:
    """Return the vectors of transformers' AutoModel and AutoTokenizer, FP32: float32, (probes, dim).

    Raises:
        MissingExtraError: torch or transformers is not installed.
        SourceError: transformers cannot load the checkpoint, or its weights do not fit its configuration.
        ExportError: PyTorch cannot run one of the probes.
    """
    model, tokenizer = _load_torch(directory)
    return np.stack([_torch_vector(model, tokenizer, contract, probe) for probe in probes])


def _load_torch(directory: Path) -> tuple[Any, Any]:
    try:
        import torch  # noqa: F401
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise MissingExtraError(
            "the PyTorch reference needs torch and transformers; type: pip install 'paritas[optimum]'"
        ) from error
    try:
        # Code that comes with a checkpoint is never run.
        options = {"local_files_only": True, "trust_remote_code": False}
        model, info = AutoModel.from_pretrained(directory, output_loading_info=True, **options)
        tokenizer = AutoTokenizer.from_pretrained(directory, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise SourceError(f"{directory}: transformers cannot load it: {error}") from error
    _check_loaded(model, info, directory)
    return model.eval().float(), tokenizer


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


def _torch_vector(model: Any, tokenizer: Any, contract: Contract, probe: Probe) -> NDArray[np.float32]:
    import torch

    role = contract.roles[probe.role]
    text = check_texts([probe.text], role)[0]
    # As batches of one: asked for a single pair, transformers takes an empty second text for no pair at
    # all, asked for a batch it keeps it.
    parts = [[part] for part in (text if isinstance(text, tuple) else (text,))]
    inputs = tokenizer(*parts, truncation=True, max_length=role.max_length, return_tensors="pt")
    with torch.inference_mode():
        try:
            hidden = model(**inputs).last_hidden_state
        except (IndexError, RuntimeError) as error:
            # Too few positions, or a tokenizer of another model.
            raise ExportError(
                f"PyTorch cannot run {inputs['input_ids'].shape[1]} tokens of role {probe.role}: {error}; "
                "does the tokenizer belong to the weights, and does max_length fit their positions?"
            ) from error
        if contract.pooling == "cls":
            vector = hidden[:, 0]
        else:
            mask = inputs["attention_mask"].unsqueeze(-1).float()
            vector = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        if contract.normalize:
            vector = torch.nn.functional.normalize(vector, p=2, dim=1)
    return np.asarray(vector[0].numpy())
