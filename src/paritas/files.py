"""Files that several processes write: one at a time, and replaced whole or not at all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a directory's lock; other processes and threads that ask for it wait.

    The kernel gives it back when the holder ends, however it ends, and no file is left behind.

    Raises:
        OSError: the directory cannot be opened.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def replace(path: Path, content: bytes, *, partial: Path) -> None:
    """Give a file new content in one step, on the disk when this returns: a crash leaves the old one.

    Args:
        path: the file; it may not exist yet.
        content: what it holds afterwards.
        partial: where the content is written first, on the same file system; gone afterwards.

    Raises:
        OSError: it cannot be written; `path` is as it was.
    """
    try:
        partial.write_bytes(content)
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Return once the disk has what was written to a file, or the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
