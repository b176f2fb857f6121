"""Vectors kept by text, so that none is computed twice: within a job, and across jobs."""

from __future__ import annotations

import hashlib
import math
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paritas.engine.tokenize.tokenizer import Text
from paritas.errors import InputError

_SCHEMA = 1
# SQLite's own number for what a file is, so that no other database is taken for one.
_APPLICATION = 0x70617269
_PATIENCE_S = 60.0
# What SQLite calls it where the file is not to blame.
_NO_ROOM = ("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_FULL", "SQLITE_PERM", "SQLITE_IOERR")
# Keys in one question; SQLite takes 32,766.
_ASKED = 8192
# Entries put at a time.
_PUT = 256
# A row that is used is noted as used, but for as long as this its note is fresh enough.
_FRESH_S = 86_400
# Where the file is full, so much of it is removed at once, of what was not used for longest.
_REMOVED_SHARE = 0.1


class Entry(NamedTuple):
    """What is kept of a text."""

    vector: NDArray[np.float32]
    tokens: int
    truncated: bool


def text_key(text: Text) -> bytes:
    """Return what tells a text from any other: 20 bytes of BLAKE2b of it, or of both sides of a pair."""
    digest = hashlib.blake2b(digest_size=20)
    for part in (text,) if isinstance(text, str) else text:
        content = part.encode()
        digest.update(b"%d:" % len(content))
        digest.update(content)
    return digest.digest()


class VectorCache:
    """Vectors of one model and role in a SQLite file; threads and processes may use one file at a time.

    Other models and roles may use the same file: their keys differ.
    """

    def __init__(self, path: Path | None, *, namespace: str, dim: int, most_bytes: int | None = None) -> None:
        """Open a file, or make it.

        Args:
            path: the file, whose folder is there; one that is gone when it is closed where None.
            namespace: whatever determines vectors beside the text, such as a digest of bundle and role.
            dim: the width of the vectors.
            most_bytes: how large the file may grow; without a bound where None.

        Raises:
            InputError: it is no such file, or cannot be written.
        """
        self._path = path or "a temporary file"
        self._namespace = hashlib.blake2b(namespace.encode(), digest_size=32).digest()
        self._dim, self._most = dim, most_bytes
        self._lock = threading.Lock()
        self._damaged = False
        self.found = self.missed = 0
        """Texts that were asked for and were there, or not."""
        with self._told():
            self._database = sqlite3.connect(
                path or "", timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._database.close()
                raise

    def _prepare(self) -> None:
        execute = self._database.execute
        with self._transaction("BEGIN"):
            new = self._is_new()
        if new:
            execute("PRAGMA auto_vacuum=INCREMENTAL")  # what is removed makes the file smaller
            with self._transaction():
                # Another may have made it since, all of it or nothing.
                if self._is_new():
                    self._create()
        # Readers do not wait for writers; after a power cut the last vectors may be missing, and no more.
        self._patiently("PRAGMA journal_mode=WAL")
        execute("PRAGMA synchronous=NORMAL")

    def _is_new(self) -> bool:
        """Return whether nothing was stored yet; raise where it is another database.

        Three questions of one state of the file: so within a transaction.
        """
        application, version, tables = (
            self._database.execute(question).fetchone()[0]
            for question in (
                "PRAGMA application_id",
                "PRAGMA user_version",
                "SELECT COUNT(*) FROM sqlite_master",
            )
        )
        if tables and (application, version) != (_APPLICATION, _SCHEMA):
            raise InputError(f"{self._path}: is another database; expected a cache of paritas or a new file")
        return not tables

    def _create(self) -> None:
        execute = self._database.execute
        execute(f"PRAGMA application_id={_APPLICATION}")
        execute(f"PRAGMA user_version={_SCHEMA}")
        execute(
            # In the order of their last use, so that removing the first ones frees whole pages.
            "CREATE TABLE vectors (number INTEGER PRIMARY KEY,"
            " key BLOB NOT NULL UNIQUE, value BLOB NOT NULL, used INTEGER NOT NULL)"
        )

    def _patiently(self, statement: str) -> None:
        """Execute one for which SQLite does not wait itself while another has the file open."""
        end = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._database.execute(statement)
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
                time.sleep(0.01)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            advice = "remove it, or name another file"
            if error.sqlite_errorname.startswith(_NO_ROOM):
                advice = (
                    "expected a file, in a folder that is there and may be written to, with room on the disk"
                )
            raise InputError(f"{self._path}: cannot be used as a cache: {error}; {advice}") from error

    def _key(self, text: bytes) -> bytes:
        return hashlib.blake2b(text, key=self._namespace, digest_size=20).digest()

    def get(self, texts: Sequence[bytes]) -> dict[bytes, Entry]:
        """Return what is kept of texts by their keys; nothing of those that are not there.

        Raises:
            InputError: the file is damaged.
        """
        keys = {self._key(text): text for text in texts}
        found: dict[bytes, Entry] = {}
        now, stale = int(time.time()), []
        with self._told():
            for part in _parts(list(keys)):
                marks = ",".join("?" * len(part))
                rows = self._database.execute(
                    f"SELECT key, value, used FROM vectors WHERE key IN ({marks})",  # noqa: S608
                    part,
                )
                for key, value, used in rows:
                    entry = self._entry(value)
                    if entry is None:
                        self._damaged = True  # is computed anew, and put in its place
                        continue
                    found[keys[key]] = entry
                    if now - used > _FRESH_S:
                        stale.append((key, value, now))
            if stale:
                with self._transaction():
                    self._insert("REPLACE", stale)
        self.found += len(found)
        self.missed += len(keys) - len(found)
        return found

    def put(self, entries: Iterable[tuple[bytes, Entry]]) -> None:
        """Keep entries by their texts' keys; what is there already stays.

        Raises:
            InputError: the file cannot be written.
        """
        now = int(time.time())
        rows = iter([(self._key(text), _value(entry), now) for text, entry in entries])
        # A part at a time, so that the file is never larger than its bound by more than that.
        while part := list(islice(rows, _PUT)):
            with self._told():
                with self._transaction():
                    self._insert("REPLACE" if self._damaged else "INSERT OR IGNORE", part)
                self._shrink()

    def _insert(self, how: str, rows: list[tuple[bytes, bytes, int]]) -> None:
        self._database.executemany(f"{how} INTO vectors (key, value, used) VALUES (?, ?, ?)", rows)

    @contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
        self._database.execute(begin)
        try:
            yield
        except BaseException:
            with suppress(sqlite3.Error):  # a full disk has rolled back itself
                self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def _shrink(self) -> None:
        """Remove what was not used for longest, where the file is larger than it may be."""
        if self._most is None:
            return
        page_size, pages, free = (
            self._database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_size", "page_count", "freelist_count")
        )
        used = (pages - free) * page_size
        if used <= self._most:
            return
        rows = self._database.execute("SELECT MAX(number) - MIN(number) + 1 FROM vectors").fetchone()[0] or 1
        removed = math.ceil(rows * (1 - self._most * (1 - _REMOVED_SHARE) / used))
        with self._transaction():
            self._database.execute(
                "DELETE FROM vectors WHERE number IN (SELECT number FROM vectors ORDER BY number LIMIT ?)",
                (removed,),
            )
        self._database.executescript("PRAGMA incremental_vacuum")  # `execute` would free a single page

    def _entry(self, value: bytes) -> Entry | None:
        """Return what a value holds; None where it is damaged."""
        value, check = value[:-4], value[-4:]
        if len(value) != 4 * self._dim + 5 or zlib.crc32(value).to_bytes(4, "little") != check:
            return None
        vector = np.frombuffer(value, "<f4", self._dim)
        tokens = int.from_bytes(value[4 * self._dim : -1], "little")
        return Entry(vector, tokens, bool(value[-1]))

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _value(entry: Entry) -> bytes:
    vector = np.ascontiguousarray(entry.vector, "<f4").tobytes()
    value = vector + int(entry.tokens).to_bytes(4, "little") + bytes([entry.truncated])
    return value + zlib.crc32(value).to_bytes(4, "little")


def _parts(keys: list[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(keys), _ASKED):
        yield keys[start : start + _ASKED]
