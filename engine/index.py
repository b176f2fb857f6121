"""The index: vectors in usearch, their texts in SQLite, and the name of the bundle that made them.

On disk an index is a directory. `index.json` names the files of the current generation; saving writes a
new generation beside it and then replaces that one small file, so whoever opens the directory, at any
time and after any crash, finds one whole index.

    index.json   vectors-<generation>.usearch   texts-<generation>.sqlite
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import usearch.index
from msgspec import Struct
from numpy.typing import NDArray

from paritas import files
from paritas.engine.cpus import available_cpus
from paritas.engine.encoder import Encoder
from paritas.engine.texts import TextStore
from paritas.errors import InputError, ShapeError, VectorIndexError
from paritas.registry import Precision

INDEX = "index.json"
FORMAT = 1

_GENERATIONS = ("vectors-*.usearch", "texts-*.sqlite", "texts-*.sqlite-journal", f"{INDEX}.*")

Metric = Literal["ip", "cos", "l2sq"]
ScalarType = Literal["f32", "f16", "bf16"]


class IndexInfo(Struct, frozen=True, forbid_unknown_fields=True):
    """What an index is made of and by; index.json holds it."""

    format: int
    model: str
    bundle: str
    """Where the bundle lay when the index was made."""
    fingerprint: str
    precision: Precision
    family: str
    dim: int
    metric: Metric
    dtype: ScalarType
    connectivity: int
    expansion_add: int
    expansion_search: int
    count: int = 0
    generation: str = ""
    sizes_bytes: dict[str, int] = {}

    @property
    def files(self) -> tuple[str, str]:
        """The names of the vectors' and of the texts' file."""
        return f"vectors-{self.generation}.usearch", f"texts-{self.generation}.sqlite"


class Hit(Struct, frozen=True):
    """One answer."""

    id: str
    score: float
    """Inner product or cosine, larger is nearer; minus the squared distance for "l2sq"."""
    title: str
    text: str


class VectorIndex:
    """Vectors of one encoder, searchable. Searching may be done by many threads at once; adding by one."""

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
            dtype: how vectors are stored.
            metric: "ip" (inner product), "cos" or "l2sq"; what the checkpoint compares its vectors by where
                None, and "ip" where it says nothing.
            connectivity: neighbours a node; the HNSW paper's M (Malkov and Yashunin, arXiv:1603.09320).
            expansion_add: candidates while adding; the paper's efConstruction.
            expansion_search: candidates while searching; the paper's ef.

        Raises:
            InputError: an unknown dtype or metric, a number out of its range, or a checkpoint whose
                similarity is none of the metrics.
        """
        metric = metric if metric is not None else _metric_of(encoder)
        _check_choice("dtype", dtype, ScalarType)
        _check_choice("metric", metric, Metric)
        _check_least("connectivity", connectivity, 2)
        _check_least("expansion_add", expansion_add, 1)
        _check_least("expansion_search", expansion_search, 1)
        self.info = IndexInfo(
            format=FORMAT,
            model=encoder.bundle.manifest.model,
            bundle=str(encoder.bundle.directory.resolve()),
            fingerprint=encoder.fingerprint,
            precision=encoder.precision,
            family=encoder.family,
            dim=encoder.dim,
            metric=metric,
            dtype=dtype,
            connectivity=connectivity,
            expansion_add=expansion_add,
            expansion_search=expansion_search,
        )
        self._vectors = usearch.index.Index(
            ndim=encoder.dim,
            metric=metric,
            dtype=dtype,
            connectivity=connectivity,
            expansion_add=expansion_add,
            expansion_search=expansion_search,
        )
        self._texts = TextStore()
        self._read_only = self._closed = False

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, mmap: bool = True) -> VectorIndex:
        """Open a saved index.

        Args:
            path: its directory.
            mmap: search it from the file, read-only, sharing memory with other processes; otherwise read
                it into memory, where it can be added to.

        Raises:
            VectorIndexError: no index there, or a damaged one.
        """
        directory = Path(path)
        while True:
            info = _read_info(directory)
            try:
                return cls._open(directory, info, mmap=mmap)
            except VectorIndexError:
                # A save by another process removes the former generation, perhaps just now: look again.
                if _read_info(directory).generation == info.generation:
                    raise

    @classmethod
    def _open(cls, directory: Path, info: IndexInfo, *, mmap: bool) -> VectorIndex:
        _check_sizes(directory, info)
        index = cls.__new__(cls)
        index.info = info
        index._vectors = _load_vectors(directory / info.files[0], info, mmap=mmap)
        index._texts = TextStore(directory / info.files[1], read_only=mmap)
        index._read_only, index._closed = mmap, False
        return index

    def __len__(self) -> int:
        self._check_open()
        return len(self._vectors)

    def __contains__(self, name: object) -> bool:
        self._check_open()
        try:
            return bool(self._texts.keys([str(name)]))
        except InputError:
            return False

    def check(self, encoder: Encoder) -> None:
        """Refuse an encoder whose vectors this index cannot be searched with.

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
        if encoder.dim != self.info.dim:
            raise VectorIndexError(
                f"the index holds vectors of {self.info.dim} dimensions, the encoder's have {encoder.dim}; "
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
            VectorIndexError: the index was opened read-only.
        """
        self._check_writeable()
        vectors = self._checked(vectors)
        titles = titles if titles is not None else [""] * len(ids)
        texts = texts if texts is not None else [""] * len(ids)
        counts = {"ids": len(ids), "vectors": len(vectors), "titles": len(titles), "texts": len(texts)}
        if len(set(counts.values())) > 1:
            raise InputError(f"expected as many of each, got {counts}")
        for name, values in (("id", ids), ("title", titles), ("text", texts)):
            wrong = next((value for value in values if not isinstance(value, str)), None)
            if wrong is not None:
                raise InputError(f"{name} {wrong!r} is {type(wrong).__name__}; expected a string")
        if not len(ids):
            return
        ids, titles, texts = ([str(value) for value in values] for values in (ids, titles, texts))  # np.str_
        keys = self._texts.add(ids, titles, texts)
        try:
            self._vectors.add(np.array(keys, np.uint64), vectors, threads=available_cpus())
        except BaseException:
            # Neither a text without its vector nor, worse, a vector without its text may stay.
            self._vectors.remove(np.array(keys, np.uint64))
            self._texts.remove(keys)
            raise

    def remove(self, ids: Sequence[str]) -> None:
        """Remove documents.

        Raises:
            InputError: an id is not there; nothing is removed then.
            VectorIndexError: the index was opened read-only.
        """
        self._check_writeable()
        keys = self._texts.keys(ids)
        self._vectors.remove(np.array(keys, np.uint64))
        self._texts.remove(keys)

    def search(self, vectors: NDArray[np.float32], k: int = 10, *, exact: bool = False) -> list[list[Hit]]:
        """Return the k nearest documents of each query vector, nearest first.

        Args:
            vectors: float32, (queries, dim).
            k: how many; fewer come back where the index holds fewer.
            exact: compare with every vector instead of walking the HNSW graph.

        Raises:
            ShapeError: the vectors do not fit.
            InputError: k is less than 1.
            VectorIndexError: the index was closed, or is damaged.
        """
        found = self._nearest(vectors, k, exact=exact)
        rows = self._texts.rows({key for keys, _ in found for key in keys})
        if any(key not in rows for keys, _ in found for key in keys):
            raise VectorIndexError("a vector has no text; the index is damaged, index anew")
        # usearch gives distances: 1 - inner product, 1 - cosine, or the squared Euclidean one.
        nearest = 0.0 if self.info.metric == "l2sq" else 1.0
        return [
            [
                Hit(rows[key][1], nearest - distance, rows[key][2], rows[key][3])
                for key, distance in zip(keys, distances, strict=True)
            ]
            for keys, distances in found
        ]

    def recall(self, vectors: NDArray[np.float32], k: int = 10) -> float:
        """Return the share of the exact k nearest documents that the HNSW search finds, 0 to 1.

        Args:
            vectors: float32, (queries, dim), at least one.
        """
        exact = self._nearest(vectors, k, exact=True)
        approximate = self._nearest(vectors, k, exact=False)
        pairs = zip(exact, approximate, strict=True)
        shares = [len(set(wanted) & set(got)) / len(wanted) for (wanted, _), (got, _) in pairs if wanted]
        if not shares:
            raise InputError("recall needs at least one query and one document")
        return float(np.mean(shares))

    def sample(self, count: int, *, seed: int = 0) -> NDArray[np.float32]:
        """Return some of the stored vectors, float32, (count, dim), or all where there are fewer."""
        self._check_open()
        keys = np.array(self._vectors.keys[: len(self)], np.uint64)
        chosen = np.random.default_rng(seed).permutation(keys)[:count]
        if not len(chosen):
            return np.zeros((0, self.info.dim), np.float32)
        return np.asarray(self._vectors.get(chosen), np.float32).reshape(len(chosen), self.info.dim)

    def _nearest(
        self, vectors: NDArray[np.float32], k: int, *, exact: bool
    ) -> list[tuple[list[int], list[float]]]:
        self._check_open()
        vectors = self._checked(vectors)
        if k < 1:
            raise InputError(f"k is {k}; expected 1 or more")
        if not len(vectors) or not len(self):
            return [([], [])] * len(vectors)
        # usearch returns other types for a single query; two dimensions in give two out.
        try:
            matches = self._vectors.search(
                np.atleast_2d(vectors), min(k, len(self)), exact=exact, threads=available_cpus()
            )
        except RuntimeError as error:
            raise VectorIndexError(
                f"the vectors cannot be searched: {error}; where memory is not short the index is damaged, "
                "index anew"
            ) from error
        keys, distances = np.atleast_2d(matches.keys), np.atleast_2d(matches.distances)
        counts = getattr(matches, "counts", None)
        ends = [keys.shape[1]] if counts is None else [int(count) for count in counts]
        return [
            (keys[row, :end].astype(int).tolist(), distances[row, :end].astype(float).tolist())
            for row, end in enumerate(ends)
        ]

    def _checked(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        found = np.asarray(vectors)
        if found.ndim != 2 or found.shape[1] != self.info.dim or found.dtype != np.float32:
            raise ShapeError(
                f"vectors are {found.dtype} {found.shape}; expected float32 (queries, {self.info.dim})"
            )
        if not np.isfinite(found).all():
            row = int(np.argmin(np.isfinite(found).all(axis=1)))
            raise InputError(f"vector {row} holds NaN or infinite values")
        return np.ascontiguousarray(found)

    def _check_open(self) -> None:
        if self._closed:
            raise VectorIndexError("the index was closed")

    def _check_writeable(self) -> None:
        self._check_open()
        if self._read_only:
            raise VectorIndexError("the index was opened read-only; open it with load(path, mmap=False)")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a directory; whatever happens meanwhile, an index already there stays whole.

        Raises:
            VectorIndexError: as `check_target`; or it cannot be written (a full disk), and what was
                written is removed.
        """
        self._check_open()
        directory = Path(path)
        check_target(directory)
        info = msgspec.structs.replace(self.info, count=len(self), generation=uuid.uuid4().hex[:12])
        created = not directory.exists()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            # Each save removes the generations that are not its own, so one process at a time saves here.
            with files.locked(directory):
                try:
                    self._write(directory, info)
                except BaseException:
                    _remove_unpublished(directory, info.generation)
                    raise
                _remove_generations(directory, keep=info.generation)
        except (OSError, RuntimeError, sqlite3.Error) as error:
            if created:
                _remove_if_empty(directory)
            raise VectorIndexError(f"{directory}: the index cannot be written: {error}") from error

    def _write(self, directory: Path, info: IndexInfo) -> None:
        vectors, texts = info.files
        self._vectors.save(directory / vectors)
        self._texts.save(directory / texts)
        for name in info.files:
            files.sync(directory / name)
        sizes = {name: (directory / name).stat().st_size for name in info.files}
        info = msgspec.structs.replace(info, sizes_bytes=sizes)
        content = msgspec.json.format(msgspec.json.encode(info), indent=1) + b"\n"
        files.replace(directory / INDEX, content, partial=directory / f"{INDEX}.{info.generation}")

    def close(self) -> None:
        """Release memory and files."""
        self._closed = True
        self._vectors.reset()
        self._texts.close()

    def __enter__(self) -> VectorIndex:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def check_target(directory: Path) -> None:
    """Refuse a place where no index can be saved, before anybody encodes a million texts for it.

    Raises:
        VectorIndexError: a file, a directory of other files, or no permission to write there.
    """
    if directory.is_dir() and not _is_ours({path.name for path in directory.iterdir()}):
        raise VectorIndexError(f"{directory}: holds other files and no index; choose another directory")
    path = directory.absolute()
    existing = next(place for place in (path, *path.parents) if place.exists())
    if not existing.is_dir():
        raise VectorIndexError(f"{existing}: is a file; an index is a directory, choose another place")
    if not os.access(existing, os.W_OK):
        raise VectorIndexError(f"{existing}: no permission to write there; choose another place")


def _read_info(directory: Path) -> IndexInfo:
    path = directory / INDEX
    try:
        info = msgspec.json.decode(path.read_bytes(), type=IndexInfo)
    except FileNotFoundError:
        raise VectorIndexError(
            f"{directory}: no index there; type: paritas index INPUT --model MODEL --out {directory}"
        ) from None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise VectorIndexError(f"{path}: {error}; index anew") from error
    if info.format > FORMAT:
        raise VectorIndexError(f"{path}: format {info.format}, this paritas reads up to {FORMAT}; upgrade it")
    if not info.generation.isalnum():
        raise VectorIndexError(f"{path}: {info.generation!r} is no generation; index anew")
    return info


def _check_sizes(directory: Path, info: IndexInfo) -> None:
    for name in info.files:
        path = directory / name
        size = path.stat().st_size if path.exists() else None
        if size is None or size != info.sizes_bytes.get(name):
            found = "missing" if size is None else f"{size} bytes, expected {info.sizes_bytes.get(name)}"
            raise VectorIndexError(f"{path}: {found}; the index is damaged, index anew")


def _load_vectors(path: Path, info: IndexInfo, *, mmap: bool) -> Any:
    try:
        vectors = usearch.index.Index.restore(path, view=mmap)
    except (RuntimeError, ValueError, OSError) as error:
        raise VectorIndexError(f"{path}: not a readable index: {error}; index anew") from error
    if vectors is None or vectors.ndim != info.dim or len(vectors) != info.count:
        raise VectorIndexError(f"{path}: does not hold what {INDEX} says; the index is damaged, index anew")
    vectors.expansion_add, vectors.expansion_search = info.expansion_add, info.expansion_search
    return vectors


def _is_ours(names: set[str]) -> bool:
    """Say whether a directory of these names holds an index, or nothing but what a save has written so far.

    From one listing: with a second look at the directory, a save that ends between the two makes its
    own index.json a foreign file.
    """
    return INDEX in names or all(any(fnmatch(name, own) for own in _GENERATIONS) for name in names)


def _metric_of(encoder: Encoder) -> Metric:
    """Return the metric that ranks as the checkpoint says its vectors are compared."""
    manifest = encoder.bundle.manifest
    if manifest.similarity == "manhattan":
        raise InputError(
            f"{manifest.model} compares vectors by manhattan distance, which the index has not; expected "
            f"metric {', '.join(get_args(Metric))}; give one of them"
        )
    if manifest.similarity == "euclidean":
        return "l2sq"
    return "cos" if manifest.similarity == "cosine" and not manifest.contract.normalize else "ip"


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise InputError(f"unknown {name} {value!r}; expected one of {', '.join(get_args(choices))}")


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{name} is {value}; expected {least} or more")


def _remove_unpublished(directory: Path, generation: str) -> None:
    """Remove what a failed save wrote, unless it failed after index.json named it, or that cannot be told."""
    try:
        published = (directory / INDEX).read_bytes()
    except FileNotFoundError:
        published = b""
    except OSError:
        return
    if generation.encode() not in published:
        for path in directory.glob(f"*{generation}*"):
            path.unlink(missing_ok=True)


def _remove_generations(directory: Path, *, keep: str) -> None:
    """Remove the files of every generation but one: the one replaced, and what crashed saves left."""
    for pattern in _GENERATIONS:
        for path in directory.glob(pattern):
            if f"-{keep}." not in path.name:
                path.unlink(missing_ok=True)


def _remove_if_empty(directory: Path) -> None:
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()
