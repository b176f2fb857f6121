"""Files held against their digests: what is loaded is what was verified.

A name says nothing. Between a digest and a load, another file may come to have it, and a directory may be
exchanged for another. So each file's state (size, times, inode and device) is taken with its digest. It is
compared before and after everything that reads the file.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from paritas import files
from paritas.engine.bundle.digest_cache import DigestCache, FileState, file_state, settled
from paritas.engine.bundle.manifest import FileEntry
from paritas.errors import BundleError

# How often files that change while they are read are read anew.
_TRIES = 3

_T = TypeVar("_T")


class Messages(NamedTuple):
    """What error messages say of a directory."""

    kind: str
    """As in "missing from the bundle"."""
    if_missing: str
    """What to do about a missing file."""
    since: str
    """As in "changed since the export"."""
    if_changed: str
    """What to do about a changed file."""


class _Verified(NamedTuple):
    """A file as it was when it was verified."""

    state: FileState
    settled: bool
    """A change since would show: the last one was longer ago than a tick of the file system's clock."""


class VerifiedFiles:
    """The files of one directory, and which of them were verified. May be used by many threads at once."""

    def __init__(self, directory: Path, entries: Mapping[str, FileEntry], messages: Messages) -> None:
        """Take what the files should be; none is opened yet.

        Args:
            directory: where they lie.
            entries: digest and size by name.
            messages: what errors say.
        """
        self._directory = directory
        self._entries = entries
        self._messages = messages
        self._verified: dict[str, _Verified] = {}

    @property
    def names(self) -> set[str]:
        """The files verified so far."""
        return set(self._verified)

    def trust(self, names: Iterable[str]) -> None:
        """Take files for verified as they are now: whoever wrote them this moment need not read them."""
        for name in names:
            self._verified[name] = _Verified(file_state(self._directory / name), settled=True)

    def verify(self, names: Iterable[str]) -> None:
        """Read files and check their digests.

        Raises:
            BundleError: one is missing, changed, or written to meanwhile; the message names it.
        """
        for name in names:
            self._verified[name] = self._digested(name)

    def _digested(self, name: str) -> _Verified:
        expected, path, messages = self._entries[name], self._directory / name, self._messages
        try:
            now_ns, before = time.time_ns(), file_state(path)
            actual = digest(path) if before.size_bytes == expected.size_bytes else None
            after = file_state(path)
        except OSError as error:
            raise BundleError(
                f"{path}: missing from the {messages.kind}: {error}; {messages.if_missing}"
            ) from error
        if actual == expected.sha256 and before == after:
            return _Verified(before, settled(before, now_ns))
        difference = f"sha256 {actual}"
        if actual is None:
            difference = f"{before.size_bytes} bytes, expected {expected.size_bytes}"
        if name in self._verified or before != after:
            raise BundleError(
                f"{path}: changed since {messages.since} ({difference}), and after it was loaded: the "
                f"{messages.kind} was replaced or written to; load it again"
            )
        raise BundleError(f"{path}: changed since {messages.since} ({difference}); {messages.if_changed}")

    def doubtful(self, names: Iterable[str]) -> list[str]:
        """Return those that neither this object nor the `DigestCache` knows as they are, smallest first."""
        cache = DigestCache(self._directory)
        doubtful = [
            name
            for name in names
            if not self._is_as_verified(name) and cache.digest(name) != self._entries[name].sha256
        ]
        return sorted(doubtful, key=lambda name: self._entries[name].size_bytes)

    def has_size(self, name: str) -> bool:
        """Say whether a file is there and of the right size."""
        state = _state_if_there(self._directory / name)
        return state is not None and state.size_bytes == self._entries[name].size_bytes

    def check(self, names: Iterable[str], *, use_cache: bool = True) -> None:
        """Check files as `verify` does, but read none that is as it was when it was verified.

        Args:
            names: which.
            use_cache: nor any whose digest is in the `DigestCache`.

        Raises:
            BundleError: as `verify`.
        """
        doubtful = [name for name in names if not self._is_as_verified(name)]
        if not doubtful:
            return
        if not use_cache:
            self.verify(doubtful)
            return
        cache = DigestCache(self._directory)
        unknown = {}
        for name in doubtful:
            sha256 = self._entries[name].sha256
            if cache.digest(name) == sha256:
                self._verified[name] = _Verified(cache.states[name], settled=True)
            else:
                unknown[name] = sha256
        self.verify(unknown)
        cache.keep(unknown)

    def read(self, names: Iterable[str], load: Callable[[], _T], *, use_cache: bool = True) -> _T:
        """Return what `load` makes of files that are verified before it, and the same ones after it.

        Args:
            names: the files it reads.
            load: may be called again, where they changed meanwhile.
            use_cache: as for `check`.

        Raises:
            BundleError: as `verify`, or they never stayed the same.
        """
        names = list(names)
        for _ in range(_TRIES):
            # The directory's own state too: it may be exchanged for another, and back.
            directory_state = _state_if_there(self._directory)
            self.check(names, use_cache=use_cache)
            verified = {name: self._verified[name] for name in names}
            try:
                loaded = load()
            except BundleError:
                if self._are_still(verified, directory_state):
                    raise
                continue
            if self._are_still(verified, directory_state):
                return loaded
        raise BundleError(f"{self._directory}: written to while it was loaded, {_TRIES} times; load it again")

    def _are_still(self, verified: Mapping[str, _Verified], directory_state: FileState | None) -> bool:
        return _state_if_there(self._directory) == directory_state and all(
            map(self._is_still, verified, verified.values())
        )

    def _is_still(self, name: str, verified: _Verified) -> bool:
        path = self._directory / name
        try:
            # Within a tick of its last change, a file's times show nothing: the second digest does.
            same = verified.settled or digest(path) == self._entries[name].sha256
        except OSError:
            return False
        return same and _state_if_there(path) == verified.state

    def _is_as_verified(self, name: str) -> bool:
        verified = self._verified.get(name)
        if verified is None or not verified.settled:
            return False
        return _state_if_there(self._directory / name) == verified.state


def _state_if_there(path: Path) -> FileState | None:
    try:
        return file_state(path)
    except OSError:
        return None


def digest(path: Path) -> str:
    """Return the sha256 of a regular file, in hexadecimal."""
    with files.open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
