"""Which files were found whole before, so that the same bytes are not digested at every start.

SHA-256 reads 230 to 500 MB/s where a CPU has no instructions for it: 0.4 s for a BERT-base in INT8, 1.9 s in
FP32. So each digest is kept with the file's size, times and inode, as version control systems do, and the
file is read again as soon as one of them differs.

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
# How long to wait for another process that writes its records: a digest that is not kept is taken again.
_PATIENCE_S = 1.0


class Look(NamedTuple):
    """What tells one state of a file from another without reading it."""

    size_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int
    device: int


def look(path: Path) -> Look:
    """Look at a file or directory.

    Raises:
        OSError: it is not there, or cannot be looked at.
    """
    found = path.stat()
    return Look(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)


def settled(seen: Look, now_ns: int) -> bool:
    """Say whether any change after `now_ns` gives a file seen so other times."""
    return seen.changed_ns < now_ns - _TICK_NS


class _Seen(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A file as it was when its digest was taken."""

    sha256: str
    size_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int
    device: int


class Checked:
    """The digests known of one directory's files."""

    def __init__(self, directory: Path) -> None:
        """Read what is known; nothing, where nothing can be read."""
        self.looks: dict[str, Look] = {}
        """Each file as `digest` found it."""
        self._directory = directory.resolve()
        self._path: Path | None = None
        self._known: dict[str, _Seen] = {}
        self._settled: set[str] = set()
        name = hashlib.sha256(os.fsencode(self._directory)).hexdigest()[:32]
        with contextlib.suppress(OSError):  # no store
            self._path = store.cache() / "checked" / f"{name}.json"
            self._known = _read(self._path)

    def digest(self, name: str) -> str | None:
        """Return the sha256 of a file that has not changed since it was taken, else None."""
        try:
            now_ns, found = time.time_ns(), look(self._directory / name)
        except OSError:
            return None
        self.looks[name] = found
        if settled(found, now_ns):
            self._settled.add(name)
        seen = self._known.get(name)
        return seen.sha256 if seen is not None and seen == _Seen(seen.sha256, *found) else None

    def keep(self, digests: dict[str, str]) -> None:
        """Remember digests taken since `digest` was asked for them, of files that are still what they were.

        Where nothing can be written, they are taken again next time.
        """
        with contextlib.suppress(OSError):
            fresh = {
                name: _Seen(sha256, *self.looks[name])
                for name, sha256 in digests.items()
                if name in self._settled and look(self._directory / name) == self.looks[name]
            }
            if fresh and self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with files.locked(self._path.parent, patience_s=_PATIENCE_S):
                    # What other processes noted meanwhile stays; files that went are forgotten.
                    known = {name: seen for name, seen in _read(self._path).items() if self._has(name)}
                    content = msgspec.json.encode({**known, **fresh})
                    files.replace(self._path, content, partial=self._path.with_suffix(".partial"))

    def _has(self, name: str) -> bool:
        return (self._directory / name).exists()


def _read(path: Path) -> dict[str, _Seen]:
    with contextlib.suppress(OSError, ValueError, RecursionError):  # not there, or no JSON
        return msgspec.json.decode(files.read(path), type=dict[str, _Seen])
    return {}
