"""The optimized graph: a graph as this machine runs it best, kept on disk, its weights packed for the CPU.

onnxruntime optimizes a graph and packs its weights each time it loads it, into memory of its own. Here that
is done once, and the result is mapped from disk. all-mpnet-base-v2 in INT8 then loads in 0.15 s instead of
0.6. Of its 110 MB of memory 80 are shared by every session and process that runs the same graph.

    <cache>/prepared/<key>/
    ├── model.onnx, model.onnx.data   what onnxruntime wrote
    └── made.json                     from what and for what, and the files' digests

The key is a digest of all that the files depend on: graph, weights, CPU, onnxruntime, our own operators.
Another bundle, a home that came from another machine, or an upgrade has another key, so nothing in here can
be out of date. What nobody has loaded for a month is removed when the next graph is optimized.

The files are checked as a bundle's are, see `paritas.engine.bundle.digests`. What differs from its digest is
made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from paritas import files, store
from paritas.engine.bundle.digests import Messages, VerifiedFiles, digest
from paritas.engine.bundle.directory import Bundle
from paritas.engine.bundle.manifest import FileEntry
from paritas.engine.runtime.cpus import cpu_name
from paritas.engine.runtime.kernels import Kernels
from paritas.engine.runtime.session import VERSION, Session, write_optimized
from paritas.errors import BundleError

_log = logging.getLogger("paritas")

# Raised when what `write_optimized` writes changes.
_FORMAT = 2
_MADE = "made.json"
_GRAPH = "model.onnx"
_UNUSED_S = 30 * 86_400
_PARTIAL = ".partial-"
# How long a load waits while another process optimizes a graph: whoever may read the cache may hold its lock.
_PATIENCE_S = 30.0
_AGAIN = "load the bundle, which makes it again"
_MESSAGES = Messages(kind="optimized graph", if_missing=_AGAIN, since="it was optimized", if_changed=_AGAIN)


# What this process loaded: where no record can be kept, the second session needs no second digest.
_loaded: dict[Path, _Opened] = {}


class Made(Struct, frozen=True, forbid_unknown_fields=True):
    """What made.json holds."""

    model: str
    graph: str
    digests: list[str]
    """sha256 of the graph and its weights files."""
    cpu: str
    onnxruntime: str
    files: dict[str, FileEntry]
    kernels: str = ""
    """The library whose operators it holds, see `Kernels.identity`."""


class _Opened(NamedTuple):
    """A directory whose made.json was read."""

    made: Made
    verified: VerifiedFiles


def graph_key(bundle: Bundle, graph: str, weights: Sequence[str], kernels: Kernels) -> str:
    """Return a digest of what this machine makes of a graph: of its files, the CPU and what runs it."""
    parts = [_FORMAT, _digests(bundle, graph, weights), cpu_name(), VERSION]
    if kernels.own:
        parts.append(kernels.identity)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def has_optimized(
    bundle: Bundle, graph: str, weights: Sequence[str], kernels: Kernels, *, use_cache: bool = True
) -> bool:
    """Say whether the optimized form of one of a bundle's graphs is there and as it was written.

    Args:
        bundle: whose.
        graph: the graph's name.
        weights: the names of its weights files.
        kernels: whose run it.
        use_cache: read no file that was verified before and has not changed since.

    Raises:
        BundleError: it is there, and damaged; the message says what to type.
    """
    directory = _directory(bundle, graph, weights, kernels)
    try:
        opened = _open_made(directory, _made(bundle, graph, weights, kernels))
        if opened is not None and use_cache:
            opened.verified.check(opened.made.files)
        elif opened is not None:
            opened.verified.verify(opened.made.files)
    except BundleError as error:
        raise BundleError(f"{error}; or type: rm -r {directory}") from error
    return opened is not None


def open_optimized(
    bundle: Bundle, graph: str, weights: Sequence[str], kernels: Kernels, *, threads: int
) -> Session | None:
    """Load the optimized form of one of a bundle's graphs, which is made first where there is none.

    Two processes may ask at once: one makes it while the other waits, but not for ever.

    Args:
        bundle: what it is made of is read from its files.
        graph: the graph's name.
        weights: the names of its weights files.
        kernels: whose run it.
        threads: threads inside one run.

    Returns:
        The session; None where nothing can be kept, for which the log has the reason.
    """
    try:
        directory = _directory(bundle, graph, weights, kernels)
        made = _made(bundle, graph, weights, kernels)
        session = _open(directory, made, threads, warn=False)
        if session is not None:
            return session
        directory.parent.mkdir(parents=True, exist_ok=True)
        with files.locked(directory.parent, patience_s=_PATIENCE_S):
            session = _open(directory, made, threads, warn=True)  # made by whoever held the lock
            return session or _load(directory, _make(bundle, directory, made, weights), threads)
    except (OSError, BundleError) as error:
        _log.warning(
            "%s: no optimized graph can be kept, so it loads slower and shares no memory: %s",
            bundle.directory / graph,
            error,
        )
    return None


def _directory(bundle: Bundle, graph: str, weights: Sequence[str], kernels: Kernels) -> Path:
    return store.cache() / "prepared" / graph_key(bundle, graph, weights, kernels)


def _digests(bundle: Bundle, graph: str, weights: Sequence[str]) -> list[str]:
    return [bundle.manifest.files[name].sha256 for name in (graph, *weights)]


def _made(bundle: Bundle, graph: str, weights: Sequence[str], kernels: Kernels) -> Made:
    """Return what made.json should say, but for the files."""
    digests = _digests(bundle, graph, weights)
    return Made(bundle.manifest.model, graph, digests, cpu_name(), VERSION, {}, kernels.identity)


def _open(directory: Path, made: Made, threads: int, *, warn: bool) -> Session | None:
    """Load what is in a directory; None where nothing is there, or it is damaged."""
    try:
        opened = _open_made(directory, made)
        session = _load(directory, opened, threads) if opened is not None else None
    except BundleError as error:
        if warn:
            _log.warning("%s; it is made again", error)
        return None
    if session is not None:
        _touch(directory / _MADE)
    return session


def _load(directory: Path, opened: _Opened, threads: int) -> Session:
    graph, entries = directory / _GRAPH, opened.made.files
    weights = {directory / name: entry.sha256 for name, entry in entries.items() if name != _GRAPH}
    load = partial(
        Session,
        graph,
        provider="cpu",
        threads=threads,
        optimized=True,
        weights=weights,
        kernels=bool(opened.made.kernels),
    )
    session = opened.verified.read(entries, load)
    _loaded[directory] = opened
    return session


def _open_made(directory: Path, expected: Made) -> _Opened | None:
    """Read what a directory should hold; None where there is none.

    Raises:
        BundleError: the record is damaged, or is not of these files.
    """
    try:
        names = {path.name for path in directory.iterdir()} - {_MADE}
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BundleError(f"{directory}: cannot be read: {error}") from error
    try:
        made = msgspec.json.decode(files.read(directory / _MADE), type=Made)
    except (OSError, ValueError, RecursionError) as error:  # not there, or no JSON
        raise BundleError(f"{directory / _MADE}: {error}; {_AGAIN}") from error
    if made != msgspec.structs.replace(expected, model=made.model, files=made.files) or _GRAPH not in names:
        raise BundleError(f"{directory / _MADE}: is not what was written; {_AGAIN}")
    if set(made.files) != names:
        shown = ", ".join(sorted(set(made.files) ^ names))
        raise BundleError(f"{directory}: {shown}: too many or missing; {_AGAIN}")
    known = _loaded.get(directory)
    return known if known is not None and known.made == made else _opened(directory, made)


def _opened(directory: Path, made: Made) -> _Opened:
    return _Opened(made, VerifiedFiles(directory, made.files, _MESSAGES))


def _make(bundle: Bundle, directory: Path, made: Made, weights: Sequence[str]) -> _Opened:
    """Write a whole directory in the place of whatever is there."""
    _remove_unused(directory.parent)
    # Not by tempfile, whose folders only their owner may open: an image is built by root and used by others.
    unfinished = directory.parent / f"{_PARTIAL}{os.urandom(6).hex()}"
    unfinished.mkdir()
    try:
        source = bundle.directory / made.graph
        write = partial(write_optimized, source, unfinished / _GRAPH, kernels=bool(made.kernels))
        bundle.read([made.graph, *weights], write)
        made = msgspec.structs.replace(made, files=_entries(unfinished))
        (unfinished / _MADE).write_bytes(msgspec.json.encode(made))
        files.sync_all(unfinished)
        shutil.rmtree(directory, ignore_errors=True)  # sessions that map its files keep them
        unfinished.rename(directory)
        files.sync(directory.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    opened = _opened(directory, made)
    opened.verified.trust(made.files)
    return opened


def _entries(directory: Path) -> dict[str, FileEntry]:
    paths = sorted(directory.iterdir())
    return {path.name: FileEntry(digest(path), path.stat().st_size) for path in paths}


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
