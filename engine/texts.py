"""The texts beside the vectors: ids, titles and texts by integer key, in SQLite."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from paritas.errors import InputError, VectorIndexError

_TABLE = """
CREATE TABLE IF NOT EXISTS documents (
    key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, title TEXT NOT NULL, text TEXT NOT NULL
) STRICT
"""
# SQLite takes at most this many parameters a statement in its oldest builds.
_PARAMETERS = 900

Row = tuple[int, str, str, str]
"""key, id, title, text"""


class TextStore:
    """A table of documents. May be used by many threads: calls take turns."""

    def __init__(self, path: Path | None = None, *, read_only: bool = False) -> None:
        """Open a table.

        Args:
            path: a file saved before. None makes a private one on disk that goes when it is closed.
            read_only: read the file in place; otherwise it is copied into a private one first.

        Raises:
            VectorIndexError: the file is damaged or no such table.
        """
        self._lock = threading.Lock()
        try:
            if path is not None and read_only:
                # Saved files are never changed in place, so no lock is taken on them either.
                uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
                self._db = sqlite3.connect(uri, uri=True, check_same_thread=False)
            else:
                self._db = sqlite3.connect("", check_same_thread=False)
                if path is not None:
                    with sqlite3.connect(path) as saved:
                        saved.backup(self._db)
                    saved.close()
                self._db.execute(_TABLE)
            self._next_key = int(
                self._db.execute("SELECT COALESCE(MAX(key), -1) + 1 FROM documents").fetchone()[0]
            )
        except sqlite3.Error as error:
            raise VectorIndexError(f"{path}: not a readable table of texts: {error}") from error

    def __len__(self) -> int:
        with self._lock:
            return int(self._db.execute("SELECT COUNT(*) FROM documents").fetchone()[0])

    def add(self, ids: Sequence[str], titles: Sequence[str], texts: Sequence[str]) -> range:
        """Add documents and return their keys; all of them or, on error, none.

        Raises:
            InputError: an id is there already.
        """
        with self._lock:
            keys = range(self._next_key, self._next_key + len(ids))
            try:
                with self._db:
                    rows = zip(keys, ids, titles, texts, strict=True)
                    self._db.executemany("INSERT INTO documents VALUES (?, ?, ?, ?)", rows)
            except sqlite3.IntegrityError as error:
                raise InputError(f"{self._first_known(ids)}; ids must differ, remove() it first") from error
            except UnicodeEncodeError as error:
                raise InputError(f"half a surrogate pair, which is no character: {error}") from error
            except sqlite3.Error as error:
                raise VectorIndexError(f"the texts cannot be kept: {error}") from error
            self._next_key = keys.stop
            return keys

    def _first_known(self, ids: Sequence[str]) -> str:
        seen: set[str] = set()
        for name in ids:
            known = self._db.execute("SELECT 1 FROM documents WHERE id = ?", (name,)).fetchone()
            if known or name in seen:
                return f"id {name!r} was added before"
            seen.add(name)
        return "an id was added before"

    def rows(self, keys: Iterable[int]) -> dict[int, Row]:
        """Return rows by key."""
        return {row[0]: row for row in self._select("key", [int(key) for key in keys])}

    def keys(self, ids: Sequence[str]) -> list[int]:
        """Return the keys of ids.

        Raises:
            InputError: an id is not there.
        """
        found = {row[1]: row[0] for row in self._select("id", list(ids))}
        missing = [name for name in ids if name not in found]
        if missing:
            raise InputError(f"id {missing[0]!r} is not in the index")
        return [found[name] for name in ids]

    def _select(self, column: str, values: Sequence[int | str]) -> list[Row]:
        rows: list[Row] = []
        with self._lock:
            for start in range(0, len(values), _PARAMETERS):
                part = values[start : start + _PARAMETERS]
                marks = ",".join("?" * len(part))
                query = f"SELECT key, id, title, text FROM documents WHERE {column} IN ({marks})"  # noqa: S608
                try:
                    rows += self._db.execute(query, list(part)).fetchall()
                except sqlite3.Error as error:
                    raise VectorIndexError(f"the texts cannot be read: {error}; index anew") from error
        return rows

    def remove(self, keys: Sequence[int]) -> None:
        """Remove documents by key."""
        with self._lock, self._db:
            self._db.executemany("DELETE FROM documents WHERE key = ?", [(int(key),) for key in keys])

    def save(self, path: Path) -> None:
        """Write the table to a new file.

        Raises:
            sqlite3.Error: it cannot be written.
        """
        with self._lock:
            target = sqlite3.connect(path)
            try:
                self._db.backup(target)
            finally:
                target.close()

    def close(self) -> None:
        """Release the file; a private table is gone then."""
        self._db.close()
