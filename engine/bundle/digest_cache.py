"""The digest cache: which files had which digest, so that the same bytes are not digested at every start.

SHA-256 reads 230 to 500 MB/s where a CPU has no instructions for it: 0.4 s for a BERT-base in INT8, 1.9 s in
FP32. So each digest is kept with the file's size, times and inode, as version control systems do. The file is
read again as soon as one of them differs.

    <cache>/checked/<digest of the directory's path>.json
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from paritas import files, store

# A change within one tick of the file system's clock leaves a file's times as they are.
_TICK_NS = 2_000_000_000
# How long to wait for another process that writes its records. After that the digest is not kept, and taken
# again next time.
_PATIENCE_S = 1.0


class FileState(NamedTuple):
    """What tells one state of a file from another without reading it."""

    size_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int
    device: int


def file_state(path: Path) -> FileState:
    """Return the state of a file or directory, without reading it.

    Raises:
        OSError: it is not there, or cannot be looked at.
    """
    status = path.stat()
    return FileState(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


def settled(state: FileState, now_ns: int) -> bool:
    """Say whether any change after `now_ns` gives a file in this state other times."""
    return state.changed_ns < now_ns - _TICK_NS


class _Record(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A file as it was when its digest was taken."""

    sha256: str
    size_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int
    device: int


class DigestCache:
    """The digests known of one directory's files."""

    def __init__(self, directory: Path) -> None:
        """Read the records; none, where nothing can be read."""
        self.states: dict[str, FileState] = {}
        """The state of each file when `digest` was asked for it."""
        self._directory = directory.resolve()
        self._path: Path | None = None
        self._records: dict[str, _Record] = {}
        self._settled: set[str] = set()
        name = hashlib.sha256(os.fsencode(self._directory)).hexdigest()[:32]
        with contextlib.suppress(OSError):  # no store
            self._path = store.cache() / "checked" / f"{name}.json"
            self._records = _read(self._path)

    def digest(self, name: str) -> str | None:
        """Return the sha256 of a file that has not changed since it was taken, else None."""
        try:
            now_ns, state = time.time_ns(), file_state(self._directory / name)
        except OSError:
            return None
        self.states[name] = state
        if settled(state, now_ns):
            self._settled.add(name)
        record = self._records.get(name)
        if record is None or record != _Record(record.sha256, *state):
            return None
        return record.sha256

    def keep(self, digests: dict[str, str]) -> None:
        """Record digests taken since `digest` was asked for them, of files that are still what they were.

        Where nothing can be written, they are taken again next time.
        """
        with contextlib.suppress(OSError):
            fresh = {
                name: _Record(sha256, *self.states[name])
                for name, sha256 in digests.items()
                if name in self._settled and file_state(self._directory / name) == self.states[name]
            }
            if fresh and self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with files.locked(self._path.parent, patience_s=_PATIENCE_S):
                    # Records that other processes wrote meanwhile stay; those of removed files go.
                    kept = {name: record for name, record in _read(self._path).items() if self._has(name)}
                    content = msgspec.json.encode({**kept, **fresh})
                    files.replace(self._path, content, partial=self._path.with_suffix(".partial"))

    def _has(self, name: str) -> bool:
        return (self._directory / name).exists()


def _read(path: Path) -> dict[str, _Record]:
    with contextlib.suppress(OSError, ValueError, RecursionError):  # not there, or no JSON
        return msgspec.json.decode(files.read(path), type=dict[str, _Record])
    return {}
