"""What a bundle's vectors are, from the registry's entry and the checkpoint, which must not contradict."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from paritas.engine.manifest import Contract
from paritas.errors import ExportError
from paritas.export.checkpoint.files import CONFIG, MODULES, POOLING, TOKENIZER, TOKENIZER_CONFIG, read_json
from paritas.export.networks import read_network
from paritas.registry import Model

# What transformers calls the options of its BERT and MPNet tokenizers, and what tokenizer.json does.
_NORMALIZER = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}

Frontend = Literal["native", "optimum"]


def contract_of(name: str, model: Model, directory: Path, frontend: Frontend) -> Contract:
    """Return the contract of a bundle made from a checkpoint.

    Args:
        name: the model's registry id.
        model: its registry entry.
        directory: the checkpoint's.
        frontend: how its graph will be made; the native one serves as many positions as it has rows for.

    Raises:
        ExportError: the entry does not fit the checkpoint.
    """
    config = read_json(directory / CONFIG)
    _check_network(name, model, config, directory, frontend)
    _check_pooling(name, model, directory)
    _check_normalize(name, model, directory)
    _check_tokenizer(directory)
    return Contract(
        network=model.network,
        dim=model.dim,
        pooling=model.pooling,
        normalize=model.normalize,
        roles=model.roles,
        settings=_settings(config),
    )


def _check_network(
    name: str, model: Model, config: dict[str, Any], directory: Path, frontend: Frontend
) -> None:
    for key, expected in (("model_type", model.network), ("hidden_size", model.dim)):
        # Networks that are not exported natively may name their width otherwise; the graph's is checked.
        if config.get(key, expected) != expected:
            raise ExportError(
                f"{directory / CONFIG}: {key} is {config.get(key)!r}, the registry's entry of "
                f"{name} says {expected!r}"
            )
    if frontend == "native":
        longest = read_network(config, str(directory / CONFIG)).max_length
    else:
        longest = int(config.get("max_position_embeddings", 1 << 30))
    for role, rule in model.roles.items():
        if rule.max_length > longest:
            raise ExportError(
                f"{name}: roles.{role}.max_length is {rule.max_length}; the checkpoint's position table "
                f"serves {longest} tokens"
            )


def _check_pooling(name: str, model: Model, directory: Path) -> None:
    """sentence-transformers checkpoints name their pooling; the registry must not contradict it."""
    if (directory / POOLING).exists():
        modes = _pooling_modes(read_json(directory / POOLING))
        if modes and modes != {model.pooling}:
            raise ExportError(
                f"{directory / POOLING}: the checkpoint pools by {', '.join(sorted(modes))}, the registry's "
                f"entry of {name} says {model.pooling!r}"
            )


def _check_normalize(name: str, model: Model, directory: Path) -> None:
    """What follows pooling in a sentence-transformers checkpoint must be what the engine does."""
    if not (directory / MODULES).exists():
        return
    kinds = _modules(directory / MODULES)
    further = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if further:
        raise ExportError(
            f"{directory / MODULES}: the checkpoint goes on with {', '.join(further)} after pooling, "
            "which is not exported"
        )
    if ("Normalize" in kinds) != model.normalize:
        raise ExportError(
            f"{directory / MODULES}: the checkpoint {'ends' if 'Normalize' in kinds else 'does not end'} "
            f"in Normalize, the registry's entry of {name} says normalize: {str(model.normalize).lower()}"
        )


def _pooling_modes(stated: dict[str, Any]) -> set[str]:
    """Read both forms: flags such as pooling_mode_mean_tokens, and from release 5 on one name or several."""
    named = stated.get("pooling_mode")
    if named is not None:
        return {named} if isinstance(named, str) else set(named)
    flags = {key.removeprefix("pooling_mode_") for key, on in stated.items() if on is True}
    short = {"cls_token": "cls", "mean_tokens": "mean"}
    return {short.get(flag, flag) for flag in flags if f"pooling_mode_{flag}" in stated}


def _modules(path: Path) -> list[str]:
    """Return the kinds of modules a sentence-transformers checkpoint is made of, in order."""
    try:
        modules = msgspec.json.decode(path.read_bytes(), type=list[dict[str, Any]])
    except (OSError, msgspec.DecodeError) as error:
        raise ExportError(f"{path}: cannot be read: {error}") from error
    return [str(module.get("type", "")).rpartition(".")[2] for module in modules]


def _check_tokenizer(directory: Path) -> None:
    """transformers lets tokenizer_config.json overrule tokenizer.json; the engine reads the latter alone."""
    if not (directory / TOKENIZER_CONFIG).exists():
        return
    stated = read_json(directory / TOKENIZER_CONFIG)
    normalizer = read_json(directory / TOKENIZER).get("normalizer") or {}
    for option, ours in _NORMALIZER.items():
        if option in stated and ours in normalizer and stated[option] != normalizer[ours]:
            raise ExportError(
                f"{directory / TOKENIZER_CONFIG}: {option} is {stated[option]}, but {TOKENIZER} has {ours}: "
                f"{normalizer[ours]}; transformers follows the former; make the two agree"
            )


def _settings(config: dict[str, Any]) -> dict[str, str]:
    """What of config.json changes the vectors of given weights and shows in no tensor's shape."""
    depth = ("num_hidden_layers", "n_layers")  # of a checkpoint's layers, those that are used
    keys = (*depth, "num_attention_heads", "n_heads", "layer_norm_eps", "hidden_act", "activation")
    return {key: str(config[key]) for key in keys if key in config}
