"""The content of an index, vectors and documents together: many readers, one change, nothing half done.

A change holds the turn of changes from its beginning to its end, and the turn without readers for one short
part after the other. Whatever exception ends it, at whatever instruction, the next call finds what it left
and takes it back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from paritas.engine.index.document_table import DocumentTable, Row
from paritas.engine.index.hnsw import HnswGraph, Neighbours, digests
from paritas.engine.index.turns import Turns
from paritas.errors import VectorIndexError

# Documents added in one turn; searches that wait come between two of them.
_CHUNK = 128

# Queries answered in one turn; changes that wait, and the searches behind them, come between two of them.
_QUERIES = 512
# With so many answers or fewer, the texts of all that may be among them are read at once.
_AT_ONCE = 100

Nearest = list[tuple[float, Row]]
"""Distances and documents, nearest first."""

Result = TypeVar("Result")


class Batch(NamedTuple):
    """Documents to be added: each field has as many."""

    ids: Sequence[str]
    titles: Sequence[str]
    texts: Sequence[str]
    digests: Sequence[bytes]
    vectors: NDArray[Any]
    """As `stored` gives them."""

    def part(self, start: int) -> Batch:
        """Return those that are added in one turn."""
        some = slice(start, start + _CHUNK)
        return Batch(
            self.ids[some], self.titles[some], self.texts[some], self.digests[some], self.vectors[some]
        )


class _TornError(Exception):
    """A change was interrupted; what it left must be taken back before anybody reads."""


class Contents:
    """Vectors and their documents. All methods may be called by many threads at once."""

    def __init__(self, graph: HnswGraph, documents: DocumentTable) -> None:
        """Take what belongs together."""
        self._graph, self._documents = graph, documents
        self._closed = False
        self._changes, self._uses = Turns(), Turns()
        self._torn = False
        """Whether something is half done; who has a turn and sees it knows that a change was interrupted."""
        self._unfinished: int | None = None
        """The first key of the documents whose adding has not ended."""

    def check_open(self) -> None:
        """Refuse further use once it is closed."""
        if self._closed:
            raise VectorIndexError("the index was closed")

    def count(self) -> int:
        """Return how many documents there are."""
        return self._use(lambda: self._documents.count)

    def keys(self, ids: Sequence[str]) -> list[int]:
        """Return the keys of ids.

        Raises:
            InputError: an id is not there.
        """
        return self._use(lambda: self._documents.keys(ids))

    def search(self, vectors: NDArray[Any], k: int, *, exact: bool) -> list[Nearest]:
        """Return the k nearest documents of each query; these are as `stored` gives them, here and below."""
        nearest: list[Nearest] = []
        for start in range(0, len(vectors), _QUERIES):
            part = vectors[start : start + _QUERIES]
            nearest += self._use(partial(self._search, part, k, exact=exact))
        if not len(vectors):
            self._use(lambda: None)
        return nearest

    def _search(self, vectors: NDArray[Any], k: int, *, exact: bool) -> list[Nearest]:
        at_once = k <= _AT_ONCE or not self._documents.shares
        nearest = self._nearest(vectors, k, exact=exact, texts=at_once)
        if at_once:
            return nearest
        rows = self._documents.rows({row[0] for of_query in nearest for _, row in of_query})
        return [[(distance, rows[row[0]]) for distance, row in of_query] for of_query in nearest]

    def both(self, vectors: NDArray[Any], k: int) -> tuple[list[Nearest], list[Nearest]]:
        """Return the k nearest documents, only their keys, by comparing all and by walking the graph."""
        exact: list[Nearest] = []
        walked: list[Nearest] = []
        for start in range(0, len(vectors), _QUERIES):
            part = self._use(partial(self._both, vectors[start : start + _QUERIES], k))
            exact += part[0]
            walked += part[1]
        return exact, walked

    def _both(self, vectors: NDArray[Any], k: int) -> tuple[list[Nearest], list[Nearest]]:
        nearest = partial(self._nearest, vectors, k, texts=False)
        return nearest(exact=True), nearest(exact=False)

    def _nearest(self, vectors: NDArray[Any], k: int, *, exact: bool, texts: bool) -> list[Nearest]:
        # The k nearest vectors have k documents or more.
        neighbours = self._graph.search(vectors, k, exact=exact)
        wanted = {key for keys, _ in neighbours for key in keys}
        documents = self._documents.first(wanted, min(k, self._documents.count), texts=texts)
        if len(documents) < len(wanted):
            raise VectorIndexError("a vector has no text; the index is damaged, index anew")
        return [_documents_of(of_query, documents)[:k] for of_query in neighbours]

    def sample(self, count: int, seed: int) -> NDArray[np.float32]:
        """Return the vectors of some documents, float32, (count, dim), or of all where there are fewer."""

        def sample() -> NDArray[np.float32]:
            vectors = np.array([vector for _, vector in self._documents.all_keys()], np.uint64)
            return self._graph.get(np.random.default_rng(seed).permutation(vectors)[:count])

        return self._use(sample)

    def sample_documents(self, count: int, seed: int) -> tuple[list[Row], NDArray[np.float32]]:
        """Return some documents, or all where there are fewer, and the vector of each."""

        def sample() -> tuple[list[Row], NDArray[np.float32]]:
            drawn = np.random.default_rng(seed).permutation(self._documents.all_keys())[:count]
            rows = self._documents.rows(int(key) for key, _ in drawn)
            return [rows[int(key)] for key, _ in drawn], self._graph.get(drawn[:, 1].astype(np.uint64))

        return self._use(sample)

    def save(self, vectors: Path, texts: Path) -> tuple[int, int]:
        """Write two new files and return how many documents and how many vectors they hold.

        Raises:
            OSError, RuntimeError, sqlite3.Error: they cannot be written.
        """

        def save() -> tuple[int, int]:
            self._graph.save(vectors)
            self._documents.save(texts)
            return self._documents.count, len(self._graph)

        return self._change(lambda: self._uses.shared(save))

    def close(self) -> None:
        """Release memory and files, once the calls under way have ended."""

        def close() -> None:
            if not self._closed:
                self._closed = True
                self._graph.close()
                self._documents.close()

        self._changes.exclusive(lambda: self._uses.exclusive(close))

    def add(self, batch: Batch) -> None:
        """Add documents: all or none.

        Raises:
            InputError: an id is there already.
        """
        self._change(lambda: self._add(batch))

    def _add(self, batch: Batch) -> None:
        self._documents.check_new(batch.ids)
        self._unfinished = self._documents.next_key
        try:
            for start in range(0, len(batch.ids), _CHUNK):
                self._alter(partial(self._add_part, batch.part(start)))
            self._unfinished = None
        except BaseException:
            # Neither a text without its vector nor, worse, a vector without its text may stay.
            self._settle()
            raise

    def _add_part(self, batch: Batch) -> None:
        first = self._documents.next_key
        new = self._documents.add(batch.ids, batch.titles, batch.texts, batch.digests)
        self._graph.add([first + place for place in new], batch.vectors[new])

    def remove(self, ids: Sequence[str]) -> None:
        """Remove documents.

        Raises:
            InputError: an id is not there; nothing is removed then.
        """
        self._change(lambda: self._remove(ids))

    def _remove(self, ids: Sequence[str]) -> None:
        keys = self._documents.keys(ids)
        self._alter(lambda: self._graph.remove(self._documents.remove(keys)))
        self._rebuild_worn()

    def _rebuild_worn(self) -> None:
        """Build the graph anew where most of it was removed. Searches use the old one meanwhile."""
        if not self._graph.worn:
            return
        fresh = self._graph.rebuilt()

        def swap() -> None:
            old, self._graph = self._graph, fresh
            old.close()

        self._uses.exclusive(swap)

    def upgrade(self) -> None:
        """Give documents with equal vectors one of them, where format 1 gave each its own."""
        keys = [key for key, _ in self._documents.all_keys()]
        vector_digests = list(digests(self._graph.stored(np.array(keys, np.uint64)))) if keys else []
        first: dict[bytes, int] = {}
        for key, digest in zip(keys, vector_digests, strict=True):
            first.setdefault(digest, key)
        shared = [(key, first[digest], digest) for key, digest in zip(keys, vector_digests, strict=True)]
        self._documents.upgrade(shared)
        self._graph.remove([key for key, vector, _ in shared if key != vector])
        self._rebuild_worn()

    def _use(self, work: Callable[[], Result]) -> Result:
        """Read beside others that read."""

        def use() -> Result:
            self.check_open()
            if self._torn:
                raise _TornError
            return work()

        while True:
            try:
                return self._uses.shared(use)
            except _TornError:
                self._change(lambda: None)

    def _change(self, work: Callable[[], Result]) -> Result:
        """Do something that no other change may come between."""

        def change() -> Result:
            self.check_open()
            self._settle()
            return work()

        return self._changes.exclusive(change)

    def _alter(self, work: Callable[[], object]) -> None:
        """Do one part of a change while nobody reads."""

        def alter() -> None:
            self._torn = True
            work()
            self._torn = False

        self._uses.exclusive(alter)

    def _settle(self) -> None:
        """Take back what an interrupted change has done."""
        if self._torn or self._unfinished is not None:
            self._uses.exclusive(self._mend)

    def _mend(self) -> None:
        if self._unfinished is not None:
            self._documents.remove_since(self._unfinished)
        listed, there = np.array(self._documents.vectors(), np.uint64), self._graph.keys()
        self._graph.remove(np.setdiff1d(there, listed).tolist())
        self._documents.remove_vectors(np.setdiff1d(listed, there).tolist())
        self._documents.recount()
        self._unfinished = None
        self._torn = False


def _documents_of(neighbours: Neighbours, documents: dict[int, list[Row]]) -> Nearest:
    """Return the documents of some vectors, nearest first and, where equally near, in order of their keys."""
    return sorted(
        (distance, row) for key, distance in zip(*neighbours, strict=True) for row in documents[key]
    )
