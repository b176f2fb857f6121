"""A job from its beginning to its end: planned once, done by any number of workers, and summed up."""

from __future__ import annotations

import hashlib
import mmap
import os
import platform
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from paritas import __version__, files
from paritas.arguments import choice, whole_number
from paritas.bulk import ledger as places
from paritas.bulk.cache import VectorCache, text_key
from paritas.bulk.doubles import Doubles
from paritas.bulk.folders import DirectoryFolder, Folder, open_folder
from paritas.bulk.ledger import Ledger, done, part_name
from paritas.bulk.outputs import remove_shards, write_outputs
from paritas.bulk.pipeline import Pipeline, Progress, Work
from paritas.bulk.plan import (
    FORMAT,
    ON_DUPLICATE_ID,
    OUTPUTS,
    VECTOR_TYPES,
    Input,
    OnDuplicateId,
    Output,
    Plan,
    Planner,
    Spec,
    VectorType,
    differences,
    parse_plan,
)
from paritas.bulk.readers import Reading
from paritas.bulk.repeated import Repeated, prefixes
from paritas.bulk.shards import facts_of
from paritas.bulk.sources import Source, find_sources
from paritas.engine.encoder import Encoder
from paritas.engine.runtime.cpus import instructions
from paritas.errors import InputError, JobError

SHARD_ROWS = 16_384
_MOST_SHARD_ROWS = 2**24


class Request(Struct, frozen=True, kw_only=True):
    """What a job is asked for, its encoder aside."""

    inputs: Sequence[str]
    """As `find_sources` takes them."""
    out: str
    """A directory, or a folder's URL in an object store; it may not exist yet."""
    role: str = "passage"
    dtype: VectorType = "float32"
    output: Output = "parquet"
    reading: Reading = Reading()
    on_duplicate_id: OnDuplicateId = "error"
    """What to do where an id comes twice: raise, take the first or last row of it, or keep all of them."""
    strict: bool = False
    """Raise at the first record that cannot be read, instead of leaving it out."""
    shard_rows: int = SHARD_ROWS
    cache: str | None = None
    """A SQLite file that keeps vectors for other jobs."""
    cache_bytes: int | None = None
    """How large it may grow."""

    def __post_init__(self) -> None:
        choice("dtype", self.dtype, VECTOR_TYPES)
        choice("output", self.output, OUTPUTS)
        choice("on_duplicate_id", self.on_duplicate_id, ON_DUPLICATE_ID)
        whole_number("shard_rows", self.shard_rows, 1, _MOST_SHARD_ROWS)


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


class Silent:
    """Progress that nobody watches."""

    def planning(self, done_bytes: int, total_bytes: int) -> None:
        """Say nothing."""

    def begin(self, rows: int, done: int) -> None:
        """Say nothing."""

    def encoded(self, rows: int, tokens: int) -> None:
        """Say nothing."""


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """A job was stopped before its end; the same call goes on with it."""

    def __init__(self, done: int, shards: int) -> None:
        """Take how many shards are done, and of how many."""
        super().__init__(f"{done} of {shards} shards are done")
        self.done, self.shards = done, shards


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
    role = encoder.stages.tokenizer.role(request.role)
    folder = open_folder(request.out)
    with ExitStack() as stack:
        sources = find_sources(request.inputs, _spool(folder, stack))
        spec = _spec(encoder, request)
        with _one_planner(folder):
            plan = _planned(folder, spec, sources)
            if plan is None:
                key = _Key(role.pair)
                plan = _make_plan(folder, spec, sources, request, key, progress, stop)
        summary = read_summary(folder)
        if summary is None:
            _work(encoder, request, plan, sources, folder, progress, stop, abort, at_once)
            summary = _finish(folder, plan)
    return summary


class _Key:
    """Tells documents apart by what the encoder is given of them."""

    def __init__(self, pair: bool) -> None:
        self._pair = pair

    def __call__(self, document: Any) -> bytes:
        return text_key(document.as_text(pair=self._pair))


def _spool(folder: Folder, stack: ExitStack) -> Path:
    """Return where standard input is kept: in the job's folder, or for a store in a temporary one."""
    if isinstance(folder, DirectoryFolder):
        return folder.path / "_job" / "stdin"
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="paritas-"))) / "stdin"


@contextmanager
def _one_planner(folder: Folder) -> Iterator[None]:
    """Let one worker of a machine plan while others wait; in a store each may make the same plan."""
    if not isinstance(folder, DirectoryFolder):
        yield
        return
    (folder.path / "_job").mkdir(parents=True, exist_ok=True)
    with files.locked(folder.path / "_job"):
        folder.clear()
        yield


def bundle_digest(encoder: Encoder) -> str:
    """Return a digest of all that determines an encoder's vectors: the model, and its graph's files."""
    variant = encoder.bundle.variant(encoder.precision)
    names = sorted({variant.graph, variant.cpu_graph, variant.unpadded_graph, *variant.files} - {""})
    parts = [encoder.fingerprint, *encoder.bundle.digests(names).values(), str(encoder.dim)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _spec(encoder: Encoder, request: Request) -> Spec:
    return Spec(
        model=encoder.bundle.manifest.model,
        bundle=bundle_digest(encoder),
        precision=encoder.precision,
        role=request.role,
        dim=encoder.dim,
        dtype=request.dtype,
        output=request.output,
        reading=request.reading,
        on_duplicate_id=request.on_duplicate_id,
        shard_rows=request.shard_rows,
    )


def read_plan(folder: Folder) -> Plan | None:
    """Return a job's plan; None where there is none yet. Errors as `parse_plan`."""
    try:
        return parse_plan(folder.read(places.PLAN), f"{folder.place}/{places.PLAN}")
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_begun(folder: Folder) -> bool:
    """Say whether somebody plans, or has planned, a job in a folder."""
    if isinstance(folder, DirectoryFolder):
        return (folder.path / "_job").is_dir()
    return bool(folder.names("_job/"))


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


def _planned(folder: Folder, spec: Spec, sources: Sequence[Source]) -> Plan | None:
    """Return the plan that is there, if it is of the same job.

    Raises:
        JobError: it is of another; the message says what differs. Or there is none, and other files are.
    """
    plan = read_plan(folder)
    if plan is None:
        others = sorted(folder.names())
        if others:
            raise JobError(
                f"{folder.place}: holds {others[0]} and no job; expected a folder that is empty or not there"
            )
        return None
    told = differences(plan.spec, spec) + _changed(plan.inputs, sources)
    if told:
        raise JobError(
            f"{folder.place}: holds another job: {'; '.join(told[:4])}; give the same, or another --out"
        )
    return plan


def _changed(inputs: Sequence[Input], sources: Sequence[Source]) -> list[str]:
    """Return in what the input differs from that of the plan; files are read only where they may differ."""
    before, now = [entry.label for entry in inputs], [source.label for source in sources]
    if before != now:
        gone, new = sorted(set(before) - set(now)), sorted(set(now) - set(before))
        told = [f"input {name}, now not given" for name in gone] + [f"input {name} is new" for name in new]
        return told or ["the order of the inputs"]
    told = []
    for entry, source in zip(inputs, sources, strict=True):
        if entry.size_bytes != source.size_bytes:
            told.append(f"input {source.label} of {entry.size_bytes} bytes, now {source.size_bytes}")
        elif entry.version != source.version and source.digest() != entry.sha256:
            told.append(f"input {source.label} of other content")
    return told


def _make_plan(
    folder: Folder,
    spec: Spec,
    sources: Sequence[Source],
    request: Request,
    key: _Key,
    progress: Progress,
    stop: threading.Event,
) -> Plan:
    """Read the input, and write the plan and what was left out."""
    total = sum(source.size_bytes for source in sources)
    with ExitStack() as stack:
        doubles = stack.enter_context(closing(Doubles()))
        rejects = stack.enter_context(tempfile.TemporaryFile())

        def reject(label: str, number: int, reason: str) -> None:
            if request.strict:
                raise InputError(f"{label}:{number}: {reason}; without --strict such records are left out")
            rejects.write(msgspec.json.encode({"file": label, "number": number, "reason": reason}) + b"\n")

        planner = Planner(spec, text_key=key, doubles=doubles)
        before = 0
        for source in sources:
            for _ in planner.add(source, reject):
                if stop.is_set():
                    raise Stopped(0, 0)
                progress.planning(before, total)
            before += source.size_bytes
        plan, repeated = planner.finish()
        rejects.flush()
        if plan.rejected:
            with mmap.mmap(rejects.fileno(), 0, access=mmap.ACCESS_READ) as content:
                folder.put(places.REJECTS, content)
    folder.put(places.REPEATED, prefixes(repeated))
    if not folder.put_new(places.PLAN, plan.encoded()):
        other = _planned(folder, spec, sources)
        assert other is not None
        return other
    return plan


def _work(
    encoder: Encoder,
    request: Request,
    plan: Plan,
    sources: Sequence[Source],
    folder: Folder,
    progress: Progress,
    stop: threading.Event,
    abort: threading.Event,
    at_once: int,
) -> None:
    """Do what is left of a job; return when all of it is done.

    Raises:
        Stopped: it is not.
    """
    before = done(folder, plan)
    progress.begin(plan.rows, sum(plan.shards[number].rows for number in before))
    worker = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
    work = Work(worker, socket.gethostname(), os.getpid(), _now())
    ledger = Ledger(folder, plan, worker)

    def note(work: Work) -> None:
        work.updated = _now()
        folder.put(f"{places.WORKERS}{worker}.json", msgspec.json.encode(work))

    namespace = f"{plan.spec.bundle} {plan.spec.role} {platform.machine()} {' '.join(instructions())}"
    path = None if request.cache is None else Path(request.cache)
    cache = VectorCache(path, namespace=namespace, dim=plan.spec.dim, most_bytes=request.cache_bytes)
    with closing(cache):
        known = None if path is not None else folder.read(places.REPEATED)
        pipeline = Pipeline(
            encoder,
            plan,
            sources,
            folder,
            repeated=Repeated(cache, known),
            work=work,
            progress=progress,
            at_once=at_once,
        )
        try:
            pipeline.run(ledger, stop, abort, note)
        except BaseException:
            if abort.is_set() and stop.is_set():
                raise Stopped(len(done(folder, plan)), len(plan.shards)) from None
            raise
    while len(finished := done(folder, plan)) < len(plan.shards):
        if stop.is_set():
            raise Stopped(len(finished), len(plan.shards))
        stop.wait(0.2)


def _finish(folder: Folder, plan: Plan) -> Summary:
    """Sum a job up whose shards are all there; another worker may do the same."""
    job = plan.digest()
    tokens = truncated = 0
    for number in range(len(plan.shards)):
        facts = facts_of(folder, part_name(plan, number))
        if (facts.job, facts.shard) != (job, number):
            raise JobError(f"{folder.place}/{part_name(plan, number)}: is another job's; remove it and go on")
        tokens, truncated = tokens + facts.tokens, truncated + facts.truncated
    write_outputs(folder, plan)
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
        finished=_now(),
    )
    content = msgspec.json.format(msgspec.json.encode(summary), indent=1) + b"\n"
    if not folder.put_new(places.SUMMARY, content):
        return read_summary(folder) or summary
    remove_shards(folder, plan)
    Ledger(folder, plan, "").clear()
    return summary


def works(folder: Folder) -> list[Work]:
    """Return what each worker of a job has done, as far as it has said so."""
    found = []
    for name in sorted(folder.names(places.WORKERS)):
        try:
            found.append(msgspec.json.decode(folder.read(f"{places.WORKERS}{name}"), type=Work))
        except (FileNotFoundError, msgspec.DecodeError):
            continue  # one that is written or removed just now
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
