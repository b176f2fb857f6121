"""What follows the network in a sentence-transformers checkpoint: pooling, and the modules after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from paritas.engine.bundle.manifest import Module
from paritas.errors import ExportError, SourceError
from paritas.export.checkpoint.files import CONFIG, MODULES, Fact, brief, read_json
from paritas.export.checkpoint.weights import open_weights
from paritas.registry import POOLINGS

_PACKAGE = "sentence_transformers."
_IDENTITY = "Dropout"  # does nothing once a model is trained
_AFTER_POOLING = ("Dense", "LayerNorm", "Normalize", _IDENTITY)

# The flags of older configurations, in the order in which several are joined.
_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
assert tuple(_FLAGS) == POOLINGS
_POOLING_KEYS = {
    "word_embedding_dimension",
    "embedding_dimension",
    "pooling_mode",
    "include_prompt",
    *_FLAGS.values(),
}

Activation = Literal["", "tanh", "relu", "gelu", "sigmoid"]
_ACTIVATIONS: dict[str, Activation] = {
    "torch.nn.modules.linear.Identity": "",
    "torch.nn.Identity": "",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.GELU": "gelu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.Sigmoid": "sigmoid",
}
_DENSE_KEYS = {
    "in_features",
    "out_features",
    "bias",
    "activation_function",
    "module_input_name",
    "module_output_name",
    "use_residual",
}
# torch.nn.LayerNorm's; the module has no key for it.
_LAYER_NORM_EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of modules.json."""

    kind: str
    """The class's own name, as in "Pooling"."""
    folder: str
    """Where its files lie, relative to the checkpoint; "" for the checkpoint itself."""


@dataclass(frozen=True, slots=True)
class Head:
    """What becomes of last_hidden_state."""

    pooling: Fact[str]
    pool_prompt: Fact[bool]
    modules: list[Module]
    """After pooling, but for a Normalize at the end."""
    weights: dict[str, NDArray[np.float32]]
    """Of the modules, as a bundle names them."""
    normalize: Fact[bool]
    dim: Fact[int] | None
    """The vectors' width; None where no module changes that of the pooled ones."""


def read_entries(directory: Path) -> list[Entry] | None:
    """Return the modules of a checkpoint in order, None where it has no modules.json.

    Raises:
        SourceError: modules.json cannot be read.
        ExportError: a module is not one that is exported, or they come in another order than they must.
    """
    path = directory / MODULES
    if not path.is_file():
        return None
    try:
        stated = msgspec.json.decode(path.read_bytes(), type=list[dict[str, Any]])
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error
    entries = [_entry(item, f"{path}: [{place}]") for place, item in enumerate(stated)]
    names = [str(item["name"]) for item in stated]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ExportError(f"{path}: two modules have the name {twice!r}; expected names that differ")
    kinds = [entry.kind for entry in entries]
    further = [kind for kind in kinds[2:] if kind not in _AFTER_POOLING]
    if kinds[:2] != ["Transformer", "Pooling"] or further:
        raise ExportError(
            f"{path}: the modules are {', '.join(kinds)}; expected Transformer and Pooling, and then only "
            f"{', '.join(_AFTER_POOLING)}: others are not exported"
        )
    return entries


def _entry(item: Mapping[str, Any], place: str) -> Entry:
    kind, folder = item.get("type"), item.get("path")
    name = item.get("name")
    if not isinstance(kind, str) or not isinstance(folder, str) or not isinstance(name, str) or not name:
        raise ExportError(f"{place}: expected a type, a path and a name, got {str(dict(item))[:80]}")
    if not kind.startswith(_PACKAGE):
        raise ExportError(
            f"{place}: type is {brief(kind)}; expected a module of sentence-transformers: code that "
            "comes with a checkpoint is never run"
        )
    parts = PurePosixPath(folder).parts
    if "\\" in folder or PurePosixPath(folder).is_absolute() or ".." in parts:
        raise ExportError(f"{place}: path is {brief(folder)}; expected a folder of the checkpoint")
    return Entry(kind.rpartition(".")[2], "/".join(part for part in parts if part != "."))


def read_head(directory: Path, entries: list[Entry]) -> Head:
    """Read pooling and what follows it.

    Raises:
        SourceError: a file is missing or cannot be read.
        ExportError: an option that is not exported; the message names file and key.
    """
    entries = [entry for entry in entries[1:] if entry.kind != _IDENTITY]
    pooling, pool_prompt = _pooling(directory / entries[0].folder / CONFIG)
    modules: list[Module] = []
    weights: dict[str, NDArray[np.float32]] = {}
    dim = None
    for place, entry in enumerate(entries[1:]):
        folder = directory / entry.folder
        if entry.kind == "Normalize":
            _check_names(folder / CONFIG)
            modules.append(Module("normalize"))
            continue
        module, weight, bias = _dense(folder) if entry.kind == "Dense" else _layer_norm(folder)
        modules.append(module)
        weights[f"{place}.weight"], weights[f"{place}.bias"] = weight, bias
        if entry.kind == "Dense":
            dim = Fact(len(weight), f"{folder / CONFIG}: out_features")
    normalize = bool(modules) and modules[-1].kind == "normalize"
    return Head(
        pooling=pooling,
        pool_prompt=pool_prompt,
        modules=modules[:-1] if normalize else modules,
        weights=weights,
        normalize=Fact(normalize, f"{directory / MODULES}: Normalize at the end"),
        dim=dim,
    )


def _pooling(path: Path) -> tuple[Fact[str], Fact[bool]]:
    stated = read_json(path)
    _check_keys(path, stated, _POOLING_KEYS)
    include = stated.get("include_prompt", True)
    prompt = Fact(bool(include), f"{path}: include_prompt")
    if not {"word_embedding_dimension", "embedding_dimension"} & set(stated):
        raise ExportError(f"{path}: embedding_dimension is missing; expected the width of the token vectors")
    named = stated.get("pooling_mode")
    if "pooling_mode" in stated:
        modes, key = [named] if isinstance(named, str) else named, "pooling_mode"
        if not isinstance(modes, list) or not modes:
            raise ExportError(
                f"{path}: pooling_mode is {brief(named)}; expected one or more of {', '.join(POOLINGS)}"
            )
    else:
        modes = [mode for mode, flag in _FLAGS.items() if stated.get(flag)]
        key = ", ".join(_FLAGS[mode] for mode in modes) or "no pooling_mode, which means mean"
    unknown = [mode for mode in modes if mode not in POOLINGS]
    if unknown:
        raise ExportError(
            f"{path}: pooling_mode is {brief(named)}; expected one or more of {', '.join(POOLINGS)}"
        )
    return Fact("+".join(modes) or "mean", f"{path}: {key}"), prompt


def _dense(folder: Path) -> tuple[Module, NDArray[np.float32], NDArray[np.float32]]:
    path = folder / CONFIG
    stated = read_json(path)
    _check_keys(path, stated, _DENSE_KEYS)
    _check_names(path)
    if stated.get("use_residual"):
        raise ExportError(
            f"{path}: use_residual is {brief(stated['use_residual'])}; expected none: it is not exported"
        )
    name = stated.get("activation_function", "torch.nn.modules.activation.Tanh")
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise ExportError(
            f"{path}: activation_function is {brief(name)}; expected one of {', '.join(_ACTIVATIONS)}"
        )
    shape = (_size(path, stated, "out_features"), _size(path, stated, "in_features"))
    names = {"linear.weight": shape, **({"linear.bias": shape[:1]} if stated.get("bias", True) else {})}
    arrays = _read(folder, names)
    bias = arrays.get("linear.bias", np.zeros(shape[0], np.float32))
    return Module("dense", _ACTIVATIONS[name]), arrays["linear.weight"], bias


def _layer_norm(folder: Path) -> tuple[Module, NDArray[np.float32], NDArray[np.float32]]:
    path = folder / CONFIG
    stated = read_json(path)
    _check_keys(path, stated, {"dimension"})
    shape = (_size(path, stated, "dimension"),)
    arrays = _read(folder, {"norm.weight": shape, "norm.bias": shape})
    return Module("layer_norm", epsilon=_LAYER_NORM_EPSILON), arrays["norm.weight"], arrays["norm.bias"]


def _read(folder: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float32]]:
    weights = open_weights(folder)
    shapes = dict(weights.shapes())
    if shapes != dict(expected):
        raise SourceError(f"{folder}: its weights are {shapes}; {CONFIG} asks for {dict(expected)}")
    arrays = {name: weights[name] for name in expected}
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise SourceError(f"{folder}: weight {brief(name)} holds NaN or infinite values")
    return arrays


def _size(path: Path, stated: Mapping[str, Any], key: str) -> int:
    value = stated.get(key)
    if not isinstance(value, int) or value < 1:
        raise SourceError(f"{path}: {key} is {brief(value)}; expected a positive integer")
    return value


def _check_keys(path: Path, stated: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(stated) - known)
    if unknown:
        raise ExportError(
            f"{path}: unknown key {unknown[0]!r}; expected {', '.join(sorted(known))}; a newer "
            "sentence-transformers may have written it"
        )


def _check_names(path: Path) -> None:
    """Refuse a module that reads or writes anything but the pooled vectors."""
    stated = read_json(path) if path.is_file() else {}
    for key in ("module_input_name", "module_output_name"):
        if stated.get(key) not in (None, "sentence_embedding"):
            raise ExportError(f"{path}: {key} is {brief(stated[key])}; expected 'sentence_embedding'")
