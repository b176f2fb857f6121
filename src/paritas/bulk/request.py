"""What a job is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from paritas.arguments import choice, whole_number
from paritas.bulk.plan import (
    ON_DUPLICATE_ID,
    OUTPUTS,
    VECTOR_TYPES,
    OnDuplicateId,
    Output,
    VectorType,
)
from paritas.bulk.readers import Reading

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
