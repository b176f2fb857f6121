"""The models paritas knows, parsed once from YAML into frozen records.

`models_registry.yaml` is data: pooling, lengths and sources are fields of a model, never a
consequence of which code runs it. msgspec checks names and types and says where they are wrong.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from paritas import files
from paritas.arguments import pathname, wrong
from paritas.errors import RegistryError, did_you_mean

ENVIRONMENT_VARIABLE = "PARITAS_REGISTRY"

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""By sentence-transformers' names."""
Pooling = str
"""One of them, or several whose vectors are joined end to end, as in "cls+mean"; see `check_pooling`."""
Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")

_MOST = 2**31 - 1
_Positive = Annotated[int, Meta(gt=0, le=_MOST)]
_Length = Annotated[int, Meta(ge=4, le=_MOST)]
_Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
# An id names a folder of the store, so it must be a plain name.
_ModelId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Role(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a text of one role is tokenised."""

    max_length: _Length
    """Tokens, special ones included (a pair has three)."""
    pair: bool = False
    """The text is the second half of the pair (title, text)."""
    default_title: str = ""
    """The title of a pair that has none."""
    prompt: str = ""
    """What is put in front of every text, as in "query: "."""


class RoleEntry(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an entry says of a role; the checkpoint says the rest."""

    max_length: _Length | None = None
    pair: bool = False
    default_title: str = ""
    prompt: str | None = None


class HubSource(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A repository on a model hub."""

    repo: str
    revision: str
    """A commit; or a branch or tag, which is resolved to one when it is fetched."""


class PackageSource(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Installed Python distributions that carry the checkpoint."""

    distributions: Annotated[list[str], Meta(min_length=1)]
    path: str
    """The checkpoint's folder, in site-packages or inside the archive."""
    archive: list[str] = []
    """Parts of a zip archive, in order; empty where the checkpoint lies there as a folder."""


class Sources(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the checkpoint can be had; each is the same checkpoint, or its digests would differ."""

    hub: HubSource | None = None
    package: PackageSource | None = None


class Bound(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a precision's vectors must show against the checkpoint's, after normalisation."""

    max_abs_diff: float | None = None
    min_cosine: float | None = None
    mean_cosine: float | None = None


# Of vectors of length 1.
_RANGES = {"max_abs_diff": (0, 2), "min_cosine": (-1, 1), "mean_cosine": (-1, 1)}
_BOUNDS: dict[Precision, Bound] = {
    # Twelve layers in float32 stay within 1e-6 of float64 on the probes; 1e-5 leaves room for other
    # CPUs' kernels, and a wrong epsilon, mask or position is orders of magnitude above it.
    "fp32": Bound(max_abs_diff=1e-5),
    # Rounding every weight to 11 bits costs less than 1e-6 of cosine on the probes.
    "fp16": Bound(min_cosine=0.9999),
    # Twelve layers of 8-bit products lose about 0.001 (docs/int8.md); a model that loses more than this ranks
    # visibly differently, and says so here instead of in production.
    "int8": Bound(mean_cosine=0.996, min_cosine=0.985),
}


Overridable = Literal["pooling", "normalize", "max_length", "prompt"]
"""What an entry may say otherwise than the checkpoint."""


class Model(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One entry of the registry: a name, where the checkpoint is, and what is to be known or changed of it.

    What the entry leaves out is the checkpoint's. What it says must be what the checkpoint says, unless
    `overrides` names it.
    """

    network: str | None = None
    dim: _Positive | None = None
    pooling: Pooling | None = None
    roles: dict[str, RoleEntry] = {}
    normalize: bool | None = None
    sources: Sources = Sources()
    digests: dict[str, _Sha256] = {}
    bounds: dict[Precision, Bound] = {}
    overrides: list[Overridable] = []
    """What is meant to differ from the checkpoint."""
    license: str = "not stated"
    paper: str | None = None

    def bound(self, precision: Precision) -> Bound:
        """Return the entry's own bound for a precision, else the default one."""
        return self.bounds.get(precision, _BOUNDS[precision])


def check_pooling(pooling: str) -> str | None:
    """Return what is wrong with a pooling, None where it is one."""
    parts = pooling.split("+") if isinstance(pooling, str) else [str(pooling)]
    unknown = next((part for part in parts if part not in POOLINGS), None)
    if unknown is None:
        return None
    return (
        f"pooling is {pooling!r}; expected one of {', '.join(POOLINGS)}, or several joined by +"
        f"{did_you_mean(unknown, POOLINGS).partition('; known')[0]}"
    )


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    models: dict[_ModelId, Any]
    """By id; each becomes a `Model` by itself, so that an error can name it."""


_T = TypeVar("_T")

_STRUCTS = (_File, Model, RoleEntry, Sources, HubSource, PackageSource, Bound)


class Registry(Mapping[str, Model]):
    """Models by id, in the order of their files."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        """Take models by id.

        Raises:
            InputError: something else.
        """
        if not isinstance(models, Mapping):
            raise wrong("models", models, "models by id; for a file type: load_registry(path)")
        self._models = dict(models)
        for name, model in self._models.items():
            if not isinstance(name, str) or not isinstance(model, Model):
                raise wrong(f"models[{name!r}]", model, "a Model under its id")

    def __getitem__(self, name: str) -> Model:
        """Return the model of that id.

        Raises:
            RegistryError: no such model; the message names the nearest one.
        """
        try:
            return self._models[name]
        except (KeyError, TypeError):
            name = name if isinstance(name, str) else repr(name)
            raise RegistryError(f"unknown model {name!r}{did_you_mean(name, self._models)}") from None

    # Mapping's own would ask __getitem__ and wait for a KeyError; so would get().
    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._models

    def get(self, name: str, default: Any = None) -> Any:
        """Return the model of that id, or the default."""
        return self._models[name] if name in self else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)


def load_registry(path: str | os.PathLike[str] | None = None) -> Registry:
    """Return the built-in models and, over them, those of the caller's own file.

    Args:
        path: a YAML file of the same form; the environment's PARITAS_REGISTRY where None.

    Raises:
        RegistryError: a file that cannot be read or parsed, an unknown key, a wrong type.
        InputError: `path` is no path.
    """
    extra = path if path is not None else os.environ.get(ENVIRONMENT_VARIABLE) or None
    models = _parse(_builtin_path())
    if extra is not None:
        models = {**models, **_parse(Path(pathname("path", extra, "a YAML file's path, or None")))}
    return Registry(models)


def _builtin_path() -> Path:
    packaged = Path(__file__).with_name("models_registry.yaml")
    return packaged if packaged.exists() else Path(__file__).parents[2] / "models_registry.yaml"


@cache
def _parse_text(text: str, place: str) -> dict[str, Model]:
    # An encoder needs the records above, and seldom the file: 30 ms of its process's first half second.
    from paritas.strict_yaml import load

    document = load(text, place)
    models = {}
    for name, entry in _convert(document, _File, place).models.items():
        models[name] = _convert(entry, Model, f"{place}: {name}")
        _check(name, models[name], f"{place}: {name}")
    return models


def _convert(value: object, type_: type[_T], place: str) -> _T:
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        hint = "" if isinstance(value, dict) else "; expected keys and values, as in models_registry.yaml"
        raise RegistryError(f"{place}: {error}{_nearest_key(str(error))}{hint}") from error


def _parse(path: Path) -> dict[str, Model]:
    try:
        text = files.read(path).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise RegistryError(f"{path}: cannot be read: {error}") from error
    return _parse_text(text, str(path))


def _nearest_key(message: str) -> str:
    match = re.search(r"unknown field `([^`]*)`", message)
    if not match:
        return ""
    known = {field for struct in _STRUCTS for field in struct.__struct_fields__}
    return did_you_mean(match[1], known)


def _check(name: str, model: Model, place: str) -> None:
    """Refuse what the types alone let through."""
    if model.pooling is not None and (fault := check_pooling(model.pooling)):
        raise RegistryError(f"{place}: {fault}")
    if "--" in name:  # which stands for the slash of a hub id in the store
        raise RegistryError(f"{place}: the id holds --; expected single dashes")
    for role, rule in model.roles.items():
        if rule.default_title and not rule.pair:
            raise RegistryError(f"{place}: roles.{role}: default_title is for roles with `pair: true`")
        if rule.prompt and rule.pair:
            raise RegistryError(f"{place}: roles.{role}: a prompt is for roles without pairs")
    for precision, bound in model.bounds.items():
        if bound == Bound():
            raise RegistryError(f"{place}: bounds.{precision}: give max_abs_diff, min_cosine or mean_cosine")
        for key, (least, most) in _RANGES.items():
            value = getattr(bound, key)
            if value is not None and not least <= value <= most:  # NaN is in no range
                raise RegistryError(
                    f"{place}: bounds.{precision}.{key} is {value}; expected {least} to {most}"
                )
