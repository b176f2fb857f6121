"""A graph as one machine runs it best, kept on disk: optimised, its weights packed for the CPU's kernels.

onnxruntime optimises a graph and packs its weights each time it loads it, into memory of its own. Done once
and mapped from disk, all-mpnet-base-v2 in INT8 loads in 0.15 s instead of 0.6, and of its 110 MB of memory 80
are shared by every session and process that runs the same graph.

    <cache>/prepared/<key>/
    ├── model.onnx, model.onnx.data   what onnxruntime wrote
    └── made.json                     from what and for what, and the files' sizes and times

The key is a digest of all that the files depend on: graph, weights, CPU, onnxruntime. Another bundle, a home
that came from another machine, or an upgrade has another key, so nothing in here can be out of date; what
nobody has loaded for a month is removed when the next graph is prepared.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from paritas import store
from paritas.engine.bundle import Bundle
from paritas.engine.cpus import cpu_name
from paritas.engine.runtime import VERSION, Session, write_prepared
from paritas.errors import BundleError
from paritas.files import locked

_log = logging.getLogger("paritas")

# Raised when what `write_prepared` writes changes.
_FORMAT = 2
_MADE = "made.json"
_GRAPH = "model.onnx"
_UNUSED_S = 30 * 86_400
_PARTIAL = ".partial-"


class Made(Struct, frozen=True, forbid_unknown_fields=True):
    """What made.json holds."""

    model: str
    graph: str
    digests: list[str]
    """sha256 of the graph and its weights files."""
    cpu: str
    onnxruntime: str
    files: dict[str, tuple[int, int]]
    """Size in bytes and time of change in seconds, by name. No finer: images of containers keep no more."""


def graph_key(bundle: Bundle, graph: str, weights: Sequence[str]) -> str:
    """Return a digest of what this machine makes of a graph: of its files, the CPU and onnxruntime."""
    parts = [_FORMAT, _digests(bundle, graph, weights), cpu_name(), VERSION]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def is_prepared(bundle: Bundle, graph: str, weights: Sequence[str]) -> bool:
    """Say whether the prepared form of one of a bundle's graphs is there and as it was written."""
    return _unchanged(_directory(bundle, graph, weights))


def open_prepared(bundle: Bundle, graph: str, weights: Sequence[str], *, threads: int) -> Session | None:
    """Load the prepared form of one of a bundle's graphs, which is made first where there is none.

    Two processes may ask at once: one makes it while the other waits.

    Args:
        bundle: its files are taken as checked.
        graph: the graph's name.
        weights: the names of its weights files.
        threads: threads inside one run.

    Returns:
        The session; None where nothing can be kept, for which the log has the reason.
    """
    made = Made(bundle.manifest.model, graph, _digests(bundle, graph, weights), cpu_name(), VERSION, {})
    directory = _directory(bundle, graph, weights)
    session = _open(directory, threads)
    if session is not None:
        return session
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with locked(directory.parent):
            session = _open(directory, threads)  # made by whoever held the lock
            if session is None:
                _make(bundle.directory / graph, directory, made)
                session = _open(directory, threads)
        if session is None:
            raise BundleError(f"{directory}: what was made does not load")
    except (OSError, BundleError) as error:
        _log.warning(
            "%s: no prepared form can be kept, so it loads slower and shares no memory: %s",
            bundle.directory / graph,
            error,
        )
    return session


def _directory(bundle: Bundle, graph: str, weights: Sequence[str]) -> Path:
    return store.cache() / "prepared" / graph_key(bundle, graph, weights)


def _digests(bundle: Bundle, graph: str, weights: Sequence[str]) -> list[str]:
    return [bundle.manifest.files[name].sha256 for name in (graph, *weights)]


def _open(directory: Path, threads: int) -> Session | None:
    """Load what is in a directory; None where it is not there, was changed, or does not load."""
    if not _unchanged(directory):
        return None
    try:
        session = Session(directory / _GRAPH, provider="cpu", threads=threads, prepared=True)
    except BundleError:
        return None
    _touch(directory / _MADE)
    return session


def _unchanged(directory: Path) -> bool:
    """Say whether a directory holds what was written, by sizes and times."""
    try:
        made = msgspec.json.decode((directory / _MADE).read_bytes(), type=Made)
        return made.files == _files(directory)
    except (OSError, ValueError, RecursionError):  # not there, no JSON, or not even UTF-8
        return False


def _make(graph: Path, directory: Path, made: Made) -> None:
    """Write a directory whole, in the place of whatever is there."""
    _remove_unused(directory.parent)
    partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=directory.parent))
    try:
        write_prepared(graph, partial / _GRAPH)
        made = msgspec.structs.replace(made, files=_files(partial))
        (partial / _MADE).write_bytes(msgspec.json.encode(made))
        shutil.rmtree(directory, ignore_errors=True)  # sessions that map its files keep them
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _files(directory: Path) -> dict[str, tuple[int, int]]:
    found = {path.name: path.stat() for path in directory.iterdir() if path.name != _MADE}
    return {name: (status.st_size, int(status.st_mtime)) for name, status in found.items()}


def _touch(path: Path) -> None:
    """Note that a file was used, where that can be written."""
    try:
        os.utime(path)
    except OSError:
        return


def _remove_unused(parent: Path) -> None:
    """Remove what was not loaded for a month, and what a killed process left."""
    for directory in parent.iterdir():
        marker = directory if directory.name.startswith(_PARTIAL) else directory / _MADE
        try:
            unused_s = time.time() - marker.stat().st_mtime
        except OSError:
            continue
        if unused_s > _UNUSED_S or directory.name.startswith(_PARTIAL):
            shutil.rmtree(directory, ignore_errors=True)
