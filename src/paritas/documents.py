"""Documents and the files people keep them in."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paritas.errors import InputError


@dataclass(frozen=True, slots=True)
class Document:
    """One text with its id and, where it has one, its title."""

    id: str
    title: str
    text: str

    def as_text(self, *, pair: bool) -> str | tuple[str, str]:
        """Return what an encoder takes: the pair (title, text), or for roles without pairs the two joined."""
        if pair:
            return (self.title, self.text)
        return f"{self.title} {self.text}" if self.title else self.text


def read_documents(path: str) -> Iterator[Document]:
    """Yield the documents of a file, one a line.

    A line is an object in BEIR's form, with `_id`, `text` and perhaps `title`, if the name ends in .jsonl or
    .json or the first line opens a brace; otherwise it is a text, whose id is its line number from 1. Empty
    lines are left out.

    Args:
        path: a file, or "-" for standard input.

    Raises:
        InputError: no such file, not UTF-8, a line that is no such object, an id given twice; the message
            names the file and the line.
    """
    name = "<stdin>" if path == "-" else path
    is_json: bool | None = True if path.endswith((".jsonl", ".json")) else None
    seen: dict[str, int] = {}
    for number, line in _lines(path, name):
        if not line.strip():
            continue
        if is_json is None:
            is_json = line.lstrip().startswith("{")
        document = _parse(line, f"{name}:{number}") if is_json else Document(str(number), "", line)
        if document.id in seen:
            raise InputError(
                f"{name}:{number}: id {document.id!r} was given before, in line {seen[document.id]}"
            )
        seen[document.id] = number
        yield document


def _lines(path: str, name: str) -> Iterator[tuple[int, str]]:
    number = 0
    if path == "-" and sys.stdin is None:
        raise InputError("<stdin>: is closed; pipe documents into it, or name a file")
    try:
        with sys.stdin.buffer if path == "-" else Path(path).open("rb") as file:
            for number, line in enumerate(file, start=1):
                # Only \n ends a line: a text may hold U+2028 and other separators of str.splitlines.
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}:{number}: not UTF-8: {error}") from error
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror or error}") from error


def _parse(line: str, place: str) -> Document:
    try:
        fields: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InputError(f'{place}: expected an object such as {{"_id": "7", "text": "..."}}')
    values = []
    for key, default in (("_id", None), ("title", ""), ("text", None)):
        value = fields.get(key, default)
        if key == "_id" and type(value) is int:
            value = str(value)
        if key == "title" and value is None:
            value = ""
        if not isinstance(value, str):
            found = "is missing" if key not in fields else f"is {type(value).__name__}"
            raise InputError(f'{place}: "{key}" {found}; expected a string')
        if not is_unicode(value):
            raise InputError(f'{place}: "{key}" holds half a surrogate pair, such as \\ud83d alone')
        values.append(value)
    return Document(*values)


def is_unicode(value: str) -> bool:
    """Say whether a string can be encoded: JSON's escapes can spell half a character."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
