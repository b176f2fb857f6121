"""What an index is made of and by, as index.json holds it."""

from __future__ import annotations

import hashlib
import re
from typing import Literal, get_args

import msgspec
from msgspec import Struct

from paritas.errors import VectorIndexError
from paritas.registry import Precision

INDEX = "index.json"
FORMAT = 2

Metric = Literal["ip", "cos", "l2sq"]
METRICS: tuple[str, ...] = get_args(Metric)
ScalarType = Literal["f32", "f16", "bf16", "i8", "b1"]
SCALAR_TYPES: tuple[str, ...] = get_args(ScalarType)

GENERATION = "[0-9a-f]{12}"


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
    """Documents."""
    generation: str = ""
    sizes_bytes: dict[str, int] = {}
    distinct: int = -1
    """Distinct vectors; -1 in format 1, where each document has its own."""
    sha256: dict[str, str] = {}
    """Digests of the two other files; none in format 1."""
    checksum: str = ""
    """A digest of all these fields; none in format 1."""

    @property
    def files(self) -> tuple[str, str]:
        """The names of the vectors' and of the texts' file."""
        return self.files_of(self.generation)

    @staticmethod
    def files_of(generation: str) -> tuple[str, str]:
        """Return the names that a generation's two files have."""
        return f"vectors-{generation}.usearch", f"texts-{generation}.sqlite"

    @property
    def vectors(self) -> int:
        """How many vectors the graph holds."""
        return self.count if self.distinct < 0 else self.distinct


class Hit(Struct, frozen=True):
    """One answer."""

    id: str
    score: float
    """Larger is nearer: inner product or cosine, or minus the squared distance for "l2sq".

    Where vectors are stored as b1 it is an estimate.
    """
    title: str
    text: str


class _Format(Struct, frozen=True):
    """What every format of index.json has."""

    format: int
    generation: str


def parse(content: bytes) -> IndexInfo:
    """Return what index.json says.

    Raises:
        ValueError: it is damaged; the message says how, and nothing of the place.
        VectorIndexError: a newer paritas wrote it.
    """
    try:
        number = msgspec.json.decode(content, type=_Format).format
        if number <= FORMAT:
            info = msgspec.json.decode(content, type=IndexInfo)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if number > FORMAT:
        raise VectorIndexError(f"format {number}, this paritas reads up to {FORMAT}; upgrade it")
    if not re.fullmatch(GENERATION, info.generation):
        raise ValueError(f"{info.generation!r} is no generation")
    if info.checksum != ("" if info.format < 2 else checksum(info)):
        raise ValueError("changed since the index was saved")
    if info.format < 2 and (info.sha256 or info.distinct >= 0):
        raise ValueError(f"format {info.format} has neither digests nor distinct vectors")
    return info


def is_ours(content: bytes) -> bool:
    """Say whether an index.json is an index's.

    Raises:
        VectorIndexError: it is of a newer format, if it is an index's at all.
    """
    try:
        parse(content)
    except ValueError:
        return False
    return True


def checksum(info: IndexInfo) -> str:
    """Return the digest of an index's facts."""
    fields = msgspec.json.encode(msgspec.structs.replace(info, checksum=""), order="deterministic")
    return hashlib.sha256(fields).hexdigest()


def written(info: IndexInfo) -> bytes:
    """Return the content of index.json."""
    sealed = msgspec.structs.replace(info, checksum=checksum(info))
    return msgspec.json.format(msgspec.json.encode(sealed), indent=1) + b"\n"
