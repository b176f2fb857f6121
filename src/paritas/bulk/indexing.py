"""An index from the shards of a job: nothing is encoded again."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from tqdm import tqdm

from paritas.bulk.folders import Folder, open_folder
from paritas.bulk.ledger import done, part_name
from paritas.bulk.plan import Plan
from paritas.bulk.preparing import bundle_digest, changed, read_plan
from paritas.bulk.shard_reader import ShardReader
from paritas.bulk.shards import read_table
from paritas.bulk.sources import Source
from paritas.engine.encoder import Encoder
from paritas.engine.index import ScalarType, VectorIndex
from paritas.errors import JobError

# Stored vectors that are asked for, to tell what the graph misses.
_ASKED, _NEAREST = 100, 10


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
    """recall@10 over a hundred stored vectors, the easier case; see `paritas recall` for questions."""

    def __str__(self) -> str:
        rate = f"{self.documents_per_s:,.0f} a second"
        return (
            f"{self.documents:,} documents added in {self.add_s:.1f} s, {rate}\n"
            f"{self.size_bytes / 1e6:,.1f} MB as {self.dtype}; "
            f"recall@{_NEAREST} {self.recall:.4f} over stored vectors\n"
            f"index: {self.index}"
        )


def finished_job(place: str) -> tuple[Folder, Plan]:
    """Return a job's folder and plan.

    Raises:
        JobError: there is no job, or it is not done, or its vectors are of one byte a channel.
    """
    folder = open_folder(place)
    plan = read_plan(folder)
    if plan is None:
        raise JobError(f"{place}: holds no job; expected what `paritas encode --out` was given")
    if plan.spec.output != "parquet" or plan.spec.dtype == "int8":
        raise JobError(
            f"{place}: has {plan.spec.dtype} vectors as {plan.spec.output}; an index is built from "
            "float32 or float16 in Parquet"
        )
    missing = len(plan.shards) - len(done(folder, plan))
    if missing:
        raise JobError(f"{place}: {missing} of {len(plan.shards)} shards are not done; finish the job first")
    return folder, plan


def index_of_job(
    encoder: Encoder,
    folder: Folder,
    plan: Plan,
    sources: Sequence[Source] | None,
    *,
    dtype: ScalarType = "f32",
    progress: bool = False,
) -> tuple[VectorIndex, float]:
    """Return an index of a job's vectors, in memory, and the seconds that adding took.

    Args:
        encoder: the one of the job, for queries are to fit.
        folder: the job's.
        plan: likewise.
        sources: the job's input, for the answers' titles and texts; where None they are empty.
        dtype: how the index stores vectors.
        progress: show a bar on standard error.

    Raises:
        JobError: the encoder is another one than the job's, or the input has changed.
    """
    if bundle_digest(encoder) != plan.spec.bundle:
        raise JobError(
            f"{folder.place}: was encoded by {plan.spec.model} in {plan.spec.precision}, by another bundle "
            f"than {encoder.bundle.directory}; name that one with --model"
        )
    if sources is not None and (told := changed(plan.inputs, sources)):
        raise JobError(f"{folder.place}: the texts are not the job's: {'; '.join(told[:4])}")
    reader = None if sources is None else ShardReader(plan, sources)
    index = VectorIndex(encoder, dtype=dtype)
    took_s = 0.0
    with tqdm(total=plan.rows, unit=" rows", disable=not progress) as bar:
        for number in range(len(plan.shards)):
            table = read_table(folder, part_name(plan, number))
            flat = table.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
            vectors = np.asarray(flat, np.float32).reshape(-1, plan.spec.dim)
            documents = None if reader is None else reader.read(number)
            begun = time.perf_counter()
            index.add(
                table.column("id").to_pylist(),
                vectors,
                titles=None if documents is None else [document.title for document in documents],
                texts=None if documents is None else [document.text for document in documents],
            )
            took_s += time.perf_counter() - begun
            bar.update(len(vectors))
    if reader is not None:
        reader.close()
    return index, took_s


def describe(index: VectorIndex, place: str, took_s: float, size_bytes: int) -> Built:
    """Return what building did, for people and for JSON."""
    asked = index.sample(_ASKED)
    return Built(
        index=place,
        documents=len(index),
        dtype=index.info.dtype,
        add_s=round(took_s, 3),
        documents_per_s=round(len(index) / max(took_s, 1e-9), 1),
        size_bytes=size_bytes,
        recall=index.recall(asked, _NEAREST),
    )
