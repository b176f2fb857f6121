"""Before the first shard: the input is found, and the plan is read or made."""

from __future__ import annotations

import hashlib
import logging
import mmap
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from paritas import files
from paritas.bulk import ledger as places
from paritas.bulk.cache import text_key
from paritas.bulk.doubles import Doubles
from paritas.bulk.folders import DirectoryFolder, Folder, open_folder
from paritas.bulk.plan import Input, Plan, Planner, Spec, differences, parse_plan
from paritas.bulk.progress import Progress, Stopped
from paritas.bulk.repeated import prefixes
from paritas.bulk.request import Request
from paritas.bulk.sources import STDIN, Source, find_sources
from paritas.documents import Document
from paritas.engine.encoder import Encoder
from paritas.errors import InputError, JobError

_log = logging.getLogger("paritas")
# After which it is told, again and again, that another worker is waited for.
_PATIENCE_S = 10.0


class Prepared(NamedTuple):
    """A job that can begin, or go on."""

    folder: Folder
    plan: Plan
    sources: list[Source]
    """The plan's inputs, in its order."""


@contextmanager
def prepared(
    encoder: Encoder, request: Request, progress: Progress, stop: threading.Event
) -> Iterator[Prepared]:
    """Yield a job whose plan is there: an earlier worker's, or made now.

    Raises:
        InputError: an input or option is wrong, an id comes twice, or a record is refused by `strict`.
        JobError: the folder is another job's, or an input changed.
        Stopped: `stop` was set before the plan was there.
    """
    pair = encoder.stages.tokenizer.role(request.role).pair
    folder = open_folder(request.out)

    def key(document: Document) -> bytes:
        return text_key(document.as_text(pair=pair))

    with ExitStack() as stack:
        spool, planned = _spool(folder, stack), read_plan(folder) is not None
        sources = find_sources(request.inputs, spool, out=request.out, planned=planned)
        spec = _spec(encoder, request)
        with alone(folder, stop):
            if isinstance(folder, DirectoryFolder):
                folder.clear()
            plan = _planned(folder, spec, sources)
            if plan is None:
                plan = _make_plan(folder, spec, sources, request, key, progress, stop)
        if request.strict and plan.rejected:
            raise InputError(
                f"{folder.place}/{places.REJECTS}: the job leaves {plan.rejected} records out; without "
                "--strict it goes on"
            )
        yield Prepared(folder, plan, sources)


def _spool(folder: Folder, stack: ExitStack) -> Path:
    """Return where standard input is kept: in the job's folder, or for a store in a temporary one."""
    if isinstance(folder, DirectoryFolder):
        return folder.path / places.STDIN
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="paritas-"))) / "stdin"


@contextmanager
def alone(folder: Folder, stop: threading.Event) -> Iterator[None]:
    """Let one worker of a machine plan, or finish, while others wait; in a store each does the same.

    Raises:
        Stopped: `stop` was set while another was at it.
    """
    if not isinstance(folder, DirectoryFolder):
        yield
        return
    held = folder.path / "_job"
    held.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        while not _held(stack, held):
            if stop.is_set():
                raise Stopped(0, 0)
        yield


def _held(stack: ExitStack, directory: Path) -> bool:
    """Take a directory's lock within a moment, and say whether nobody else had it all that time."""
    try:
        stack.enter_context(files.locked(directory, patience_s=_PATIENCE_S))
    except TimeoutError:
        _log.warning("%s: another worker reads the input or finishes; waiting for it", directory)
        return False
    return True


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
    told = differences(plan.spec, spec) + changed(plan.inputs, sources)
    if told:
        raise JobError(
            f"{folder.place}: holds another job: {'; '.join(told[:4])}; give the same, or another --out"
        )
    return plan


def changed(inputs: Sequence[Input], sources: Sequence[Source]) -> list[str]:
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
        elif entry.version != source.version and (source.label == STDIN or source.digest() != entry.sha256):
            told.append(f"input {source.label} of other content")
    return told


def _make_plan(
    folder: Folder,
    spec: Spec,
    sources: Sequence[Source],
    request: Request,
    key: Callable[[Document], bytes],
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
            for read_bytes in planner.add(source, reject):
                if stop.is_set():
                    raise Stopped(0, 0)
                progress.planning(before + read_bytes, total)
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
