"""An index's directory: which files are one index, whether they are whole, and how new ones take their place.

A save writes a new generation beside the current one and then replaces index.json, which names it. So whoever
opens the directory, at any time and after any crash, finds one whole index.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import re
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path

from msgspec.structs import replace

from paritas import files
from paritas.engine.bundle.digest_cache import DigestCache
from paritas.engine.index.info import GENERATION, INDEX, IndexInfo, is_ours, parse, written
from paritas.errors import VectorIndexError

_DATA = rf"vectors-{GENERATION}\.usearch|texts-{GENERATION}\.sqlite"
_OURS = re.compile(rf"{_DATA}|texts-{GENERATION}\.sqlite-journal|{re.escape(INDEX)}\.{GENERATION}")


def read_info(directory: Path) -> IndexInfo:
    """Return what a directory's index.json says.

    Raises:
        VectorIndexError: there is none, it cannot be read, is damaged, or a newer paritas wrote it.
    """
    path = directory / INDEX
    try:
        return parse(files.read(path))
    except FileNotFoundError:
        raise VectorIndexError(
            f"{directory}: no index there; type: paritas index INPUT --model MODEL --out {directory}"
        ) from None
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise VectorIndexError(f"{path}: {error}; index anew") from error
    except VectorIndexError as error:
        raise VectorIndexError(f"{path}: {error}") from None


class Generation:
    """The two files of one generation, open and found whole. What was digested is what is used."""

    def __init__(self, directory: Path, info: IndexInfo) -> None:
        """Open and check them.

        Raises:
            VectorIndexError: one is missing, cannot be read, or is not what was saved.
        """
        self.vectors, self.texts = (directory / name for name in info.files)
        with contextlib.ExitStack() as opened:
            parts = {name: opened.enter_context(_open_part(directory / name)) for name in info.files}
            for name, file in parts.items():
                _check_size(directory / name, file, info)
            if info.format >= 2:
                _check_digests(directory, parts, info)
            vectors, self._texts_file = parts.values()
            with naming(self.vectors):
                self.content = _mapped(vectors)
            # Held open until somebody else has opened them by their names.
            self._opened = opened.pop_all()

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened.close()

    def check_texts(self) -> None:
        """Hold what lies under the texts' name now against the file that was checked.

        Raises:
            VectorIndexError: it is another file.
        """
        try:
            same = os.path.samestat(self.texts.stat(), os.fstat(self._texts_file.fileno()))
        except OSError:
            same = False
        if not same:
            raise VectorIndexError(f"{self.texts}: was replaced while the index was opened; open it again")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put a file's name in front of the errors about its content."""
    try:
        yield
    except VectorIndexError as error:
        raise VectorIndexError(f"{path}: {error}") from error


def _open_part(path: Path) -> BufferedReader:
    try:
        return files.open_regular(path)
    except FileNotFoundError:
        raise VectorIndexError(f"{path}: missing; the index is damaged, index anew") from None
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> VectorIndexError:
    advice = "; ask its owner for permission to read it" if isinstance(error, PermissionError) else ""
    return VectorIndexError(f"{path}: cannot be read: {error.strerror or error}{advice}")


def _check_size(path: Path, file: BufferedReader, info: IndexInfo) -> None:
    size, expected = os.fstat(file.fileno()).st_size, info.sizes_bytes.get(path.name)
    if size != expected:
        raise VectorIndexError(f"{path}: {size} bytes, expected {expected}; the index is damaged, index anew")


def _check_digests(directory: Path, opened: dict[str, BufferedReader], info: IndexInfo) -> None:
    cache = DigestCache(directory)
    fresh: dict[str, str] = {}
    for name, file in opened.items():
        path, expected = directory / name, info.sha256.get(name)
        if expected is not None and _known(cache, path, file) == expected:
            continue
        try:
            fresh[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(path, error) from error
        if fresh[name] != expected:
            raise VectorIndexError(
                f"{path}: changed since it was saved (sha256 {fresh[name]}); restore the file or index anew"
            )
    cache.keep(fresh)


def _known(cache: DigestCache, path: Path, file: BufferedReader) -> str | None:
    """Return the digest that was taken of an open file before, if its name still leads to it."""
    with contextlib.suppress(OSError):
        known = cache.digest(path.name)
        if os.path.samestat(path.stat(), os.fstat(file.fileno())):
            return known
    return None


def _mapped(file: BufferedReader) -> mmap.mmap:
    # usearch maps files only for their owner: it asks the kernel not to note the access (O_NOATIME).
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise VectorIndexError(f"cannot be mapped: {error}") from error


def check_target(directory: Path) -> None:
    """Refuse a place where no index can be saved, before anybody encodes a million texts for it.

    Raises:
        VectorIndexError: a file, a directory of other files, or no permission to write there.
    """
    path = directory.absolute()
    try:
        if path.is_symlink() and not path.exists():
            raise VectorIndexError(f"{path}: is a link to nothing; choose another place")
        existing = next(place for place in (path, *path.parents) if place.exists())
        if not existing.is_dir():
            raise VectorIndexError(f"{existing}: is a file; an index is a directory, choose another place")
        if existing == path:
            _check_ours(directory)
    except OSError as error:
        place = error.filename or path
        raise VectorIndexError(f"{place}: {error.strerror or error}; choose another place") from error
    if not os.access(existing, os.W_OK | os.X_OK):
        raise VectorIndexError(f"{existing}: no permission to write there; choose another place")


def _check_ours(directory: Path) -> None:
    """Refuse a directory that holds anything but an index or what a save has written of one so far.

    From one listing: with a second look at the directory, a save that ends between the two makes its
    own index.json a foreign file.
    """
    names = {path.name for path in directory.iterdir()}
    if INDEX not in names:
        if not all(_OURS.fullmatch(name) for name in names):
            raise VectorIndexError(f"{directory}: holds other files and no index; choose another directory")
        return
    with naming(directory / INDEX):
        ours = is_ours(files.read(directory / INDEX))
    if not ours and not any(re.fullmatch(_DATA, name) for name in names):
        raise VectorIndexError(f"{directory / INDEX}: is no index's; choose another directory")


def publish(directory: Path, write: Callable[[Path, Path], IndexInfo]) -> None:
    """Make a new generation the current one. Whatever happens meanwhile, an index already there stays whole.

    Args:
        directory: the index's; made where it is not there.
        write: writes the vectors' and the texts' file and returns their facts.

    Raises:
        VectorIndexError: as `check_target`; or it cannot be written (a full disk), and what was written
            is removed.
    """
    check_target(directory)
    created = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # a folder may be written to and not read
            files.sync(directory.parent)
        # Each save removes the generations that are not its own, so one process at a time saves here.
        with files.locked(directory):
            # Somebody else may have put files there while this one waited.
            _check_ours(directory)
            generation = uuid.uuid4().hex[:12]
            try:
                _write(directory, generation, write)
            except BaseException:
                _remove_unpublished(directory, generation)
                raise
            _remove_generations(directory, keep=generation)
    except (OSError, RuntimeError, sqlite3.Error) as error:
        if created:
            _remove_if_empty(directory)
        raise VectorIndexError(f"{directory}: the index cannot be written: {error}") from error


def _write(directory: Path, generation: str, write: Callable[[Path, Path], IndexInfo]) -> None:
    names = IndexInfo.files_of(generation)
    info = write(*(directory / name for name in names))
    sizes, digests = {}, {}
    for name in names:
        files.sync(directory / name)
        with (directory / name).open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
            sizes[name] = os.fstat(file.fileno()).st_size
    info = replace(info, generation=generation, sizes_bytes=sizes, sha256=digests)
    files.replace(directory / INDEX, written(info), partial=directory / f"{INDEX}.{generation}")


def _remove_unpublished(directory: Path, generation: str) -> None:
    """Remove what a failed save wrote, unless it failed after index.json named it, or that cannot be told."""
    try:
        published = (directory / INDEX).read_bytes()
    except FileNotFoundError:
        published = b""
    except OSError:
        return
    if generation.encode() not in published:
        _remove(directory, lambda name: generation in name)


def _remove_generations(directory: Path, *, keep: str) -> None:
    """Remove the files of every generation but one: the one replaced, and what crashed saves left."""
    _remove(directory, lambda name: keep not in name)


def _remove(directory: Path, chosen: Callable[[str], bool]) -> None:
    """Remove some of the files whose names only a save makes."""
    for path in directory.iterdir():
        if _OURS.fullmatch(path.name) and chosen(path.name) and not path.is_dir():
            path.unlink(missing_ok=True)


def _remove_if_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):
        directory.rmdir()
