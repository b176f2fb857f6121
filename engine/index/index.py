"""The index as its callers see it: many threads may search it while others change it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from paritas.arguments import choice, flag, plain, whole_number
from paritas.engine.encoder import Encoder
from paritas.engine.index import arguments
from paritas.engine.index.contents import Batch, Contents
from paritas.engine.index.document_table import DocumentTable
from paritas.engine.index.generations import Generation, naming, publish, read_info
from paritas.engine.index.hnsw import HnswGraph, digests
from paritas.engine.index.info import FORMAT, METRICS, SCALAR_TYPES, Hit, IndexInfo, Metric, ScalarType
from paritas.engine.index.storage import check_metric, score, stored
from paritas.errors import InputError, VectorIndexError

# Far beyond any use: usearch makes room for them before it says that there is none.
_MOST_NEIGHBOURS, _MOST_CANDIDATES = 4096, 2**20


class VectorIndex:
    """Vectors of one encoder, searchable. All of its methods may be called by many threads at once.

    Searches run side by side. Changes and saves take turns in the order of their calls. Documents are added
    in parts: a search that comes meanwhile waits for one part at most, and may find the parts before it.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        dtype: ScalarType = "f32",
        metric: Metric | None = None,
        connectivity: int = 16,
        expansion_add: int = 128,
        expansion_search: int = 64,
    ) -> None:
        """Make an empty index for an encoder's vectors.

        Args:
            encoder: whose vectors it will hold; it keeps the fingerprint, not the encoder.
            dtype: how vectors are stored; "i8" and "b1" keep their directions alone.
            metric: "ip" (inner product), "cos" or "l2sq"; what the checkpoint compares its vectors by where
                None, and "ip" where it says nothing.
            connectivity: neighbours a node; the HNSW paper's M (Malkov and Yashunin, arXiv:1603.09320).
            expansion_add: candidates while adding; the paper's efConstruction.
            expansion_search: candidates while searching; the paper's ef.

        Raises:
            InputError: an unknown dtype or metric, or two that do not go together; a number of the wrong
                type or out of its range. Or the checkpoint's similarity is none of the metrics.
        """
        metric = metric if metric is not None else _metric_of(encoder)
        self.info = IndexInfo(
            format=FORMAT,
            model=encoder.bundle.manifest.model,
            bundle=arguments.encodable(encoder.bundle.directory.resolve()),
            fingerprint=encoder.fingerprint,
            precision=encoder.precision,
            family=encoder.family,
            dim=encoder.dim,
            metric=choice("metric", metric, METRICS),
            dtype=choice("dtype", dtype, SCALAR_TYPES),
            connectivity=whole_number("connectivity", connectivity, 2, _MOST_NEIGHBOURS),
            expansion_add=whole_number("expansion_add", expansion_add, 1, _MOST_CANDIDATES),
            expansion_search=whole_number("expansion_search", expansion_search, 1, _MOST_CANDIDATES),
        )
        unit = encoder.bundle.manifest.contract.normalize
        check_metric(self.info.dtype, self.info.metric, unit=unit)
        self._contents = Contents(HnswGraph(self.info), DocumentTable())
        self._mapped: Path | None = None
        """The directory it is searched in, read-only; None where it is in memory."""

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, mmap: bool = True) -> VectorIndex:
        """Open a saved index, its files checked against their digests.

        Args:
            path: its directory.
            mmap: search it from the file, read-only, sharing memory with other processes; otherwise read
                it into memory, where it can be added to.

        Raises:
            VectorIndexError: no index there, a damaged one, or one that this user may not read.
            InputError: no path.
        """
        directory, mmap = arguments.directory(path), flag("mmap", mmap)
        while True:
            info = read_info(directory)
            try:
                return cls._open(directory, info, mmap=mmap)
            except VectorIndexError:
                # A save by another process removes the former generation, perhaps just now: look again.
                if read_info(directory).generation == info.generation:
                    raise

    @classmethod
    def _open(cls, directory: Path, info: IndexInfo, *, mmap: bool) -> VectorIndex:
        with Generation(directory, info) as files, contextlib.ExitStack() as opened:
            with naming(files.texts):
                documents = DocumentTable(files.texts, read_only=mmap)
                opened.callback(documents.close)
                documents.check(info)
            files.check_texts()
            with naming(files.vectors):
                graph = HnswGraph.read(info, files.content, view=mmap)
            index = cls.__new__(cls)
            index.info = info
            index._contents = Contents(graph, documents)
            index._mapped = directory.resolve() if mmap else None
            if not (mmap or documents.has_vectors):
                index._contents.upgrade()
            opened.pop_all()
            return index

    def __len__(self) -> int:
        return self._contents.count()

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        try:
            return bool(self._contents.keys([plain(name)]))
        except InputError:
            return False

    def __reduce__(self) -> Any:
        """Pickle a mapped index as its directory."""
        if self._mapped is None:
            raise VectorIndexError(
                "an index in memory cannot be pickled; save it, and load(path) it in the other process"
            )
        return VectorIndex.load, (self._mapped,)

    def check(self, encoder: Encoder, *, dim: int | None = None) -> None:
        """Refuse an encoder whose vectors this index cannot be searched with.

        Args:
            encoder: it.
            dim: the width to which its vectors are cut later on; where None they are taken as they are.

        Raises:
            VectorIndexError: another model, pooling, tokenizer or role, another precision family, or
                vectors cut to another width.
        """
        if encoder.fingerprint != self.info.fingerprint:
            raise VectorIndexError(
                f"the index was made by {self.info.model} (fingerprint {self.info.fingerprint[:12]}), not by "
                f"{encoder.bundle.manifest.model} ({encoder.fingerprint[:12]}); use that bundle or index anew"
            )
        if encoder.family != self.info.family:
            raise VectorIndexError(
                f"the index was made with precision {self.info.precision}, whose vectors cannot be searched "
                f"with those of {encoder.precision}; use precision {self.info.precision!r} or index anew"
            )
        dim = encoder.dim if dim is None else dim
        if dim != self.info.dim:
            raise VectorIndexError(
                f"the index holds vectors of {self.info.dim} dimensions, the encoder's have {dim}; "
                f"load it with truncate_dim={self.info.dim} or index anew"
            )

    def add(
        self,
        ids: Sequence[str],
        vectors: NDArray[np.float32],
        *,
        titles: Sequence[str] | None = None,
        texts: Sequence[str] | None = None,
    ) -> None:
        """Add vectors with their ids and, for the answers, titles and texts.

        Args:
            ids: any strings, each once in an index.
            vectors: float32, (len(ids), dim).
            titles: as many as ids; empty where None.
            texts: as many as ids; empty where None.

        Raises:
            InputError: an id is there already, is no string, or the counts differ; nothing is added then.
            ShapeError: the vectors do not fit.
            VectorIndexError: the index was opened read-only, or closed.
        """
        self._check_writeable()
        names = arguments.strings("id", ids)
        vectors = arguments.matrix(vectors, self.info.dim, self.info.dtype)
        titles = arguments.strings("title", titles) if titles is not None else [""] * len(names)
        texts = arguments.strings("text", texts) if texts is not None else [""] * len(names)
        counts = {"ids": len(names), "vectors": len(vectors), "titles": len(titles), "texts": len(texts)}
        if len(set(counts.values())) > 1:
            raise InputError(f"expected as many of each, got {counts}")
        kept = stored(vectors, self.info.dtype)
        self._contents.add(Batch(names, titles, texts, list(digests(kept)), kept))

    def remove(self, ids: Sequence[str]) -> None:
        """Remove documents.

        Raises:
            InputError: an id is not there; nothing is removed then.
            VectorIndexError: the index was opened read-only, or closed.
        """
        self._check_writeable()
        self._contents.remove(arguments.strings("id", ids))

    def search(self, vectors: NDArray[np.float32], k: int = 10, *, exact: bool = False) -> list[list[Hit]]:
        """Return the k nearest documents of each query vector, nearest first.

        Documents of equal vectors stand in the order in which they were added.

        Args:
            vectors: float32, (queries, dim).
            k: how many; fewer come back where the index holds fewer, and only there.
            exact: compare with every vector instead of walking the HNSW graph.

        Raises:
            ShapeError: the vectors do not fit.
            InputError: k is no whole number or less than 1.
            VectorIndexError: the index was closed, or is damaged.
        """
        vectors = arguments.matrix(vectors, self.info.dim, self.info.dtype)
        k, exact = whole_number("k", k, 1), flag("exact", exact)
        answers = self._contents.search(stored(vectors, self.info.dtype), k, exact=exact)
        score_of = score(self.info)
        return [
            [Hit(name, score_of(distance), title, text) for distance, (_, name, title, text) in nearest]
            for nearest in answers
        ]

    def recall(self, vectors: NDArray[np.float32], k: int = 10) -> float:
        """Return the share of the exact k nearest documents that the HNSW search finds, 0 to 1.

        Both compare vectors as they are stored.

        Args:
            vectors: float32, (queries, dim), at least one.
            k: how many.

        Raises:
            ShapeError: the vectors do not fit.
            InputError: k is no whole number or less than 1, or there are no queries or no documents.
            VectorIndexError: the index was closed, or is damaged.
        """
        vectors, k = arguments.matrix(vectors, self.info.dim, self.info.dtype), whole_number("k", k, 1)
        exact, walked = self._contents.both(stored(vectors, self.info.dtype), k)
        shares = [
            len({row for _, row in wanted} & {row for _, row in got}) / len(wanted)
            for wanted, got in zip(exact, walked, strict=True)
            if wanted
        ]
        if not shares:
            raise InputError("recall needs at least one query and one document")
        return float(np.mean(shares))

    def sample(self, count: int, *, seed: int = 0) -> NDArray[np.float32]:
        """Return the vectors of some documents, float32, (count, dim), or of all where there are fewer.

        They are as rounded as they are stored.

        Raises:
            InputError: count or seed is no whole number of 0 or more.
            VectorIndexError: the index was closed.
        """
        count, seed = whole_number("count", count, 0), whole_number("seed", seed, 0)
        return self._contents.sample(count, seed)

    def sample_documents(self, count: int, *, seed: int = 0) -> tuple[list[Hit], NDArray[np.float32]]:
        """Return some documents, or all where there are fewer, and their vectors, float32, (count, dim).

        A document's score says nothing here: it is 0.

        Raises:
            InputError: count or seed is no whole number of 1 or more, or 0 or more.
            VectorIndexError: the index was closed.
        """
        count, seed = whole_number("count", count, 1), whole_number("seed", seed, 0)
        if not len(self):
            return [], np.zeros((0, self.info.dim), np.float32)
        rows, vectors = self._contents.sample_documents(count, seed)
        return [Hit(name, 0.0, title, text) for _, name, title, text in rows], vectors

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a directory as it is at one moment, with no change half done.

        Whatever happens meanwhile, an index already there stays whole. Changes wait while the files are
        written, searches do not.

        Raises:
            VectorIndexError: the index was closed; or as `check_target`; or it cannot be written (a full
                disk), and what was written is removed.
            InputError: no path.
        """
        directory = arguments.directory(path)
        self._contents.check_open()
        publish(directory, self._write)

    def _write(self, vectors: Path, texts: Path) -> IndexInfo:
        documents, distinct = self._contents.save(vectors, texts)
        return replace(self.info, format=FORMAT, count=documents, distinct=distinct)

    def close(self) -> None:
        """Release memory and files once the calls under way have ended. Later ones raise VectorIndexError."""
        self._contents.close()

    def __enter__(self) -> VectorIndex:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check_writeable(self) -> None:
        self._contents.check_open()
        if self._mapped is not None:
            raise VectorIndexError("the index was opened read-only; open it with load(path, mmap=False)")


def _metric_of(encoder: Encoder) -> Metric:
    """Return the metric that ranks as the checkpoint says its vectors are compared."""
    manifest = encoder.bundle.manifest
    if manifest.similarity == "manhattan":
        raise InputError(
            f"{manifest.model} compares vectors by manhattan distance, which the index has not; expected "
            f"metric {', '.join(METRICS)}; give one of them"
        )
    if manifest.similarity == "euclidean":
        return "l2sq"
    return "cos" if manifest.similarity == "cosine" and not manifest.contract.normalize else "ip"
