"""Ids and texts that come more than once in a corpus that memory cannot hold."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import NamedTuple

from paritas.errors import JobError

_BATCH = 4096
_Row = tuple[str, bytes, int, int, int, int]


class Double(NamedTuple):
    """An id that comes more than once."""

    id: str
    first: tuple[int, int]
    """The input and the place in it."""
    second: tuple[int, int]
    ids: int
    """How many such ids there are."""


@contextmanager
def _told() -> Iterator[None]:
    """Raise what SQLite says as one error."""
    try:
        yield
    except sqlite3.Error as error:
        raise JobError(
            f"a temporary database for ids cannot be used: {error}; make room where TMPDIR is, or type: "
            "export TMPDIR=DIR"
        ) from error


class Doubles:
    """All rows of a job, in a database on disk that is gone when it is closed.

    All methods raise a JobError where it cannot be written.
    """

    def __init__(self) -> None:
        """Make the database where the system keeps temporary files (TMPDIR)."""
        self._database = sqlite3.connect("", isolation_level=None)  # an empty name: a temporary file
        for setting in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-65536"):
            self._database.execute(f"PRAGMA {setting}")
        # The numbers of rows are the order in which they came.
        self._database.execute(
            "CREATE TABLE documents"
            " (id TEXT, text BLOB, shard INTEGER, place INTEGER, input INTEGER, number INTEGER)"
        )
        self._waiting: list[_Row] = []

    def add(self, id_: str, text: bytes, shard: int, place: int, source: int, number: int) -> None:
        """Note a row: its id, its text's key, where it goes, and where it comes from."""
        self._waiting.append((id_, text, shard, place, source, number))
        if len(self._waiting) == _BATCH:
            self._flush()

    @_told()
    def _flush(self) -> None:
        self._database.execute("BEGIN")
        self._database.executemany("INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?)", self._waiting)
        self._database.execute("COMMIT")
        self._waiting.clear()

    @_told()
    def first_double(self) -> Double | None:
        """Return the id that comes twice soonest; None where each comes once."""
        self._flush()
        twice = self._database.execute(
            "SELECT MIN(second), COUNT(*) FROM (SELECT n AS second FROM ("
            " SELECT rowid AS n, ROW_NUMBER() OVER (PARTITION BY id ORDER BY rowid) AS nth FROM documents"
            ") WHERE nth = 2)"
        ).fetchone()
        if twice[0] is None:
            return None
        id_, *second = self._database.execute(
            "SELECT id, input, number FROM documents WHERE rowid = ?", twice[:1]
        ).fetchone()
        first = self._database.execute(
            "SELECT input, number FROM documents WHERE id = ? ORDER BY rowid LIMIT 1", (id_,)
        ).fetchone()
        return Double(id_, first, (second[0], second[1]), twice[1])

    @_told()
    def dropped(self, *, keep: str) -> list[tuple[int, list[int]]]:
        """Return the shards that lose rows whose ids come more than once, with those rows' places in order.

        Args:
            keep: "first" or "last" of the rows of an id.
        """
        self._flush()
        order = "ASC" if keep == "first" else "DESC"
        rows = self._database.execute(
            "SELECT shard, place FROM (SELECT shard, place, "  # noqa: S608
            f"ROW_NUMBER() OVER (PARTITION BY id ORDER BY rowid {order}) AS nth FROM documents)"
            " WHERE nth > 1 ORDER BY 1, 2"
        )
        grouped = groupby(rows, key=lambda row: row[0])
        return [(shard, [place for _, place in places]) for shard, places in grouped]

    @_told()
    def repeated_texts(self) -> list[bytes]:
        """Return the keys of texts that stand in more than one shard, in order."""
        self._flush()
        rows = self._database.execute(
            "SELECT text FROM documents GROUP BY text HAVING MIN(shard) < MAX(shard) ORDER BY text"
        )
        return [key for (key,) in rows]

    def close(self) -> None:
        """Remove it."""
        self._database.close()
