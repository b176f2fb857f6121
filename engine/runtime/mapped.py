"""Weights mapped into memory from their files: whoever writes into such a file changes an encoder that runs.

A file that is renamed or removed stays what it was for whoever holds it open, so a bundle may be replaced at
any time. One that is written to in place does not. Each is held open, and looked at after every run, which
takes a microsecond.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from paritas.errors import BundleError


class _Held(NamedTuple):
    path: Path
    descriptor: int
    sha256: str


class Mapped:
    """Files as they were when they were mapped. May be used by many threads at once."""

    def __init__(self, digests: Mapping[Path, str]) -> None:
        """Open files.

        Args:
            digests: sha256 of verified files.

        Raises:
            BundleError: one cannot be opened.
        """
        self._held: list[_Held] = []
        self._seen: dict[Path, tuple[int, int, int]] = {}
        for path, sha256 in digests.items():
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                raise BundleError(f"{path}: cannot be opened: {error}") from error
            weakref.finalize(self, os.close, descriptor)
            self._held.append(_Held(path, descriptor, sha256))
            self._seen[path] = _state(descriptor)

    def check(self) -> None:
        """Check that no file was written to.

        Raises:
            BundleError: one was; the vectors since then may be wrong.
        """
        for held in self._held:
            now = _state(held.descriptor)
            if now == self._seen[held.path]:
                continue
            # To be renamed, linked or removed gives it another time too, and costs one digest.
            if _digest(held.descriptor) != held.sha256:
                raise BundleError(
                    f"{held.path}: written to in place under a loaded encoder; restore the file and load it "
                    "again, and replace a bundle by renaming, as paritas export does"
                )
            self._seen[held.path] = now


def _state(descriptor: int) -> tuple[int, int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _digest(descriptor: int) -> str:
    digest, place = hashlib.sha256(), 0
    while part := os.pread(descriptor, 1 << 20, place):
        digest.update(part)
        place += len(part)
    return digest.hexdigest()
