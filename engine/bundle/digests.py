"""Files held against their digests: what is read is what was found whole.

A name says nothing: between a digest and a load, another file may come to have it, and a directory may be
exchanged for another. So each file's size, times, inode and device are taken with its digest, and looked at
again before and after everything that reads it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from paritas import files
from paritas.engine.bundle import digest_cache as checked
from paritas.engine.bundle.digest_cache import Checked, Look, look
from paritas.engine.bundle.manifest import FileEntry
from paritas.errors import BundleError

# How often files that change while they are read are read anew.
_TRIES = 3

_T = TypeVar("_T")


class Words(NamedTuple):
    """What messages say of a directory."""

    what: str
    """As in "missing from the bundle"."""
    again: str
    """What to do about a missing file."""
    since: str
    """As in "changed since the export"."""
    mend: str
    """What to do about a changed file."""


class _Found(NamedTuple):
    """A file as it was when it was found whole."""

    look: Look
    settled: bool
    """A change since would show: the last one was longer ago than a tick of the file system's clock."""


class Whole:
    """The files of one directory and which of them were found whole. May be used by many threads at once."""

    def __init__(self, directory: Path, entries: Mapping[str, FileEntry], words: Words) -> None:
        """Take what the files should be; none is opened yet.

        Args:
            directory: where they lie.
            entries: digest and size by name.
            words: for messages.
        """
        self._directory = directory
        self._entries = entries
        self._words = words
        self._found: dict[str, _Found] = {}

    @property
    def names(self) -> set[str]:
        """The files found whole so far."""
        return set(self._found)

    def trust(self, names: Iterable[str]) -> None:
        """Take files for whole as they are now: whoever wrote them this moment need not read them."""
        for name in names:
            self._found[name] = _Found(look(self._directory / name), settled=True)

    def verify(self, names: Iterable[str]) -> None:
        """Read files and check their digests.

        Raises:
            BundleError: one is missing, changed, or written to meanwhile; the message names it.
        """
        for name in names:
            self._found[name] = self._digested(name)

    def _digested(self, name: str) -> _Found:
        expected, path, words = self._entries[name], self._directory / name, self._words
        try:
            now_ns, before = time.time_ns(), look(path)
            actual = digest(path) if before.size_bytes == expected.size_bytes else None
            after = look(path)
        except OSError as error:
            raise BundleError(f"{path}: missing from the {words.what}: {error}; {words.again}") from error
        if actual == expected.sha256 and before == after:
            return _Found(before, checked.settled(before, now_ns))
        what = f"sha256 {actual}"
        if actual is None:
            what = f"{before.size_bytes} bytes, expected {expected.size_bytes}"
        if name in self._found or before != after:
            raise BundleError(
                f"{path}: changed since {words.since} ({what}), and after it was loaded: the {words.what} "
                "was replaced or written to; load it again"
            )
        raise BundleError(f"{path}: changed since {words.since} ({what}); {words.mend}")

    def check(self, names: Iterable[str], *, remember: bool = True) -> None:
        """Check files as `verify` does, but read none that is as it was when it was found whole.

        Args:
            names: which.
            remember: by any process that left a record of it; see `Checked`.

        Raises:
            BundleError: as `verify`.
        """
        doubtful = [name for name in names if not self._is_as_found(name)]
        if not doubtful:
            return
        if not remember:
            self.verify(doubtful)
            return
        known = Checked(self._directory)
        unknown = {}
        for name in doubtful:
            sha256 = self._entries[name].sha256
            if known.digest(name) == sha256:
                self._found[name] = _Found(known.looks[name], settled=True)
            else:
                unknown[name] = sha256
        self.verify(unknown)
        known.keep(unknown)

    def read(self, names: Iterable[str], load: Callable[[], _T], *, remember: bool = True) -> _T:
        """Return what `load` makes of files that were whole before it and are the same ones after it.

        Args:
            names: the files it reads.
            load: may be called again, where they changed meanwhile.
            remember: as for `check`.

        Raises:
            BundleError: as `verify`, or they never stayed the same.
        """
        names = list(names)
        for _ in range(_TRIES):
            # The directory's own look too: it may be exchanged for another, and back.
            place = _look_at(self._directory)
            self.check(names, remember=remember)
            found = {name: self._found[name] for name in names}
            try:
                loaded = load()
            except BundleError:
                if self._are_still(found, place):
                    raise
                continue
            if self._are_still(found, place):
                return loaded
        raise BundleError(f"{self._directory}: written to while it was loaded, {_TRIES} times; load it again")

    def _are_still(self, found: Mapping[str, _Found], place: Look | None) -> bool:
        return _look_at(self._directory) == place and all(map(self._is_still, found, found.values()))

    def _is_still(self, name: str, seen: _Found) -> bool:
        path = self._directory / name
        try:
            # Within a tick of its last change, a file's times show nothing: the second digest does.
            same = seen.settled or digest(path) == self._entries[name].sha256
        except OSError:
            return False
        return same and _look_at(path) == seen.look

    def _is_as_found(self, name: str) -> bool:
        seen = self._found.get(name)
        return seen is not None and seen.settled and _look_at(self._directory / name) == seen.look


def _look_at(path: Path) -> Look | None:
    try:
        return look(path)
    except OSError:
        return None


def digest(path: Path) -> str:
    """Return the sha256 of a regular file, in hexadecimal."""
    with files.open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
