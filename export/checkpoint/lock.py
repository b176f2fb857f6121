"""Whether a checkpoint is the one that is meant: by digest, of the registry or of a first export.

Where the registry knows no digests, the first export of a revision records what it saw in the checkpoint
lock, the store's pins.json, and later ones must match.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from paritas import files, store
from paritas.errors import SourceError
from paritas.registry import Model

_WEIGHTS = (".safetensors", ".bin")
# Under a hub id alone, where a key with a revision has digests.
_COMMIT = "commit"

_Lock = dict[str, dict[str, str]]


def check_registry(name: str, model: Model, digests: dict[str, str], directory: Path) -> None:
    """Compare with what the registry says of this model.

    Args:
        name: the model's registry id.
        model: its registry entry.
        digests: sha256 by file name, of what lies in `directory`.
        directory: the checkpoint's.

    Raises:
        SourceError: a digest differs, or the weights are in another file than the registry knows.
    """
    for file, expected in model.digests.items():
        if file in digests and digests[file] != expected:
            raise SourceError(
                f"{directory / file}: sha256 {digests[file]}, the registry expects {expected} for {name}; "
                "fetch it again, or give a checkpoint of your own an entry of its own (--registry)"
            )
    # Where the registry knows the weights, another file of them has no digest and is no match.
    known = {file for file in model.digests if file.endswith(_WEIGHTS)}
    unknown = {file for file in digests if file.endswith(_WEIGHTS)} - known
    if known and unknown:
        raise SourceError(
            f"{directory}: the registry knows the weights of {name} by {', '.join(sorted(known))}; "
            f"found {', '.join(sorted(unknown))}"
        )


def check(name: str, revision: str | None, digests: dict[str, str], directory: Path) -> None:
    """Compare with what the first export of this revision recorded, if there was one.

    Raises:
        SourceError: a digest differs, or the record cannot be read.
    """
    path = _path()
    _compare(_read(path), path, f"{name}@{revision}", digests, directory)


def record(name: str, revision: str | None, digests: dict[str, str], directory: Path) -> None:
    """Record what an export saw, if it is the first of this revision.

    For an export that succeeded: what cannot be certified must not be held against its repair.

    Raises:
        SourceError: another export, at the same moment, recorded something else; or it cannot be written.
    """
    key = f"{name}@{revision}"
    _compare(_record(key, digests), _path(), key, digests, directory)


def locked_commit(repo: str) -> str | None:
    """Return the commit that a hub id without a revision stands for; None before its first export.

    Raises:
        SourceError: the record cannot be read.
    """
    return _read(_path()).get(repo, {}).get(_COMMIT)


def record_commit(repo: str, commit: str) -> None:
    """Let a hub id without a revision stand for a commit, if it stands for none yet.

    Raises:
        SourceError: it cannot be written.
    """
    _record(repo, {_COMMIT: commit})


def _record(key: str, entry: dict[str, str]) -> _Lock:
    """Add an entry unless there is one of that key; return all."""
    path = _path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.locked(path.parent):
            locked = _read(path)
            if key not in locked:
                locked[key] = entry
                content = json.dumps(locked, indent=2, sort_keys=True) + "\n"
                files.replace(path, content.encode(), partial=path.with_suffix(".partial"))
    except OSError as error:
        raise SourceError(f"{path}: cannot be written: {error}") from error
    return locked


def _path() -> Path:
    return store.home() / "pins.json"


def _compare(locked: _Lock, path: Path, key: str, digests: dict[str, str], directory: Path) -> None:
    for file, expected in locked.get(key, {}).items():
        if digests.get(file) != expected:
            raise SourceError(
                f"{directory / file}: sha256 {digests.get(file)}, the first export of {key} recorded "
                f"{expected}; fetch it again, or remove the entry from {path} if the change is meant"
            )


def _read(path: Path) -> _Lock:
    try:
        return msgspec.json.decode(files.read(path), type=_Lock) if path.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{path}: cannot be read: {error}; restore or delete it") from error
