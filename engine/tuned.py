"""What `paritas tune` found on this machine, one file a graph:

    <store>/tuned/<key>.json

The key is that of the optimized graph, see `paritas.engine.runtime.optimized`: under another bundle, CPU
or onnxruntime the file is not found. It says how many CPUs there were; with more or fewer it does not hold.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct, field

from paritas import files, store
from paritas.engine.bundle.directory import Bundle
from paritas.engine.runtime.cpus import available_cpus
from paritas.engine.runtime.kernels import kernels_for
from paritas.engine.runtime.optimized import graph_key
from paritas.engine.settings import Settings
from paritas.registry import Precision

_Count = Annotated[int, Meta(ge=1)]


class Measured(Struct, frozen=True, forbid_unknown_fields=True):
    """How fast one choice was in a race."""

    workers: int
    max_batch_tokens: int = field(name="token_budget")
    """Its name in JSON and on disk is "token_budget", here and below."""
    tokens_per_s: float
    """The median over rounds."""
    ratio: float
    """How many times as fast as the race's first: the median over rounds, each against the same round's."""
    rounds: int


class Tuned(Struct, frozen=True, forbid_unknown_fields=True):
    """What `paritas tune` found for one graph."""

    model: str
    precision: Precision
    cpus: _Count
    """Available when it was measured, with as many threads."""
    cpu: str
    onnxruntime: str
    date: str
    workers: _Count
    max_batch_tokens: _Count = field(name="token_budget")
    gain: float
    """How many times as fast as the default, over all races."""
    races: list[list[Measured]]
    """The first of each is the one to beat: the default, then the winner of the race before."""

    @property
    def settings(self) -> Settings:
        """What an encoder makes of it."""
        return Settings(self.cpus, self.workers, self.max_batch_tokens, "tuned")


def tuned_path(bundle: Bundle, precision: Precision) -> Path:
    """Return where what was tuned for a bundle's precision on this machine belongs."""
    variant = bundle.variant(precision)
    key = graph_key(bundle, variant.graph_for(on_cpu=True), variant.files, kernels_for(variant))
    return store.tuned() / f"{key}.json"


def _former_path(path: Path) -> Path:
    """Return where paritas up to 0.1.0 kept it: among what may be removed at any time."""
    return store.cache() / "tuned" / path.name


def read_tuned(bundle: Bundle, precision: Precision) -> Tuned | None:
    """Return what was tuned, for however many CPUs; None where nothing is there or can be read."""
    with contextlib.suppress(OSError):  # no store
        path = tuned_path(bundle, precision)
        for place in (path, _former_path(path)):
            with contextlib.suppress(OSError, ValueError, RecursionError):  # not there, or no JSON
                return msgspec.json.decode(files.read(place), type=Tuned)
    return None


def find_tuned(bundle: Bundle, precision: Precision) -> Tuned | None:
    """Return what was tuned for as many CPUs as there are now, else None."""
    tuned = read_tuned(bundle, precision)
    return tuned if tuned is not None and tuned.cpus == available_cpus() else None


def keep_tuned(bundle: Bundle, tuned: Tuned) -> Path:
    """Keep what was found for encoders to come, and return the file.

    Raises:
        OSError: it cannot be written.
    """
    path = tuned_path(bundle, tuned.precision)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = msgspec.json.format(msgspec.json.encode(tuned), indent=2)
    with files.locked(path.parent):
        files.replace(path, content, partial=path.with_suffix(".partial"))
    return path


def forget_tuned(bundle: Bundle, precision: Precision) -> Path | None:
    """Remove what was tuned and return the file; None where there was none.

    Raises:
        OSError: it cannot be removed.
    """
    path = tuned_path(bundle, precision)
    gone = None
    for place in (_former_path(path), path):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            place.unlink()
            gone = place
    return gone
