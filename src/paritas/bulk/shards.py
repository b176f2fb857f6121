"""One shard: its documents, their vectors, and the Parquet file that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from paritas.bulk.folders import Folder
from paritas.bulk.ledger import part_name
from paritas.bulk.plan import Plan, VectorType
from paritas.engine.pool.embedding_quantization import quantize_vectors
from paritas.errors import JobError

_FACTS = b"paritas"


@dataclass(frozen=True)
class Encoded:
    """What a shard's file holds."""

    ids: Sequence[str]
    vectors: NDArray[np.float32]
    """(rows, dim)"""
    tokens: NDArray[np.int32]
    """(rows,)"""
    truncated: NDArray[np.bool_]
    """(rows,)"""


class Facts(Struct, frozen=True):
    """What a shard's file says of itself; the same bytes whoever writes it."""

    job: str
    """The plan's digest."""
    shard: int
    rows: int
    tokens: int
    truncated: int
    model: str
    precision: str
    role: str


def table_of(shard: Encoded, dtype: VectorType) -> Any:
    """Return a shard as an Arrow table: id, vector, tokens, truncated.

    Args:
        shard: it.
        dtype: of the vectors; "int8" as `quantize_vectors` makes them.
    """
    import pyarrow as arrow

    vectors = as_type(shard.vectors, dtype)
    values = arrow.array(vectors.reshape(-1))
    return arrow.table(
        {
            "id": arrow.array(shard.ids, arrow.string()),
            "vector": arrow.FixedSizeListArray.from_arrays(values, vectors.shape[1]),
            "tokens": arrow.array(shard.tokens),
            "truncated": arrow.array(shard.truncated),
        }
    )


def as_type(vectors: NDArray[np.float32], dtype: VectorType) -> NDArray[Any]:
    """Return vectors in the type that is asked for."""
    return quantize_vectors(vectors, "int8") if dtype == "int8" else vectors.astype(dtype)


def parquet_of(shard: Encoded, dtype: VectorType, facts: Facts) -> Any:
    """Return a shard's file as a buffer; the same one for the same rows."""
    import pyarrow as arrow
    import pyarrow.parquet as pq

    table = table_of(shard, dtype)
    table = table.replace_schema_metadata({_FACTS: msgspec.json.encode(facts)})
    sink = arrow.BufferOutputStream()
    # The bytes of floats apart, all first ones together: a tenth smaller, for exponents are alike. DuckDB
    # does not read it of float16. Whole numbers of one byte are smallest by a dictionary of them.
    split = {"vector.list.element": "BYTE_STREAM_SPLIT"} if dtype == "float32" else {}
    pq.write_table(
        table,
        sink,
        compression="zstd",
        use_dictionary=["vector.list.element", "tokens"] if dtype == "int8" else ["tokens"],
        column_encoding={"id": "DELTA_BYTE_ARRAY", **split},
        write_statistics=["id", "tokens"],
        row_group_size=max(1, table.num_rows),
    )
    return sink.getvalue()


def facts_of(folder: Folder, name: str, *, job: str, number: int) -> Facts:
    """Return what a shard's file says of itself.

    Args:
        folder: the job's.
        name: of the file.
        job: the plan's digest.
        number: of the shard.

    Raises:
        JobError: it is no shard's, damaged, another job's, or another shard.
        OSError: it cannot be read.
    """
    import pyarrow as arrow
    import pyarrow.parquet as pq

    with folder.open(name) as file:
        try:
            metadata = pq.read_metadata(file).metadata
        except arrow.ArrowException as error:
            raise _damaged(folder, name, error) from error
    return _checked(metadata, folder, name, job=job, number=number)


def read_tables(folder: Folder, plan: Plan, numbers: Iterable[int] | None = None) -> Iterator[Any]:
    """Yield shards' files as Arrow tables, one at a time: all of a job's, or those of some numbers.

    Raises:
        JobError, OSError: as `facts_of`.
    """
    import pyarrow as arrow
    import pyarrow.parquet as pq

    job = plan.digest()
    for number in range(len(plan.shards)) if numbers is None else numbers:
        name = part_name(plan, number)
        with folder.open(name) as file:
            try:
                table = pq.read_table(file)
            except arrow.ArrowException as error:
                raise _damaged(folder, name, error) from error
        _checked(table.schema.metadata, folder, name, job=job, number=number)
        yield table


def vectors_of(table: Any, plan: Plan) -> NDArray[Any]:
    """Return a table's vectors as they are stored, (rows, dim)."""
    flat = table.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, plan.spec.shard_dtype).reshape(-1, plan.spec.dim)


def _checked(metadata: Any, folder: Folder, name: str, *, job: str, number: int) -> Facts:
    try:
        facts = msgspec.json.decode((metadata or {})[_FACTS], type=Facts)
    except (KeyError, msgspec.DecodeError) as error:
        raise _damaged(folder, name, error) from error
    if (facts.job, facts.shard) != (job, number):
        raise JobError(f"{folder.place}/{name}: is another job's, or another shard; remove it and go on")
    return facts


def _damaged(folder: Folder, name: str, error: Exception) -> JobError:
    return JobError(f"{folder.place}/{name}: is damaged, or no job wrote it: {error}; remove it and go on")
