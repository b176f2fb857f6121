"""A job from its beginning to its end: planned once, done by any number of workers, and summed up."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from paritas import __version__
from paritas.bulk import ledger as places
from paritas.bulk.folders import Folder
from paritas.bulk.indexing import Built
from paritas.bulk.ledger import Ledger, done, part_name
from paritas.bulk.outputs import INDEX, check_output, remove_shards, write_outputs
from paritas.bulk.pipeline import run_shards
from paritas.bulk.plan import FORMAT, Input, Plan
from paritas.bulk.preparing import Prepared, alone, prepared
from paritas.bulk.progress import Progress, Silent, Stopped
from paritas.bulk.request import Request
from paritas.bulk.shards import facts_of
from paritas.bulk.stages import Stages, Work
from paritas.engine.encoder import Encoder
from paritas.errors import JobError


class Summary(Struct, frozen=True):
    """What a job did; _job/job.json holds it."""

    format: int
    paritas: str
    model: str
    bundle: str
    """A digest of all that determines the vectors."""
    precision: str
    role: str
    dim: int
    dtype: str
    output: str
    inputs: list[Input]
    rows: int
    tokens: int
    truncated: int
    rejected: int
    """Records left out because they cannot be read; _job/rejects.jsonl has each."""
    duplicates: int
    """Rows left out because their id comes twice."""
    repeated: int
    """Texts that stand in more than one shard."""
    kept: int
    """Rows whose vectors were kept from another shard or job."""
    shards: int
    workers: int
    seconds: dict[str, float]
    """Of all workers together, by stage."""
    finished: str
    index: Built | None = None
    """How the index went, where the output is one."""


def encode(
    encoder: Encoder,
    request: Request,
    *,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
    abort: threading.Event | None = None,
    at_once: int = 2,
) -> Summary:
    """Encode a corpus into files, or go on with that where an earlier call ended, however it did.

    Any number of processes, on any number of machines, may make the same call at the same time.

    Args:
        encoder: makes the vectors.
        request: what to encode, and where to.
        progress: is told how it goes.
        stop: when set, the shards under way are finished and no other is begun.
        abort: when set, those under way are left.
        at_once: shards that are encoded side by side. With two, no CPU waits between them.

    Returns:
        What was done, by all workers together.

    Raises:
        InputError: an input or option is wrong, an id comes twice, or a record is refused by `strict`.
        JobError: the folder is another job's, an input changed, or a store is lost.
        Stopped: stop or abort was set before the end.
        OSError: a file cannot be read or written.
    """
    stop, abort = stop or threading.Event(), abort or threading.Event()
    progress = progress or Silent()
    check_output(encoder, request)
    with prepared(encoder, request, progress, stop) as ready:
        if is_done(ready):
            return finish(encoder, ready, progress, stop)
        with closing(Stages(encoder, ready.plan, ready.sources, ready.folder, request, progress)) as stages:
            stages.abort = abort
            _work(stages, progress, stop, at_once)
        progress.finishing()
        return finish(encoder, ready, progress, stop)


def is_done(ready: Prepared) -> bool:
    """Say whether a job's output is there, all of it."""
    folder, plan = ready.folder, ready.plan
    return folder.has(places.SUMMARY) and len(done(folder, plan)) == len(plan.shards)


def _work(stages: Stages, progress: Progress, stop: threading.Event, at_once: int) -> None:
    """Do what is left of a job; return when all of it is done.

    Raises:
        Stopped: it is not.
    """
    folder, plan = stages.folder, stages.plan
    progress.begin(plan.rows, done_rows(folder, plan))
    try:
        run_shards(stages, Ledger(folder, plan, stages.work.worker), stop, at_once=at_once)
    except (CancelledError, KeyboardInterrupt, SystemExit):
        if stop.is_set():
            raise Stopped(len(done(folder, plan)), len(plan.shards)) from None
        raise
    finished = done(folder, plan)
    if len(finished) == len(plan.shards):
        return
    if stop.is_set():
        raise Stopped(len(finished), len(plan.shards))
    lost = part_name(plan, min(set(range(len(plan.shards))) - finished))
    raise JobError(
        f"{folder.place}/{lost}: was written, and is gone or no file; remove what is in its place, if "
        "anything is, and give the same command again"
    )


def done_rows(folder: Folder, plan: Plan) -> int:
    """Return how many rows the shards have that are there."""
    return sum(plan.shards[number].rows for number in done(folder, plan))


def read_summary(folder: Folder) -> Summary | None:
    """Return what a job did; None where it is not done.

    Raises:
        JobError: the file is damaged.
    """
    try:
        return msgspec.json.decode(folder.read(places.SUMMARY), type=Summary)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise JobError(
            f"{folder.place}/{places.SUMMARY}: is damaged: {error}; remove it and go on"
        ) from error


def finish(encoder: Encoder, ready: Prepared, progress: Progress, stop: threading.Event) -> Summary:
    """Sum a job up whose shards are all there, and clear away what is no output.

    Raises:
        JobError: a shard is damaged, or another job's.
        Stopped: `stop` was set while another worker was at it.
    """
    folder, plan = ready.folder, ready.plan
    with alone(folder, stop):
        try:
            summary = _told_before(ready) or _summed_up(encoder, ready, progress)
        except FileNotFoundError:
            # Another worker, which nothing keeps out of a store, has finished and cleared away its shards.
            finished = _told_before(ready)
            if finished is None:
                raise
            summary = finished
        remove_shards(folder, plan)
        Ledger(folder, plan, "").clear()
        folder.remove(places.STDIN)
        return summary


def _told_before(ready: Prepared) -> Summary | None:
    """Return what the job did, where its outputs are there; its folder may have been moved since."""
    folder, plan = ready.folder, ready.plan
    summary = read_summary(folder) if places.outputs_there(folder, plan) else None
    if summary is None or summary.index is None:
        return summary
    here = msgspec.structs.replace(summary.index, index=str(Path(folder.place) / INDEX))
    return msgspec.structs.replace(summary, index=here)


def _summed_up(encoder: Encoder, ready: Prepared, progress: Progress) -> Summary:
    """Write what is asked for beside the shards, and what was done."""
    folder, plan = ready.folder, ready.plan
    job = plan.digest()
    tokens = truncated = 0
    for number in range(len(plan.shards)):
        facts = facts_of(folder, part_name(plan, number), job=job, number=number)
        tokens, truncated = tokens + facts.tokens, truncated + facts.truncated
    built = write_outputs(encoder, ready, progress)
    workers = works(folder)
    seconds: dict[str, float] = {}
    for work in workers:
        for stage, took in work.seconds.items():
            seconds[stage] = round(seconds.get(stage, 0.0) + took, 3)
    summary = Summary(
        format=FORMAT,
        paritas=__version__,
        model=plan.spec.model,
        bundle=plan.spec.bundle,
        precision=plan.spec.precision,
        role=plan.spec.role,
        dim=plan.spec.dim,
        dtype=plan.spec.dtype,
        output=plan.spec.output,
        inputs=plan.inputs,
        rows=plan.rows,
        tokens=tokens,
        truncated=truncated,
        rejected=plan.rejected,
        duplicates=plan.duplicates,
        repeated=plan.repeated,
        kept=sum(work.kept for work in workers),
        shards=len(plan.shards),
        workers=len(workers),
        seconds=seconds,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        index=built,
    )
    content = msgspec.json.format(msgspec.json.encode(summary), indent=1) + b"\n"
    folder.put(places.SUMMARY, content)
    return summary


def works(folder: Folder) -> list[Work]:
    """Return what each worker of a job has done, as far as it has said so."""
    found = []
    for name in sorted(folder.names(places.WORKERS)):
        try:
            found.append(msgspec.json.decode(folder.read(f"{places.WORKERS}{name}"), type=Work))
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            continue  # one that is written or removed just now
    return found
