"""What a bundle is compared with: the checkpoint's own vectors, computed another way.

`reference_numpy` takes the token vectors of the networks' second implementation, in float64 and NumPy alone.
It shares no graph, kernel or precision with what it judges, and lets every export be certified without torch.
`reference_torch` takes the token vectors of transformers' AutoModel instead. Both pool them by formulas of
their own. Both take their token ids from the second reading of the checkpoint, not from the engine. The
parity tests hold the two against each other.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
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
from paritas.export.networks.record import Network
from paritas.export.networks.reference import gelu, hidden_states
from paritas.export.networks.weights import open_network
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
    states = hidden_states(network, parameters, [(probe.input_ids, probe.token_type_ids) for probe in probes])
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
    "gelu": gelu,
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
