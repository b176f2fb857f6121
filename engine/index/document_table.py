"""The documents of the vectors: ids, titles and texts, each with the key of its vector, in SQLite."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from paritas.engine.index.info import IndexInfo
from paritas.errors import InputError, VectorIndexError

# Documents of equal vectors share one; `vectors` finds it by the digest of what is stored.
# A vector's key is that of the first document that had it.
_DOCUMENTS = """CREATE TABLE documents (
    key INTEGER PRIMARY KEY, vector INTEGER NOT NULL, id TEXT NOT NULL UNIQUE, title TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT"""
_ORPHANS = "DELETE FROM vectors WHERE NOT EXISTS (SELECT 1 FROM documents WHERE vector = vectors.key)"
_BY_VECTOR = "CREATE INDEX documents_by_vector ON documents (vector, key)"
_VECTORS = "CREATE TABLE vectors (key INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE) STRICT"
# The first documents of each of some vectors.
_FIRST = """WITH wanted (vector) AS (VALUES {values})
SELECT wanted.vector, {columns} FROM wanted, documents WHERE documents.key IN (
    SELECT key FROM documents WHERE vector = wanted.vector ORDER BY key LIMIT {limit}
)"""
# The same where no document ever shared its vector: both have one key.
_ONLY = "SELECT key, {columns} FROM documents WHERE key IN ({marks})"
# The file says which of the two it is.
_SHARES = "PRAGMA user_version"

# SQLite takes at most this many parameters a statement in its oldest builds.
_PARAMETERS = 900
# Pages that a save copies at a time: a search waits for a millisecond.
_PAGES = 256

Row = tuple[Any, ...]
"""key, id, title, text; or the key alone"""


class DocumentTable:
    """A table of documents. May be used by many threads: calls take turns."""

    def __init__(self, path: Path | None = None, *, read_only: bool = False) -> None:
        """Open a table.

        Args:
            path: a file saved before. None makes a private one on disk that goes when it is closed.
            read_only: read the file in place; otherwise it is copied into a private one first.

        Raises:
            VectorIndexError: the file is missing, damaged or no such table.
        """
        self._lock = threading.Lock()
        with _failing("read"):
            self._db = _opened(path) if read_only and path is not None else _private(path)
        try:
            columns = [row[1] for row in self._fetch("PRAGMA table_info(documents)", ())]
            self.has_vectors = "vector" in columns
            """Whether documents may share a vector; not in tables made with format 1."""
            self.shares = self._fetch(_SHARES, ())[0][0] != 0
            """Whether one ever did."""
            self.count = 0
            self.next_key = self._next()
        except BaseException:
            self._db.close()
            raise

    def _next(self) -> int:
        return int(self._fetch("SELECT COALESCE(MAX(key), -1) + 1 FROM documents", ())[0][0])

    def recount(self) -> None:
        """Count anew what is there, after a change that was interrupted at its end."""
        self.count = int(self._fetch("SELECT COUNT(*) FROM documents", ())[0][0])
        self.next_key = self._next()

    def check(self, info: IndexInfo) -> None:
        """Hold the table against an index's facts; where these have no digest of it, read it whole.

        Raises:
            VectorIndexError: it is damaged.
        """
        if info.format >= 2:
            # The file has been digested; counting would read it once more.
            self.count = info.count
            return
        fault = self._fetch("PRAGMA integrity_check(1)", ())[0][0]
        self.recount()
        if fault != "ok" or self.count != info.count:
            fault = fault if fault != "ok" else f"{self.count} documents, expected {info.count}"
            raise VectorIndexError(f"not a readable table of texts: {fault}; index anew")

    def upgrade(self, shared: Iterable[tuple[int, int, bytes]]) -> None:
        """Make a private table of format 1 one of format 2.

        Args:
            shared: each document's key, its vector's key, and the digest of that.
        """
        with self._lock, _failing("kept"), self._db:
            self._db.execute("ALTER TABLE documents RENAME TO before")
            for statement in (_DOCUMENTS, _VECTORS, "CREATE TEMP TABLE shared (key INTEGER PRIMARY KEY, v)"):
                self._db.execute(statement)
            for key, vector, digest in shared:
                self._db.execute("INSERT INTO shared VALUES (?, ?)", (key, vector))
                self._db.execute("INSERT OR IGNORE INTO vectors VALUES (?, ?)", (vector, digest))
            self._db.execute(
                "INSERT INTO documents SELECT key, v, id, title, text FROM before JOIN shared USING (key)"
            )
            for statement in ("DROP TABLE before", "DROP TABLE shared", _BY_VECTOR):
                self._db.execute(statement)
            self.has_vectors = True
        self.shares = any(key != vector for key, vector in self.all_keys())

    def check_new(self, ids: Sequence[str]) -> None:
        """Refuse ids that are there, or twice among these.

        Raises:
            InputError: it names the first one.
        """
        known = {name for _, name in self._select("key, id", "id", ids)}
        for name in ids:
            if name in known:
                raise InputError(f"id {name!r} was added before; ids must differ, remove() it first")
            known.add(name)

    def add(
        self, ids: Sequence[str], titles: Sequence[str], texts: Sequence[str], digests: Sequence[bytes]
    ) -> list[int]:
        """Add documents, all of them or, on error, none.

        Args:
            ids: none of them there; see `check_new`.
            titles: as many.
            texts: as many.
            digests: of their vectors.

        Returns:
            The places of those whose vector is new. Its key is the document's: `next_key`, as it was, and
            the place.
        """
        known = {digest: key for key, digest in self._select("key, digest", "digest", digests, "vectors")}
        first, vectors, new = self.next_key, [], []
        for place, digest in enumerate(digests):
            if digest not in known:
                known[digest] = first + place
                new.append(place)
            vectors.append(known[digest])
        keys = range(first, first + len(ids))
        self.shares = self.shares or len(new) < len(ids)
        with self._lock, _failing("kept"), self._db:
            self._db.executemany(
                "INSERT INTO vectors VALUES (?, ?)", [(first + place, digests[place]) for place in new]
            )
            rows = zip(keys, vectors, ids, titles, texts, strict=True)
            self._db.executemany("INSERT INTO documents VALUES (?, ?, ?, ?, ?)", rows)
        self.count, self.next_key = self.count + len(ids), keys.stop
        return new

    def keys(self, ids: Sequence[str]) -> list[int]:
        """Return the keys of ids.

        Raises:
            InputError: an id is not there.
        """
        keys = {name: key for key, name in self._select("key, id", "id", ids)}
        missing = next((name for name in ids if name not in keys), None)
        if missing is not None:
            raise InputError(f"id {missing!r} is not in the index")
        return [keys[name] for name in ids]

    def all_keys(self) -> list[tuple[int, int]]:
        """Return the key of each document and that of its vector, in the order in which they were added."""
        vector = "vector" if self.has_vectors else "key"
        return self._fetch(f"SELECT key, {vector} FROM documents ORDER BY key", ())  # noqa: S608

    def first(self, vectors: Iterable[int], limit: int, *, texts: bool = True) -> dict[int, list[Row]]:
        """Return the first documents of each vector.

        Args:
            vectors: keys of vectors.
            limit: how many of each at most.
            texts: with id, title and text; otherwise rows hold the key alone.
        """
        columns = "documents.key, id, title, text" if texts else "documents.key"
        documents: dict[int, list[Row]] = {}
        for part in _parts(list(vectors)):
            if self.shares:
                values = ",".join(["(?)"] * len(part))
                query = _FIRST.format(columns=columns, values=values, limit=limit)
            else:
                query = _ONLY.format(columns=columns, marks=",".join("?" * len(part)))
            for key, *row in self._fetch(query, part):
                documents.setdefault(key, []).append(tuple(row))
        return documents

    def rows(self, keys: Iterable[int]) -> dict[int, Row]:
        """Return documents by key."""
        return {row[0]: row for row in self._select("key, id, title, text", "key", list(keys))}

    def remove(self, keys: Sequence[int]) -> list[int]:
        """Remove documents by key, all or none, and return the keys of the vectors that have none left."""
        vectors = {vector for _, vector in self._select("key, vector", "key", keys)}
        left: list[tuple[int]] = []
        with self._lock, _failing("kept"), self._db:
            gone = self._db.executemany("DELETE FROM documents WHERE key = ?", [(key,) for key in keys])
            for part in _parts(sorted(vectors)):
                marks = ",".join("?" * len(part))
                left += self._db.execute(f"{_ORPHANS} AND key IN ({marks}) RETURNING key", part).fetchall()
        self.count -= gone.rowcount
        return [key for (key,) in left]

    def remove_since(self, first: int) -> None:
        """Remove the documents whose key is `first` or more, whatever was interrupted while they came."""
        with self._lock, _failing("kept"), self._db:
            self._db.execute("DELETE FROM documents WHERE key >= ?", (first,))
            self._db.execute(_ORPHANS)
        self.recount()

    def remove_vectors(self, vectors: Sequence[int]) -> None:
        """Remove all documents of some vectors."""
        for part in _parts(vectors):
            self.remove([key for _, key in self._select("vector, key", "vector", part)])

    def vectors(self) -> list[int]:
        """Return the keys of all vectors."""
        return [key for (key,) in self._fetch("SELECT key FROM vectors", ())]

    def save(self, path: Path) -> None:
        """Write the table to a new file.

        Raises:
            sqlite3.Error: it cannot be written.
        """
        # In steps: SQLite lets searches read between two. Nobody writes meanwhile.
        with contextlib.closing(sqlite3.connect(path)) as target:
            self._db.backup(target, pages=_PAGES)
            target.execute(f"{_SHARES} = {int(self.shares)}")

    def close(self) -> None:
        """Release the file; a private table is gone then."""
        with self._lock:
            self._db.close()

    def _select(self, what: str, column: str, values: Sequence[Any], table: str = "documents") -> list[Any]:
        rows: list[Any] = []
        for part in _parts(values):
            marks = ",".join("?" * len(part))
            rows += self._fetch(f"SELECT {what} FROM {table} WHERE {column} IN ({marks})", part)  # noqa: S608
        return rows

    def _fetch(self, query: str, values: Sequence[Any]) -> list[Any]:
        with self._lock, _failing("read"):
            return self._db.execute(query, values).fetchall()


@contextlib.contextmanager
def _failing(done: str) -> Iterator[None]:
    """Turn what SQLite raises into this package's errors."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise InputError(f"half a surrogate pair, which is no character: {error}") from error
    except (sqlite3.Error, UnicodeDecodeError, MemoryError, OverflowError) as error:
        advice = "; index anew" if done == "read" else ""
        raise VectorIndexError(f"the texts cannot be {done}: {error}{advice}") from error


def _opened(path: Path) -> sqlite3.Connection:
    # Saved files are never changed in place, so no lock is taken on them. A missing one is not made.
    uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    return sqlite3.connect(uri, uri=True, check_same_thread=False)


def _private(path: Path | None) -> sqlite3.Connection:
    database = sqlite3.connect("", check_same_thread=False)
    if path is None:
        for statement in (_DOCUMENTS, _BY_VECTOR, _VECTORS):
            database.execute(statement)
        return database
    try:
        with contextlib.closing(_opened(path)) as saved:
            saved.backup(database)
    except BaseException:
        database.close()
        raise
    return database


def _parts(values: Sequence[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(values), _PARAMETERS):
        yield list(values[start : start + _PARAMETERS])
