"""Parquet and Arrow files, read a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from paritas.bulk.records import Columns, Mark, Picked, Record, Rows
from paritas.errors import InputError, MissingExtraError

# Rows decoded at a time, so that a table of long rows is held a few rows at a time. How long they are no
# metadata tells: a dictionary has a text once that stands in thousands of rows.
_BATCH_ROWS = 64
_BUFFER_BYTES = 2**20
_ARROW_FILE = b"ARROW1"


def read_parquet(file: IO[bytes], label: str, columns: Columns, start: Mark) -> Iterator[Record]:
    """Yield the records of a Parquet file, from a row on.

    Raises:
        InputError: it is damaged, or lacks a column.
        MissingExtraError: pyarrow is not installed.
    """
    arrow = _arrow(label)
    import pyarrow.parquet as pq

    try:
        # Without a buffer, whole chunks of columns are read: as much as the writer's row groups are long.
        parquet = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        picked = columns.pick(_leaves(parquet.schema_arrow), label)
        wanted = sorted({name for name in picked if name is not None})
        first = 1
        for group in range(parquet.num_row_groups):
            meta = parquet.metadata.row_group(group)
            if first + meta.num_rows > start.number:
                batches = parquet.iter_batches(
                    _BATCH_ROWS, row_groups=[group], columns=wanted, use_threads=False
                )
                yield from _records(batches, Rows(label, columns), picked, first, start)
            first += meta.num_rows
    except (arrow.ArrowException, OSError) as error:
        raise _damaged(label, "Parquet", error) from error


def read_arrow(file: IO[bytes], label: str, columns: Columns, start: Mark) -> Iterator[Record]:
    """Yield the records of an Arrow IPC file or stream, from a row on; errors as `read_parquet`."""
    arrow = _arrow(label)
    try:
        is_file = file.read(len(_ARROW_FILE)) == _ARROW_FILE
        file.seek(0)
        if is_file:
            reader = arrow.ipc.open_file(file)
            batches: Any = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            reader = arrow.ipc.open_stream(file)
            batches = iter(reader)
        picked = columns.pick(_leaves(reader.schema), label)
        yield from _records(batches, Rows(label, columns), picked, 1, start)
    except (arrow.ArrowException, OSError) as error:
        raise _damaged(label, "Arrow", error) from error


def _arrow(label: str) -> Any:
    try:
        import pyarrow as arrow
        import pyarrow.ipc
    except ImportError as error:
        raise MissingExtraError(f"{label}: tables need pyarrow; type: pip install 'paritas[bulk]'") from error
    return arrow


def _damaged(label: str, kind: str, error: Exception) -> InputError:
    return InputError(
        f"{label}: cannot be read as {kind}: {str(error).splitlines()[0]}; expected a whole file"
    )


def _leaves(schema: Any) -> list[str]:
    """Return the names of a table's columns, and of those within them after a dot."""
    from pyarrow import types

    def below(name: str, kind: Any) -> Iterator[str]:
        yield name
        if types.is_struct(kind):
            for field in kind:
                yield from below(f"{name}.{field.name}", field.type)

    return [name for field in schema for name in below(field.name, field.type)]


def _records(batches: Iterator[Any], rows: Rows, picked: Picked, first: int, start: Mark) -> Iterator[Record]:
    """Yield the records of batches whose first row has a number, from a mark on."""
    for whole in batches:
        skipped = max(0, min(start.number - first, whole.num_rows))
        for begin in range(skipped, whole.num_rows, _BATCH_ROWS):
            batch = whole.slice(begin, _BATCH_ROWS)
            columns = [
                [None] * batch.num_rows if name is None else _values(_column(batch, name)) for name in picked
            ]
            for place, values in enumerate(zip(*columns, strict=True)):
                yield rows.record(Mark(first + begin + place), *values)
        first += whole.num_rows


def _column(batch: Any, name: str) -> Any:
    """Return a column, or one within others."""
    from pyarrow import compute

    if name in batch.schema.names:
        return batch.column(name)
    parts = name.split(".")
    top = next(n for n in range(1, len(parts)) if ".".join(parts[:n]) in batch.schema.names)
    return compute.struct_field(batch.column(".".join(parts[:top])), parts[top:])


def _values(column: Any) -> list[Any]:
    """Return a column's values: bytes as the string they encode, or as half surrogates, which are refused."""
    import pyarrow as arrow
    from pyarrow import types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        column = column.cast(arrow.large_binary())  # nobody has checked that they are UTF-8
    values = column.to_pylist()
    return [
        value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value for value in values
    ]
