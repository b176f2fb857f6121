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
import threading
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from paritas import files, store

# A change within one tick of the file system's clock leaves a file's times as they are.
_TICK_NS = 2_000_000_000


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
        self._directory = directory.resolve()
        name = hashlib.sha256(os.fsencode(self._directory)).hexdigest()[:32]
        self._path = store.cache() / "checked" / f"{name}.json"
        self._known: dict[str, _Seen] = {}
        with contextlib.suppress(OSError, ValueError, RecursionError):  # not there, or no JSON
            self._known = msgspec.json.decode(self._path.read_bytes(), type=dict[str, _Seen])

    def digest(self, name: str) -> str | None:
        """Return the sha256 of a file that has not changed since it was taken, else None."""
        seen = self._known.get(name)
        try:
            unchanged = seen is not None and seen == self._look(name, seen.sha256)
        except OSError:
            return None
        return seen.sha256 if seen is not None and unchanged else None

    def _look(self, name: str, sha256: str) -> _Seen:
        found = (self._directory / name).stat()
        return _Seen(sha256, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)

    def keep(self, digests: dict[str, str]) -> None:
        """Remember digests taken just now. Where nothing can be written, they are taken again next time."""
        with contextlib.suppress(OSError):
            seen = {name: self._look(name, sha256) for name, sha256 in digests.items()}
            settled = time.time_ns() - _TICK_NS
            fresh = {name: entry for name, entry in seen.items() if entry.changed_ns < settled}
            if fresh:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                partial = self._path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
                content = msgspec.json.encode({**self._known, **fresh})
                files.replace(self._path, content, partial=partial)
