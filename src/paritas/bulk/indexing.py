"""An index from the shards of a job: nothing is encoded again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from paritas.bulk.folders import Folder, open_folder
from paritas.bulk.ledger import done
from paritas.bulk.plan import Plan
from paritas.bulk.preparing import bundle_digest, changed, read_plan
from paritas.bulk.progress import Progress, Silent
from paritas.bulk.shard_reader import ShardReader
from paritas.bulk.shards import read_tables, vectors_of
from paritas.bulk.sources import Source
from paritas.engine.encoder import Encoder
from paritas.engine.index import DIRECTIONS, Metric, ScalarType, VectorIndex
from paritas.errors import JobError

# Rows whose nearest are asked for, to tell what an index misses.
_ASKED, _NEAREST = 100, 10
# Of two scores that are the same number by other sums.
_SAME_SCORE = 1e-5


class Built(Struct, frozen=True):
    """What building an index did."""

    index: str
    documents: int
    dtype: str
    add_s: float
    documents_per_s: float
    size_bytes: int
    """Of its files."""
    recall: float
    """recall@10 of a hundred rows: of the nearest other rows by the job's own vectors, the share that is
    found. Rows are the easier case; `paritas recall` asks questions."""

    def __str__(self) -> str:
        rate = f"{self.documents_per_s:,.0f} a second"
        return (
            f"{self.documents:,} documents added in {self.add_s:.1f} s, {rate}\n"
            f"{self.size_bytes / 1e6:,.1f} MB as {self.dtype}; "
            f"recall@{_NEAREST} {self.recall:.4f} over the job's own vectors\n"
            f"index: {self.index}"
        )


def finished_job(place: str, dtype: ScalarType = "f32") -> tuple[Folder, Plan]:
    """Return the folder and plan of a job that an index can be built from.

    Args:
        place: the folder.
        dtype: how the index is to store vectors.

    Raises:
        JobError: there is no job, or it is not done, or its vectors are elsewhere or more rounded than the
            index's.
    """
    folder = open_folder(place)
    plan = read_plan(folder)
    if plan is None:
        raise JobError(f"{place}: holds no job; expected what `paritas encode --out` was given")
    if plan.spec.output != "parquet":
        raise JobError(f"{place}: has its vectors as {plan.spec.output}; an index is built from Parquet")
    if plan.spec.dtype == "int8" and dtype not in DIRECTIONS:
        raise JobError(f"{place}: has int8 vectors; of these type: --dtype {' or '.join(DIRECTIONS)}")
    missing = len(plan.shards) - len(done(folder, plan))
    if missing:
        raise JobError(f"{place}: {missing} of {len(plan.shards)} shards are not done; finish the job first")
    return folder, plan


def build_from_job(
    encoder: Encoder,
    folder: Folder,
    plan: Plan,
    sources: Sequence[Source] | None,
    target: Path,
    *,
    dtype: ScalarType = "f32",
    progress: Progress | None = None,
) -> Built:
    """Save an index of a job's vectors to a directory, and return how that went.

    Args:
        encoder: the one of the job, for queries are to fit.
        folder: the job's, whose shards are all there.
        plan: likewise.
        sources: the job's input, for the answers' titles and texts; where None they are empty.
        target: the index's directory.
        dtype: how the index stores vectors.
        progress: is told how it goes.

    Raises:
        JobError: the encoder is another one than the job's, or the input has changed.
        InputError: an id comes twice, or the dtype does not fit the model's vectors.
        VectorIndexError: the index cannot be written.
    """
    if bundle_digest(encoder) != plan.spec.bundle:
        raise JobError(
            f"{folder.place}: was encoded by {plan.spec.model} in {plan.spec.precision}, by another bundle "
            f"than {encoder.bundle.directory}; name that one with --model"
        )
    if sources is not None and (told := changed(plan.inputs, sources)):
        raise JobError(f"{folder.place}: the texts are not the job's: {'; '.join(told[:4])}")
    with VectorIndex(encoder, dtype=dtype) as index:
        took_s = _add(index, folder, plan, sources, progress or Silent())
        index.save(target)
        return Built(
            index=str(target),
            documents=len(index),
            dtype=dtype,
            add_s=round(took_s, 3),
            documents_per_s=round(len(index) / max(took_s, 1e-9), 1),
            size_bytes=sum(path.stat().st_size for path in target.iterdir()),
            recall=_recall(index, folder, plan),
        )


def _add(
    index: VectorIndex, folder: Folder, plan: Plan, sources: Sequence[Source] | None, progress: Progress
) -> float:
    """Add all rows of a job, and return the seconds that adding alone took."""
    reader = None if sources is None else ShardReader(plan, sources)
    took_s = 0.0
    for number, (ids, vectors) in enumerate(_shards(folder, plan)):
        documents = None if reader is None else reader.read(number)
        begun = time.perf_counter()
        index.add(
            ids,
            vectors,
            titles=None if documents is None else [document.title for document in documents],
            texts=None if documents is None else [document.text for document in documents],
        )
        took_s += time.perf_counter() - begun
        progress.indexed(len(ids), plan.rows)
    if reader is not None:
        reader.close()
    return took_s


def _shards(folder: Folder, plan: Plan) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """Yield the ids and vectors of each shard, float32, (rows, dim)."""
    for table in read_tables(folder, plan):
        yield table.column("id").to_pylist(), np.asarray(vectors_of(table, plan), np.float32)


def _recall(index: VectorIndex, folder: Folder, plan: Plan) -> float:
    """Return recall@10 of some rows: what the graph misses, and what rounding the vectors changes.

    A row's nearest are those among all others by the job's own vectors, in one more pass over the shards. An
    answer counts where it is as near as the last of these, so equal vectors may stand for each other.
    """
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(plan.rows, min(_ASKED, plan.rows), replace=False))
    names, queries = _rows(folder, plan, rows)
    k = min(_NEAREST, plan.rows - 1)
    if k == 0:
        return 1.0
    found = [
        [hit.id for hit in hits if hit.id != name][:k]
        for name, hits in zip(names, index.search(queries, k + 1), strict=True)
    ]
    wanted = {id_ for ids in found for id_ in ids}
    nearest = np.full((len(rows), k), -np.inf, np.float32)
    scores: dict[str, NDArray[np.float32]] = {}
    first = 0
    for ids, vectors in _shards(folder, plan):
        by_row = _scores(queries, vectors, index.info.metric)
        scores |= {id_: by_row[:, place].copy() for place, id_ in enumerate(ids) if id_ in wanted}
        own = np.flatnonzero((rows >= first) & (rows < first + len(ids)))
        by_row[own, rows[own] - first] = -np.inf
        nearest = np.partition(np.hstack([nearest, by_row]), -k, axis=1)[:, -k:]
        first += len(ids)
    least = nearest.min(axis=1) - _SAME_SCORE
    right = sum(scores[id_][row] >= least[row] for row, ids in enumerate(found) for id_ in ids)
    return float(right) / (k * len(rows))


def _rows(folder: Folder, plan: Plan, rows: NDArray[np.int64]) -> tuple[list[str], NDArray[np.float32]]:
    """Return the ids and vectors of some rows of a job, by their numbers in order."""
    ends = np.cumsum([shard.rows for shard in plan.shards])
    names: list[str] = []
    vectors: list[NDArray[np.float32]] = []
    numbers = np.unique(np.searchsorted(ends, rows, side="right")).tolist()
    for number, table in zip(numbers, read_tables(folder, plan, numbers), strict=True):
        begin = ends[number] - plan.shards[number].rows
        chosen = table.take(rows[(rows >= begin) & (rows < ends[number])] - begin)
        names += chosen.column("id").to_pylist()
        vectors.append(np.asarray(vectors_of(chosen, plan), np.float32))
    return names, np.concatenate(vectors)


def _scores(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], metric: Metric
) -> NDArray[np.float32]:
    """Return (queries, vectors): larger is nearer, for each query by itself."""
    products: NDArray[np.float32] = queries @ vectors.T
    squares = np.einsum("ij,ij->i", vectors, vectors)
    if metric == "cos":
        products /= np.sqrt(np.maximum(squares, np.float32(1e-30)))
    elif metric == "l2sq":
        products -= squares / 2
    return products
