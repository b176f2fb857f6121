"""Files that several processes write: one at a time, and replaced whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import logging
import math
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

_log = logging.getLogger("paritas")

# How often a lock that somebody holds is asked for, and after how long the log says so.
_ASKED_EVERY_S = 0.02
_SILENT_S = 2.0
# Of a file that is read into memory. The largest are tokenizers, of some 20 MB.
_MOST_BYTES = 2**30


@contextmanager
def locked(directory: Path, *, patience_s: float = math.inf) -> Iterator[None]:
    """Hold a directory's lock; other processes and threads that ask for it wait, and say so after a while.

    The kernel gives it back when the holder ends, however it ends, and no file is left behind.

    Args:
        directory: whose; whoever may read it may hold its lock.
        patience_s: how long to wait.

    Raises:
        TimeoutError: somebody held it all that time.
        OSError: the directory cannot be opened.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        lock(descriptor, directory, patience_s=patience_s)
        yield
    finally:
        unlock(descriptor)


def lock(descriptor: int, directory: Path, *, patience_s: float = math.inf) -> None:
    """Take the lock of a directory that is open, until it is closed; as `locked`."""
    begun, told = time.monotonic(), False
    while not lock_free(descriptor):
        waited_s = time.monotonic() - begun
        if waited_s >= patience_s:
            what = f"locked by another process for {waited_s:.0f} s"
            raise TimeoutError(errno.ETIMEDOUT, what, str(directory))
        if waited_s >= _SILENT_S and not told:
            _log.warning("%s: locked by another process; waiting for it", directory)
            told = True
        time.sleep(_ASKED_EVERY_S)


def unlock(descriptor: int) -> None:
    """Give a lock back and close what held it; a child forked meanwhile has a copy that would keep it."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def lock_free(descriptor: int) -> bool:
    """Take the lock of an open file or directory if nobody holds it, and say whether it was taken."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_regular(path: Path) -> BufferedReader:
    """Open a file to read; never wait for a pipe's other end, nor read a device that has none.

    Raises:
        OSError: it cannot be opened, or is anything but a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
            raise OSError(number, f"is no regular file ({stat.filemode(mode)})", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read(path: Path) -> bytes:
    """Return what a regular file of ours holds; errors as `open_regular`'s, and for one of absurd size."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MOST_BYTES:
            raise OSError(errno.EFBIG, f"{size} bytes, expected {_MOST_BYTES} at most", str(path))
        return file.read()


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


def sync_all(directory: Path) -> None:
    """Return once the disk has a directory: its files, and their names."""
    for path in directory.iterdir():
        sync(path)
    sync(directory)
