"""The vectors and their HNSW graph, in usearch: each distinct vector once, by integer key."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import usearch.index
from numpy.typing import NDArray
from usearch.index import MetricKind, ScalarKind

from paritas.engine.index.arguments import encodable
from paritas.engine.index.info import IndexInfo
from paritas.engine.index.storage import graph_metric, restored
from paritas.engine.runtime.cpus import available_cpus
from paritas.errors import VectorIndexError

_METRICS = {
    "ip": MetricKind.IP,
    "cos": MetricKind.Cos,
    "l2sq": MetricKind.L2sq,
    "hamming": MetricKind.Hamming,
}
_SCALARS = {
    "f32": ScalarKind.F32,
    "f16": ScalarKind.F16,
    "bf16": ScalarKind.BF16,
    "i8": ScalarKind.I8,
    "b1": ScalarKind.B1,
}
# What usearch says where a signal handler raised: the handler's own exception is lost in it.
_INTERRUPTED = "Operation has been terminated"
_REBUILD_CHUNK = 4096
# Candidates of the search by which added vectors are looked for. With 64 it took up to 0.75 of adding's time,
# with 16 a sixth at most, and at last no fewer are found.
_LOOK = 16

Neighbours = tuple[list[int], list[float]]
"""Keys of the vectors nearest to one query, nearest first, and their distances."""


class HnswGraph:
    """An HNSW graph. Searches may run at once; whatever changes it needs it alone, see `Turns`."""

    def __init__(self, info: IndexInfo) -> None:
        """Make an empty one, as an index's facts say."""
        self._info = info
        self._removed = 0
        """How many, since it was built."""
        self._index = usearch.index.Index(
            ndim=info.dim,
            metric=graph_metric(info),
            dtype=info.dtype,
            connectivity=info.connectivity,
            expansion_add=info.expansion_add,
            expansion_search=info.expansion_search,
        )

    @classmethod
    def read(cls, info: IndexInfo, content: Any, *, view: bool) -> HnswGraph:
        """Take one that was saved.

        Args:
            info: the index's facts.
            content: the file's bytes, mapped.
            view: leave them where they are, to be searched only; otherwise copy them.

        Raises:
            VectorIndexError: they hold no graph, or not the one of these facts.
        """
        try:
            index = usearch.index.Index.restore(content, view=view)
        except (RuntimeError, ValueError, OSError, MemoryError) as error:
            raise VectorIndexError(f"not a readable index: {error}; index anew") from error
        if index is None or not _is_as_told(index, info):
            raise VectorIndexError("does not hold what index.json says; the index is damaged, index anew")
        index.expansion_add, index.expansion_search = info.expansion_add, info.expansion_search
        graph = cls.__new__(cls)
        graph._info, graph._index = info, index
        # Freed after the index that looks into it, whatever frees them.
        index.mapped_content = content if view else None
        # Counting nodes reads all of them; one that is only searched needs no count.
        graph._removed = 0 if view else int(index.stats.nodes) - len(index)
        return graph

    def __len__(self) -> int:
        return len(self._index)

    @property
    def worn(self) -> bool:
        """Whether more was removed than there is.

        Searches walk through removed vectors. New ones take their places, whose links lead elsewhere. After
        thousands of such changes of a small graph, searches missed some of its vectors.
        """
        return self._removed > len(self)

    def add(self, keys: Sequence[int], vectors: NDArray[Any]) -> None:
        """Add vectors, as `stored` gives them, under keys that are not there."""
        if not len(keys):
            return
        added, threads = np.array(keys, np.uint64), available_cpus()
        try:
            self._index.add(added, vectors, threads=threads)
            if threads > 1 and len(added) > 1:
                self._add_missed(added, vectors, threads)
        except (RuntimeError, ValueError) as error:
            raise _failure("vectors cannot be added", error) from error

    def _add_missed(self, keys: NDArray[np.uint64], vectors: NDArray[Any], threads: int) -> None:
        """Add those once more, one after the other, that a search for themselves does not find.

        Two threads that add neighbours at one moment do not see each other's. Of 3,000 vectors one to three
        were found by no search at all, and with this none.
        """
        # Nobody else searches while vectors are added.
        self._index.expansion_search = _LOOK
        try:
            matches = self._index.search(vectors, 1, threads=threads)
        finally:
            self._index.expansion_search = self._info.expansion_search
        nearest, distances = matches.keys.reshape(-1), matches.distances.reshape(-1)
        # The nearest may be another one where lengths count. It is missed where it is nearer than the answer.
        own = np.zeros(len(keys), np.float32)
        if graph_metric(self._info) == "ip":
            numbers = np.asarray(vectors, np.float32)
            own = 1 - np.einsum("ij,ij->i", numbers, numbers)
        missed = np.flatnonzero((nearest != keys) & (distances > own))
        if len(missed):
            # Each takes its former place, so that what leads there leads to the same vector.
            self._index.remove(keys[missed])
            self._index.add(keys[missed], vectors[missed], threads=1)

    def remove(self, keys: Sequence[int]) -> None:
        """Remove vectors by key."""
        if len(keys):
            before = len(self)
            self._index.remove(np.array(keys, np.uint64))
            self._removed += before - len(self)

    def keys(self) -> NDArray[np.uint64]:
        """Return all keys, in no order, (len,)."""
        return np.array(self._index.keys[: len(self)], np.uint64)

    def get(self, keys: NDArray[np.uint64]) -> NDArray[np.float32]:
        """Return vectors by key, float32, (len(keys), dim).

        Raises:
            VectorIndexError: a key is not there.
        """
        if not len(keys):
            return np.zeros((0, self._info.dim), np.float32)
        return restored(self.stored(keys), self._info)

    def stored(self, keys: NDArray[np.uint64]) -> NDArray[Any]:
        """Return vectors as they are stored, at least one; errors as `get`."""
        vectors = self._index.get(np.asarray(keys, np.uint64))
        if any(vector is None for vector in vectors):
            raise VectorIndexError("a text has no vector; the index is damaged, index anew")
        return np.asarray(vectors)

    def search(self, vectors: NDArray[Any], k: int, *, exact: bool) -> list[Neighbours]:
        """Return the nearest vectors of each query: k of them, or all where there are fewer.

        Args:
            vectors: the queries, as `stored` gives them.
            k: how many, 1 or more.
            exact: compare with every vector instead of walking the graph.

        Raises:
            VectorIndexError: memory is short, or the graph is damaged.
        """
        wanted = min(k, len(self))
        if not len(vectors) or not wanted:
            return [([], [])] * len(vectors)
        neighbours = self._search(vectors, wanted, exact=exact)
        short = [row for row, (keys, _) in enumerate(neighbours) if len(keys) < wanted]
        if short and not exact:
            # Walks end early among removed vectors: those queries are compared with every vector.
            for row, nearest in zip(short, self._search(vectors[short], wanted, exact=True), strict=True):
                neighbours[row] = nearest
        if any(len(keys) < wanted for keys, _ in neighbours):
            raise VectorIndexError("some vectors cannot be reached; the index is damaged, index anew")
        return neighbours

    def _search(self, vectors: NDArray[Any], wanted: int, *, exact: bool) -> list[Neighbours]:
        # One walk is one thread's work, and asking for the CPUs takes longer than the walk: 140 of 300 µs.
        threads = 1 if len(vectors) == 1 and not exact else available_cpus()
        try:
            matches = self._index.search(vectors, wanted, exact=exact, threads=threads)
        except (RuntimeError, ValueError) as error:
            raise _failure("the vectors cannot be searched", error) from error
        # usearch returns other types for a single query.
        keys, distances = np.atleast_2d(matches.keys), np.atleast_2d(matches.distances)
        counts = getattr(matches, "counts", None)
        ends = [keys.shape[1]] if counts is None else counts.tolist()
        rows = zip(keys.tolist(), distances.tolist(), ends, strict=True)
        return [(near[:end], far[:end]) for near, far, end in rows]

    def rebuilt(self) -> HnswGraph:
        """Return a new graph of the same vectors, without the removed ones."""
        graph = HnswGraph(self._info)
        keys = np.sort(self.keys())
        for start in range(0, len(keys), _REBUILD_CHUNK):
            part = keys[start : start + _REBUILD_CHUNK]
            graph.add(part.tolist(), self.stored(part))
        return graph

    def save(self, path: Path) -> None:
        """Write a new file.

        Raises:
            OSError: it cannot be written.
        """
        # usearch takes names of UTF-8 alone; by its descriptor a file of any name can be opened.
        with path.open("wb") as file:
            try:
                self._index.save(path if encodable(path) == str(path) else f"/dev/fd/{file.fileno()}")
            except RuntimeError as error:
                free_mb = shutil.disk_usage(path.parent).free / 1e6
                raise OSError(f"{error}; {free_mb:,.1f} MB of the disk are free") from error
        size, expected = path.stat().st_size, self._index.serialized_length
        if size != expected:
            raise OSError(f"{size} of {expected} bytes of vectors were written")

    def close(self) -> None:
        """Release memory and the file."""
        self._index.reset()
        self._index.mapped_content = None


def digests(vectors: NDArray[Any]) -> Iterator[bytes]:
    """Yield a digest of each vector, as `stored` gives them: equal vectors have equal ones."""
    # 0 is added because -0 equals 0 and has other bytes.
    for row in np.ascontiguousarray(vectors + vectors.dtype.type(0)):
        yield hashlib.blake2b(row, digest_size=16).digest()


def _is_as_told(index: Any, info: IndexInfo) -> bool:
    return bool(
        index.ndim == info.dim
        and len(index) == info.vectors
        and index.metric_kind == _METRICS[graph_metric(info)]
        and index.dtype == _SCALARS[info.dtype]
    )


def _failure(what: str, error: Exception) -> BaseException:
    if _INTERRUPTED in str(error):
        return KeyboardInterrupt()
    return VectorIndexError(f"{what}: {error}; where memory is not short the index is damaged, index anew")
