"""Files of lines: JSON Lines, CSV, TSV and plain text."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from itertools import chain
from typing import IO, Any

import msgspec

from paritas.bulk.records import BEGINNING, Columns, Mark, Record, Rows, nested
from paritas.documents import check_first_line
from paritas.errors import InputError

# Of a row in bytes. A file without line ends is no row.
MOST_BYTES = 2**29
_READ_BYTES = 2**20
_BOM = b"\xef\xbb\xbf"


class Lines:
    """Lines of an unpacked file, and where they begin."""

    def __init__(self, file: IO[bytes], label: str, *, packed: bool) -> None:
        """Begin at the beginning; a packed file cannot be entered elsewhere."""
        self._file, self._packed = file, packed
        self.label = label
        self.at = Mark()
        """Where the next line begins."""

    def __iter__(self) -> Iterator[tuple[Mark, bytes | None]]:
        """Yield each line with its place; None for one that is too long to be held."""
        while line := self._file.readline(MOST_BYTES + 1):
            begun, size = self.at, len(line)
            whole = size <= MOST_BYTES
            if not whole:
                size += self._rest(line)
            self.at = Mark(begun.number + 1, begun.offset + size)
            if begun.offset == 0:
                check_first_line(line, self.label, "encode")
                line = line.removeprefix(_BOM)
            yield begun, line if whole else None

    def _rest(self, line: bytes) -> int:
        """Read a long line to its end and return the bytes of the rest."""
        size = 0
        while not line.endswith(b"\n") and (line := self._file.readline(_READ_BYTES)):
            size += len(line)
        return size

    def jump(self, mark: Mark) -> None:
        """Go on at a mark further on."""
        left = mark.offset - self.at.offset
        if left > 0 and not self._packed:
            self._file.seek(mark.offset)
        else:
            while left > 0 and (block := self._file.read(min(left, _READ_BYTES))):
                left -= len(block)
        self.at = max(self.at, mark)


# Some write a quote within a value so, Spark among them.
_ESCAPED = '; a quote within a value is doubled: "", and not \\" (in Spark: .option("escape", "\\""))'
_TOO_LONG = f"is longer than {MOST_BYTES // 2**20} MB"


def read_jsonl(lines: Lines, columns: Columns, start: Mark) -> Iterator[Record]:
    """Yield the records of JSON Lines, an object a line, from a mark on."""
    rows, decode = Rows(lines.label, columns), _decoder(columns)
    lines.jump(start)
    begun = titled = False
    for mark, line in lines:
        if line is None:
            yield Record(mark, None, _TOO_LONG)
            continue
        if line.isspace():
            continue
        if not begun and line.lstrip().startswith(b"["):
            raise InputError(
                f"{lines.label}:{mark.number}: begins an array; expected an object a line; type: "
                "jq -c '.[]' FILE | paritas encode - --format jsonl ..."
            )
        begun = True
        try:
            values = decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            yield Record(mark, None, f"is no JSON object: {error}")
            continue
        titled = titled or values[1] is not None
        yield rows.record(mark, *values)
    if columns.title is not None and begun and not titled and start == BEGINNING:
        raise InputError(f"{lines.label}: no line has the key {columns.title!r} of --title")


def _decoder(columns: Columns) -> Callable[[bytes], tuple[Any, Any, Any]]:
    """Return what takes the three values from a line, and builds no others."""
    groups = (columns.ids, columns.titles, columns.texts)
    if any("." in name for names in groups for name in names):
        decoder = msgspec.json.Decoder(dict[str, Any])

        def decode_nested(line: bytes) -> tuple[Any, Any, Any]:
            value = decoder.decode(line)
            return tuple(  # type: ignore[return-value]
                next((found for name in names if (found := nested(value, name)) is not None), None)
                for names in groups
            )

        return decode_nested
    names = [name for group in groups for name in group]
    fields: Any = [(f"f{place}", Any, None) for place in range(len(names))]
    keys = {f"f{place}": name for place, name in enumerate(names)}
    flat = msgspec.json.Decoder(msgspec.defstruct("Line", fields, rename=keys))
    split = len(columns.ids), len(columns.ids) + len(columns.titles)

    def decode(line: bytes) -> tuple[Any, Any, Any]:
        values = msgspec.structs.astuple(flat.decode(line))
        return _first(values[: split[0]]), _first(values[split[0] : split[1]]), _first(values[split[1] :])

    return decode


def _first(values: tuple[Any, ...]) -> Any:
    return next((value for value in values if value is not None), None)


def read_text(lines: Lines, columns: Columns, start: Mark) -> Iterator[Record]:  # noqa: ARG001
    """Yield the records of plain text, a text a line, from a mark on."""
    rows = Rows(lines.label, Columns())
    lines.jump(start)
    for mark, line in lines:
        if line is None:
            yield Record(mark, None, _TOO_LONG)
        elif not line.isspace():
            yield rows.record(mark, None, None, _decoded(line))


def _decoded(line: bytes) -> str:
    """Return a line without its end; bytes that are not UTF-8 become half surrogates, which are refused."""
    return line.decode("utf-8", "surrogateescape").rstrip("\r\n")


def read_tsv(lines: Lines, columns: Columns, start: Mark) -> Iterator[Record]:
    """Yield the records of a file with tabs between values; a quote is a character like any other."""

    def fields() -> Iterator[_Fields]:
        for mark, line in lines:
            if line is None:
                yield mark, _TOO_LONG
            elif not line.isspace():
                yield mark, _decoded(line).split("\t")

    return _table(fields(), lines, columns, start)


def read_csv(lines: Lines, columns: Columns, start: Mark, delimiter: str) -> Iterator[Record]:
    """Yield the records of a CSV file, whose rows may go over many lines, from a mark on."""
    # A quote that is never closed would make a row of the rest of the file.
    csv.field_size_limit(MOST_BYTES)
    decoded = _Decoded(lines)
    reader = csv.reader(decoded, delimiter=delimiter, strict=True)

    def fields() -> Iterator[_Fields]:
        while True:
            mark = lines.at
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                more = lines.at.number - mark.number
                where = f", in {more} lines: a quote in it is not closed" if more > 1 else ""
                escaped = _ESCAPED if '\\"' in decoded.line else ""
                yield mark, f"is no row of CSV: {error}{where}{escaped}"
                continue
            if values:
                yield mark, values

    return _table(fields(), lines, columns, start)


class _Decoded:
    """Lines as strings; one that is too long ends the row that it is of, and the next one begins a row."""

    def __init__(self, lines: Lines) -> None:
        self._lines = iter(lines)
        self.line = ""
        """The one read last."""

    def __iter__(self) -> _Decoded:
        return self

    def __next__(self) -> str:
        _, line = next(self._lines)
        if line is None:
            raise csv.Error(_TOO_LONG)
        self.line = line.decode("utf-8", "surrogateescape")
        return self.line


_Fields = tuple[Mark, list[str] | str]


def _table(rows: Iterator[_Fields], lines: Lines, columns: Columns, start: Mark) -> Iterator[Record]:
    """Yield the records of a table whose first row names its columns, unless they go by numbers.

    Args:
        rows: each with its place, as values or as what is wrong with it.
        lines: what they are read from.
        columns: those to take.
        start: where to begin; the first row is read in any case.
    """
    first = next(rows, None)
    if first is None:
        return
    if isinstance(first[1], str):
        raise InputError(f"{lines.label}:1: {first[1]}; expected the names of the columns")
    names = [str(number) for number in range(1, len(first[1]) + 1)] if columns.numbered else first[1]
    picked = columns.pick(names, lines.label)
    places = [None if name is None else names.index(name) for name in picked]
    if columns.numbered and start <= first[0]:
        rows = chain([first], rows)
    lines.jump(start)
    made = Rows(lines.label, columns)
    for mark, values in rows:
        if isinstance(values, str):
            yield Record(mark, None, values)
        elif len(values) != len(names):
            yield Record(mark, None, f"has {len(values)} values, expected {len(names)}")
        else:
            yield made.record(mark, *(None if place is None else values[place] for place in places))


def sniff(line: bytes) -> str:
    """Return the kind of a file by its first line, where its name says nothing."""
    return "jsonl" if line.removeprefix(_BOM).lstrip().startswith(b"{") else "text"
