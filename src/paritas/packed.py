"""Lines of files that gzip or zstd packed, and of those that nobody did."""

from __future__ import annotations

import gzip
import importlib
import io
import shlex
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from paritas.errors import InputError, MissingExtraError

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_MODULE = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"


def lines(file: IO[bytes], name: str) -> Iterator[bytes]:
    """Yield the lines of a file, unpacked where its first bytes say so: standard input has no name to go by.

    Args:
        file: the file, at its beginning.
        name: what errors call it.

    Raises:
        InputError: a packed file is damaged or ends early; the message gives the place.
        MissingExtraError: it is packed by zstd, and the module that unpacks it is not installed.
    """
    done = 0
    unpacked, faults = _unpacked(file, name)
    try:
        for line in unpacked:
            done += 1
            yield line
    except faults as error:
        raise InputError(
            f"{name}: damaged after line {done}: {error}; expected a whole file, as gzip or zstd wrote it"
        ) from error


@contextmanager
def opened(file: IO[bytes], name: str) -> Iterator[tuple[Any, bool]]:
    """Yield a file to read, unpacked where its first bytes say so, and whether it was packed.

    Args:
        file: the file, at its beginning.
        name: what errors call it.

    Raises:
        InputError: a packed file is damaged or ends early.
        MissingExtraError: as `lines`.
    """
    unpacked, faults = _unpacked(file, name)
    try:
        yield unpacked, bool(faults)
    except faults as error:
        raise InputError(
            f"{name}: damaged: {error}; expected a whole file, as gzip or zstd wrote it"
        ) from error


def is_packed(head: bytes) -> bool:
    """Say whether a file that begins so is packed by gzip or zstd."""
    return head.startswith((_GZIP, _ZSTD))


def _unpacked(file: IO[bytes], name: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """Return a file's content to read, and what that raises where the file is damaged."""
    buffered: Any = file if hasattr(file, "peek") else io.BufferedReader(file)
    head = buffered.peek(len(_ZSTD))[: len(_ZSTD)]
    if head.startswith(_GZIP):
        return gzip.open(buffered), (EOFError, zlib.error, gzip.BadGzipFile)
    if head == _ZSTD:
        zstd = _zstd(name)
        return zstd.open(buffered), (EOFError, zstd.ZstdError)
    return buffered, ()


def _zstd(name: str) -> Any:
    try:
        return importlib.import_module(_MODULE)
    except ImportError as error:
        other = "unpack it: zstd -d" + ("" if name == "<stdin>" else f" {shlex.quote(name)}")
        raise MissingExtraError(
            f"{name}: packed by zstd; type: pip install 'paritas[zstd]', or {other}"
        ) from error
