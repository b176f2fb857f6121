"""What readers yield: each record of a file with its place, as a document or with what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import Struct

from paritas.documents import Document, is_unicode
from paritas.errors import InputError, did_you_mean

# Where no column is named.
_IDS, _TITLES, _TEXTS = ("_id", "id"), ("title",), ("text",)


class Mark(NamedTuple):
    """A place in a file, where a record begins."""

    number: int = 1
    """The line, or the row of a table, from 1."""
    offset: int = 0
    """The byte of the unpacked file, where lines can be found by it; else 0."""


BEGINNING = Mark()


class Record(NamedTuple):
    """One record."""

    mark: Mark
    document: Document | None
    """None where it is none."""
    fault: str = ""
    """Why it is none."""


class Columns(Struct, frozen=True):
    """The columns or keys that hold a document; None for those that are looked for.

    A key within another is named with a dot between, such as "passage.text". A column of a CSV or TSV file
    without a header is named by its number, from 1.
    """

    id: str | None = None
    title: str | None = None
    text: str | None = None

    @property
    def numbered(self) -> bool:
        """Columns are named by numbers: the file has no header."""
        return self.text is not None and self.text.isascii() and self.text.isdigit()

    @property
    def ids(self) -> Sequence[str]:
        """The names that ids may stand under, the first that is there."""
        return _IDS if self.id is None else (self.id,)

    @property
    def titles(self) -> Sequence[str]:
        """Likewise for titles."""
        return _TITLES if self.title is None else (self.title,)

    @property
    def texts(self) -> Sequence[str]:
        """Likewise for texts."""
        return _TEXTS if self.text is None else (self.text,)

    def pick(self, names: Sequence[str], label: str) -> Picked:
        """Return which of a table's columns to take.

        Args:
            names: of its columns, in order; of nested ones with their parents' before a dot.
            label: the file, for errors.

        Raises:
            InputError: it has no column of texts, or none of a name that was asked for.
        """
        return Picked(
            _pick(self.ids, names, label, "--id", needed=self.id is not None),
            _pick(self.titles, names, label, "--title", needed=self.title is not None),
            _pick(self.texts, names, label, "--text", needed=True),
        )


class Picked(NamedTuple):
    """The columns that hold a document, by their names; None where there is none."""

    id: str | None
    title: str | None
    text: str | None


def _pick(
    wanted: Sequence[str], names: Sequence[str], label: str, option: str, *, needed: bool
) -> str | None:
    found = next((name for name in wanted if name in names), None)
    if found is not None and names.count(found) > 1:
        raise InputError(f"{label}: has {names.count(found)} columns {found!r}; expected one")
    if found is None and needed:
        shown = ", ".join(map(repr, names[:12])) + (", ..." if len(names) > 12 else "")
        raise InputError(
            f"{label}: no column {wanted[0]!r}{did_you_mean(wanted[0], names) if names else ''}; its columns "
            f"are {shown[:400]}; type: {option} COLUMN, or its number where the file has no header"
        )
    return found


class Rows:
    """Makes records of one file's values."""

    def __init__(self, label: str, columns: Columns) -> None:
        """Take what the file is called, for ids that it does not have, and whether it must have them."""
        self._label, self._id_needed = label, columns.id is not None

    def record(self, mark: Mark, id_: Any, title: Any, text: Any) -> Record:
        """Return a record of three values, None where the file has none."""
        if type(id_) is int:
            id_ = str(id_)
        elif not self._id_needed and (id_ is None or id_ == ""):
            id_ = f"{self._label}:{mark.number}"
        title = "" if title is None else title
        for name, value in (("id", id_), ("title", title), ("text", text)):
            if fault := _fault(name, value):
                return Record(mark, None, fault)
        return Record(mark, Document(id_, title, text))


def _fault(name: str, value: Any) -> str:
    if value is None or (name == "id" and value == ""):
        return f"has no {name}"
    if not isinstance(value, str):
        return f"its {name} is {type(value).__name__}, expected a string"
    if not (value.isascii() or is_unicode(value)):
        return f"its {name} is not UTF-8, or holds half a surrogate pair"
    return ""


def nested(value: Any, name: str) -> Any:
    """Return what stands under a key, or under keys within keys with dots between; None for nothing."""
    if isinstance(value, Mapping) and name in value:
        return value[name]
    for key in name.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value
