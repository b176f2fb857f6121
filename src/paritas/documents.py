"""Documents and the files people keep them in."""

from __future__ import annotations

import codecs
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paritas import packed
from paritas.arguments import pathname
from paritas.errors import InputError

# The beginning of an object, or of an array of them: a plain text may begin with a bracket too.
_JSON = re.compile(r"\s*(\{|\[\s*(\{|$))")
_ARRAY = "an array is taken apart by: jq -c '.[]' FILE | paritas index - ..."


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


def read_documents(path: str | os.PathLike[str]) -> Iterator[Document]:
    """Yield the documents of a file, one a line; a file packed by gzip or zstd is unpacked as it is read.

    Where the name ends in .jsonl or .json (.gz or .zst after it), or the first line opens a brace, each line
    is an object in BEIR's form: `_id`, `text` and perhaps `title`. Otherwise each line is a text, whose id is
    its number from 1. Empty lines are left out.

    Args:
        path: a file, or "-" for standard input.

    Raises:
        InputError: no such file, not UTF-8, a line that is no such object, an id given twice; the message
            names the file and the line.
        MissingExtraError: the file is packed by zstd, which this Python cannot unpack.
    """
    path = pathname("path", path, 'a file\'s path, or "-" for standard input')
    name = "<stdin>" if path == "-" else path
    is_json: bool | None = True if _unpacked_name(path).endswith((".jsonl", ".json")) else None
    seen: dict[str, int] = {}
    for number, line in _lines(path, name):
        if not line.strip():
            continue
        if is_json is None:
            is_json = _JSON.match(line) is not None
        document = _parse(line, f"{name}:{number}") if is_json else Document(str(number), "", line)
        if document.id in seen:
            raise InputError(
                f"{name}:{number}: id {document.id!r} was given before, in line {seen[document.id]}"
            )
        seen[document.id] = number
        yield document


def _unpacked_name(path: str) -> str:
    return path.removesuffix(".gz").removesuffix(".zst")


def _lines(path: str, name: str) -> Iterator[tuple[int, str]]:
    number = 0
    if path == "-" and sys.stdin is None:
        raise InputError("<stdin>: is closed; pipe documents into it, or name a file")
    try:
        with sys.stdin.buffer if path == "-" else Path(path).open("rb") as file:
            for number, line in enumerate(packed.lines(file, name), start=1):
                if number == 1:
                    check_first_line(line, name, "index")
                # Only \n ends a line: a text may hold U+2028 and other separators of str.splitlines.
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}:{number}: not UTF-8: {error}") from error
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror or error}") from error


def check_first_line(line: bytes, name: str, command: str) -> None:
    """Tell files of other systems from those that are read.

    Args:
        line: the first one, with its end.
        name: what errors call the file.
        command: of `paritas`, that reads it.

    Raises:
        InputError: it is UTF-16, or its lines end in CR alone; the message says what mends it.
    """
    file = "" if name == "<stdin>" else shlex.quote(name)
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in line[:2]:
        mend = f"iconv -f UTF-16 -t UTF-8 {file}".rstrip()
        raise InputError(f"{name}:1: not UTF-8 but UTF-16; type: {mend} | paritas {command} - ...")
    if not line.endswith(b"\n") and b"\r" in line.rstrip(b"\r"):
        mend = "tr '\\r' '\\n'" + (f" < {file}" if file else "")
        raise InputError(
            f"{name}:1: lines end in CR alone, expected LF; type: {mend} | paritas {command} - ..."
        )


def _parse(line: str, place: str) -> Document:
    try:
        fields: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        hint = _ARRAY if line.lstrip().startswith("[") else "expected one object a line"
        raise InputError(f"{place}: not JSON: {error}; {hint}") from error
    if not isinstance(fields, dict):
        hint = f"; {_ARRAY}" if isinstance(fields, list) else ""
        raise InputError(f'{place}: expected an object such as {{"_id": "7", "text": "..."}}{hint}')
    values = []
    for key, default in (("_id", None), ("title", ""), ("text", None)):
        value = fields.get(key, default)
        if key == "_id" and type(value) is int:
            value = str(value)
        if key == "title" and value is None:
            value = ""
        if not isinstance(value, str):
            fault = "is missing" if key not in fields else f"is {type(value).__name__}"
            raise InputError(f'{place}: "{key}" {fault}; expected a string')
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
