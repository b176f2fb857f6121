"""What a job will do, found in one pass over its input: which rows, in which shards, and which are left out.

The plan is written once. Every worker and every later run goes by it, so they all make the same shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from paritas.arguments import shown
from paritas.bulk.doubles import Doubles
from paritas.bulk.readers import Reading, read
from paritas.bulk.records import Mark
from paritas.bulk.sources import PACKED, Source
from paritas.documents import Document
from paritas.errors import InputError, JobError
from paritas.registry import Precision

FORMAT = 1
OnDuplicateId = Literal["error", "first", "last", "keep"]
ON_DUPLICATE_ID: tuple[OnDuplicateId, ...] = ("error", "first", "last", "keep")
VectorType = Literal["float32", "float16", "int8"]
VECTOR_TYPES: tuple[VectorType, ...] = ("float32", "float16", "int8")
Output = Literal["parquet", "npy", "safetensors", "index"]
OUTPUTS: tuple[Output, ...] = ("parquet", "npy", "safetensors", "index")

# Of texts in a shard, in bytes: a shard of long ones ends early, lest it fill the memory.
SHARD_BYTES = 16 * 2**20


class Spec(Struct, frozen=True):
    """What was asked for. A job that goes on must be asked for the same."""

    model: str
    bundle: str
    """A digest of all that determines the vectors; see `bundle_digest`."""
    precision: Precision
    role: str
    dim: int
    dtype: VectorType
    output: Output
    reading: Reading
    on_duplicate_id: OnDuplicateId
    shard_rows: int

    @property
    def shard_dtype(self) -> VectorType:
        """Of the vectors in the shards; an index is given all digits, and rounds them itself."""
        return "float32" if self.output == "index" else self.dtype


class Input(Struct, frozen=True):
    """One file of the input."""

    label: str
    size_bytes: int
    sha256: str
    version: str
    rows: int
    rejected: int


class Span(Struct, frozen=True, array_like=True):
    """Records of one file that follow each other."""

    input: int
    """The file's place among the inputs, from 0."""
    number: int
    offset: int
    records: int

    @property
    def start(self) -> Mark:
        """Where they begin."""
        return Mark(self.number, self.offset)


class Shard(Struct, frozen=True, omit_defaults=True):
    """The rows of one file of the output."""

    spans: list[Span]
    rows: int
    digest: str
    """Of the documents in it; see `ShardDigest`."""
    dropped: list[int] = []
    """Documents left out for their ids, by their places among the shard's documents, from 0."""


class Plan(Struct, frozen=True):
    """A job."""

    format: int
    spec: Spec
    inputs: list[Input]
    shards: list[Shard]
    rows: int
    rejected: int
    duplicates: int
    """Rows left out because their id comes twice."""
    repeated: int
    """Texts that stand in more than one shard."""

    def encoded(self) -> bytes:
        """Return it as plan.json has it."""
        return msgspec.json.encode(self) + b"\n"

    def digest(self) -> str:
        """Return a digest of it, by which its shards know it; the times of the inputs count for nothing."""
        inputs = [msgspec.structs.replace(entry, version="") for entry in self.inputs]
        return hashlib.sha256(msgspec.structs.replace(self, inputs=inputs).encoded()).hexdigest()


def parse_plan(content: bytes, place: str) -> Plan:
    """Return the plan that a file holds.

    Raises:
        JobError: it holds none, or one of a newer paritas.
    """
    try:
        plan = msgspec.json.decode(content, type=Plan)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise JobError(f"{place}: is no plan of a job: {error}; remove the folder and begin anew") from error
    if any(span.input >= len(plan.inputs) for shard in plan.shards for span in shard.spans):
        raise JobError(f"{place}: is damaged: a shard is of no input; remove the folder and begin anew")
    if plan.format > FORMAT:
        raise JobError(f"{place}: format {plan.format}, this paritas reads up to {FORMAT}; upgrade it")
    return plan


class ShardDigest:
    """A digest of documents in order: another id, title or text gives another one."""

    def __init__(self) -> None:
        """Begin."""
        self._digest = hashlib.blake2b(digest_size=16)

    def add(self, document: Document) -> int:
        """Take a document, and return its bytes."""
        parts = [part.encode() for part in (document.id, document.title, document.text)]
        content = b"".join([b"%d:%b" % (len(part), part) for part in parts])
        self._digest.update(content)
        return len(content)

    def value(self) -> str:
        """Return it in hexadecimal."""
        return self._digest.hexdigest()


Reject = Callable[[str, int, str], object]
"""Called with a file, a place in it and a reason for each record that is left out."""


class Planner:
    """Cuts an input into shards."""

    def __init__(self, spec: Spec, *, text_key: Callable[[Document], bytes], doubles: Doubles) -> None:
        """Begin.

        Args:
            spec: what was asked for.
            text_key: tells texts apart that have vectors of their own.
            doubles: finds what comes twice; the planner's own.
        """
        self._spec, self._text_key, self._doubles = spec, text_key, doubles
        self._shards: list[Shard] = []
        self._inputs: list[Input] = []
        self._first_fault = ""
        self._begin_shard()

    def _begin_shard(self) -> None:
        self._spans: list[Span] = []
        self._rows = self._bytes = 0
        self._digest = ShardDigest()

    def add(self, source: Source, reject: Reject) -> Iterator[int]:
        """Read a source to its end, and yield now and then how many of its bytes were read, as far as known.

        Raises:
            InputError, JobError, OSError: as `read`, or whatever `reject` raises.
        """
        begun: Mark | None = None
        records = read_so_far = rows = rejected = 0
        for mark, document, fault in read(source, self._spec.reading):
            if begun is None:
                begun, records = mark, 0
            records, read_so_far = records + 1, read_so_far + 1
            if not read_so_far % 1024:
                # A packed file has other bytes within, and tables are not told by bytes.
                yield 0 if source.label.lower().endswith(PACKED) else mark.offset
            if document is None:
                reject(source.label, mark.number, fault)
                self._first_fault = self._first_fault or f"{source.label}:{mark.number}: {fault}"
                rejected += 1
                continue
            rows += 1
            self._doubles.add(
                document.id,
                self._text_key(document),
                len(self._shards),
                self._rows,
                len(self._inputs),
                mark.number,
            )
            self._rows += 1
            self._bytes += self._digest.add(document)
            if self._rows == self._spec.shard_rows or self._bytes >= SHARD_BYTES:
                self._spans.append(Span(len(self._inputs), *begun, records))
                self._end_shard()
                begun = None
        if begun is not None:
            self._spans.append(Span(len(self._inputs), *begun, records))
        self._inputs.append(
            Input(source.label, source.size_bytes, source.digest(), source.version, rows, rejected)
        )
        yield source.size_bytes

    def _end_shard(self) -> None:
        self._shards.append(Shard(self._spans, self._rows, self._digest.value()))
        self._begin_shard()

    def finish(self) -> tuple[Plan, list[bytes]]:
        """Return the plan, and the keys of texts that stand in more than one shard, in order.

        Raises:
            InputError: an id comes twice, and nothing was said about that; or there are no rows.
        """
        if self._rows:
            self._end_shard()
        rejected = sum(entry.rejected for entry in self._inputs)
        if not self._shards:
            left = (
                f", but {rejected} that were left out, the first at {self._first_fault}" if rejected else ""
            )
            raise InputError(f"the input has no rows{left}; expected at least one")
        shards, duplicates = self._without_duplicates()
        repeated = self._doubles.repeated_texts()
        plan = Plan(
            format=FORMAT,
            spec=self._spec,
            inputs=self._inputs,
            shards=shards,
            rows=sum(shard.rows for shard in shards),
            rejected=rejected,
            duplicates=duplicates,
            repeated=len(repeated),
        )
        return plan, repeated

    def _without_duplicates(self) -> tuple[list[Shard], int]:
        rule = self._spec.on_duplicate_id
        if rule == "keep":
            return self._shards, 0
        if rule == "error":
            self._check_ids()
            return self._shards, 0
        shards, count = list(self._shards), 0
        for number, dropped in self._doubles.dropped(keep=rule):
            shard = shards[number]
            shards[number] = msgspec.structs.replace(shard, rows=shard.rows - len(dropped), dropped=dropped)
            count += len(dropped)
        return shards, count

    def _check_ids(self) -> None:
        double = self._doubles.first_double()
        if double is None:
            return
        id_, (first, one), (second, other), count = double
        labels = [entry.label for entry in self._inputs]
        more = f" ({count} ids are given more than once)" if count > 1 else ""
        raise InputError(
            f"id {shown(id_)} is given twice, at {labels[first]}:{one} and {labels[second]}:{other}{more}; "
            "expected each id once; type: --on-duplicate-id first, last or keep"
        )


def differences(old: Any, new: Any, names: Sequence[str] = ()) -> list[str]:
    """Return which fields of two structs of one type differ, each as "field: old, now new"."""
    told = []
    for field in names or old.__struct_fields__:
        before, after = getattr(old, field), getattr(new, field)
        if isinstance(before, Struct):
            told += differences(before, after)
        elif before != after:
            told.append(f"{field} {before!r}, now {after!r}")
    return told
