"""From a source to its records, whatever kind of file it is, and from any of them on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from typing import IO, Any, Literal, cast

from msgspec import Struct

from paritas import packed
from paritas.bulk.lines import Lines, read_csv, read_jsonl, read_text, read_tsv, sniff
from paritas.bulk.records import BEGINNING, Columns, Mark, Record
from paritas.bulk.sources import PACKED, Source, kind_of
from paritas.bulk.tables import read_arrow, read_parquet
from paritas.errors import InputError

Kind = Literal["jsonl", "csv", "tsv", "text", "parquet", "arrow"]
KINDS: tuple[Kind, ...] = ("jsonl", "csv", "tsv", "text", "parquet", "arrow")


_MAGIC: dict[bytes, Kind] = {b"PAR1": "parquet", b"ARROW1": "arrow"}
_log = logging.getLogger("paritas")


class Reading(Struct, frozen=True):
    """How files are read."""

    kind: Kind | None = None
    """Of all files; where None each one's name says it, or its first line."""
    columns: Columns = Columns()
    delimiter: str = ","
    """Between the values of a CSV file."""


def read(source: Source, reading: Reading, start: Mark = BEGINNING) -> Iterator[Record]:
    """Yield a source's records, from a mark on that an earlier reading gave.

    Raises:
        InputError: the file is damaged, of another kind, or lacks a column.
        MissingExtraError: what unpacks or reads it is not installed.
        OSError, JobError: it cannot be read.
    """
    kind = reading.kind or cast("Kind | None", kind_of(source.label))
    try:
        with source.open() as file:
            head = file.peek(8)[:8]
            if kind is None:
                kind = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
            if kind in ("parquet", "arrow") and packed.is_packed(head):
                raise InputError(
                    f"{source.label}: is packed; expected {kind} itself, which is packed within; unpack it"
                )
            if kind == "parquet":
                yield from read_parquet(file, source.label, reading.columns, start)
            elif kind == "arrow":
                yield from read_arrow(file, source.label, reading.columns, start)
            else:
                yield from _read_lines(file, source.label, kind, reading, start)
    except OSError as error:
        raise _unreadable(source, error) from error


def _unreadable(source: Source, error: OSError) -> InputError:
    return InputError(f"{source.place}: cannot be read: {error.strerror or error}")


def _read_lines(
    file: IO[bytes], label: str, kind: Kind | None, reading: Reading, start: Mark
) -> Iterator[Record]:
    with packed.opened(file, label) as (unpacked, is_packed):
        head = unpacked.peek(1024)[:1024]
        if label.lower().endswith(PACKED) and not is_packed and head:
            raise InputError(f"{label}: is not packed, or damaged; expected what its name says")
        if kind is None:
            kind = cast("Kind", sniff(head))
            if kind == "text" and start == BEGINNING:
                _log.warning("%s: is read as plain text, a text a line; --format says otherwise", label)
        lines = Lines(unpacked, label, packed=is_packed)
        if kind == "jsonl":
            yield from read_jsonl(lines, reading.columns, start)
        elif kind == "tsv":
            yield from read_tsv(lines, reading.columns, start)
        elif kind == "csv":
            yield from read_csv(lines, reading.columns, start, reading.delimiter)
        else:
            yield from read_text(lines, reading.columns, start)


class Cursor:
    """Reads runs of records one after the other, and goes on where the last one ended where it can."""

    def __init__(self, reading: Reading) -> None:
        """Open nothing yet."""
        self._reading = reading
        self._records: Iterator[Record] | None = None
        self._source: Source | None = None
        self._next: Record | None = None

    def take(self, source: Source, start: Mark, count: int) -> Iterator[Record]:
        """Yield so many records of a source, from a mark on; errors as `read`."""
        records = self._at(source, start)
        yield from islice(records, count)

    def _at(self, source: Source, start: Mark) -> Iterator[Record]:
        # A packed file is unpacked from its beginning each time it is opened: better pass over some records.
        if self._source is source and self._next is not None and self._next.mark <= start:
            ahead = self._next.mark != start
            if not ahead or source.label.lower().endswith(PACKED):
                while self._next is not None and self._next.mark < start:
                    self._next = next(cast("Iterator[Record]", self._records), None)
                return self._continued(self._next)
        self.close()
        self._source, self._records = source, read(source, self._reading, start)
        return self._continued(None)

    def _continued(self, first: Record | None) -> Iterator[Record]:
        """Yield records, always one ahead: the next one's place tells whether to go on from there."""
        records = self._records
        assert records is not None
        current = first or next(records, None)
        while current is not None:
            self._next = next(records, None)
            yield current
            current = self._next

    def close(self) -> None:
        """Close the file."""
        if self._records is not None:
            cast(Any, self._records).close()
        self._records = self._source = self._next = None
