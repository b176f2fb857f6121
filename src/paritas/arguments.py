"""Arguments as callers give them: of the right type and in range, or one error that says so."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Sequence
from numbers import Real
from typing import Any

from paritas.errors import InputError


def plain(value: str) -> str:
    """Return a string as the type str: an enumeration's member as its value, NumPy's as Python's."""
    return str.__str__(value)


def choice(name: str, value: Any, known: Sequence[str]) -> Any:
    """Return one of the known words.

    Raises:
        InputError: it is none of them.
    """
    if not isinstance(value, str) or value not in known:
        raise InputError(f"unknown {name} {shown(value)}; expected one of {', '.join(known)}")
    return plain(value)


def text(name: str, value: Any, expected: str) -> None:
    """Raise an InputError unless a value is a string that is not empty."""
    if not isinstance(value, str) or not value:
        raise wrong(name, value, expected)


def flag(name: str, value: Any) -> bool:
    """Return True or False.

    Raises:
        InputError: it is neither; "no" would count as yes.
    """
    if type(value).__name__ not in ("bool", "bool_"):  # NumPy's own too, without asking for NumPy
        raise wrong(name, value, "True or False")
    return bool(value)


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return a whole number of the least or more, and the most at most, as an int, NumPy's own too.

    Raises:
        InputError: anything else; a float, a bool or a string is not taken for a number.
    """
    number = _integer(value)
    if number is None or number < least:
        raise wrong(name, value, f"a whole number of {least} or more")
    if most is not None and number > most:
        raise wrong(name, value, f"{most} or less")
    return number


def whole(name: str, value: Any, none: str, *, most: int) -> int | None:
    """Return a whole number from 1 to the most as an int, NumPy's own too, and None as it is.

    Raises:
        InputError: anything else; a float, a bool or a string is not taken for a number.
    """
    if value is None:
        return None
    number = _integer(value)
    if number is None or not 1 <= number <= most:
        raise wrong(name, value, f"1 to {most}, or {none}")
    return number


def _integer(value: Any) -> int | None:
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def share(name: str, value: Any) -> None:
    """Raise an InputError unless a value is None, or a number from 0 to less than 1; NaN is neither."""
    if value is None:
        return
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) < 1:
        raise wrong(name, value, "0 or more and less than 1")


def seconds(name: str, value: Any) -> float:
    """Return a time of more than 0 seconds, as a float.

    Raises:
        InputError: anything else, also NaN and infinity.
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) < math.inf:
        raise wrong(name, value, "seconds, more than 0")
    return float(value)


def pathname(name: str, value: Any, expected: str) -> str:
    """Return a path as a string.

    Raises:
        InputError: neither a string nor a path, or one that no file can have.
    """
    if isinstance(value, (str, os.PathLike)):
        path = os.fspath(value)
        if isinstance(path, str) and path and "\0" not in path:
            return plain(path)
    raise wrong(name, value, expected)


def not_utf8(path: str | os.PathLike[str]) -> str | None:
    """Return what is wrong with a path whose names are not UTF-8, None for any other.

    onnxruntime and usearch open no such file, and JSON cannot name it.
    """
    try:
        os.path.realpath(path).encode()
    except UnicodeEncodeError:
        return f"{os.fspath(path)}: its name or a folder's above it is not UTF-8; rename it or take another"
    return None


def wrong(name: str, value: Any, expected: str) -> InputError:
    """Return the error that says what an argument is, and what was expected."""
    return InputError(f"{name} is {shown(value)}; expected {expected}")


def shown(value: Any) -> str:
    """Return a value as a message shows it: short, and with its type where the value does not tell it."""
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
    plain = value is None or isinstance(value, (str, bytes, int, float))
    return shown if plain else f"{type(value).__name__} {shown}"
