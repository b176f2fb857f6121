"""What callers pass to the index, checked and made plain."""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paritas.arguments import plain, shown
from paritas.errors import InputError, ShapeError

_LARGEST_F16 = 65_504


def strings(name: str, values: Any) -> list[str]:
    """Return a sequence of strings as a list of plain ones.

    Args:
        name: what each of them is, for the message.
        values: a list, a tuple, an array of one dimension, or anything else that has a length and an order.

    Raises:
        InputError: a string by itself, something without order or length, or an element that is no string.
    """
    unordered = isinstance(values, str | bytes | bytearray | Mapping | Set) or not hasattr(values, "__len__")
    if unordered or getattr(values, "ndim", 1) != 1:
        raise InputError(f"{name}s are {shown(values)}; expected a list of strings, for one: [{name}]")
    listed = list(values)
    for value in listed:
        if not isinstance(value, str):
            raise InputError(f"{name} {value!r} is {type(value).__name__}; expected a string")
    return [plain(value) for value in listed]


def directory(path: Any) -> Path:
    """Return a directory's path.

    Raises:
        InputError: no path.
    """
    try:
        directory_path = Path(path)
    except TypeError:
        raise InputError(f"the index's directory is {shown(path)}; expected a path") from None
    if "\0" in str(directory_path):
        raise InputError(f"{str(directory_path)!r} holds a NUL character; expected a path")
    return directory_path


def encodable(path: Path) -> str:
    """Return a path as text that every file can hold; bytes that are no UTF-8 are replaced."""
    return os.fsencode(path).decode("utf-8", "replace")


def matrix(vectors: Any, dim: int, dtype: str) -> NDArray[np.float32]:
    """Return vectors as the index takes them: float32, (count, dim), finite, in one block.

    Args:
        vectors: what the caller gave.
        dim: the index's width.
        dtype: how it stores vectors.

    Raises:
        ShapeError: another type or shape.
        InputError: NaN or infinite values, or numbers too large to be stored or multiplied.
    """
    try:
        array = np.asarray(vectors)
    except ValueError as error:
        raise ShapeError(f"vectors are no array: {error}; expected float32 (count, {dim})") from error
    if array.ndim != 2 or array.shape[1] != dim or array.dtype != np.float32:
        raise ShapeError(f"vectors are {array.dtype} {array.shape}; expected float32 (count, {dim})")
    if not np.isfinite(array).all():
        row = int(np.argmin(np.isfinite(array).all(axis=1)))
        raise InputError(f"vector {row} holds NaN or infinite values")
    if dtype == "f16" and (np.abs(array) > _LARGEST_F16).any():
        raise InputError("vectors hold numbers beyond 65,504, too large for f16; use dtype f32 or bf16")
    with np.errstate(over="ignore"):
        squares = np.einsum("ij,ij->i", array, array)
    if not np.isfinite(squares).all():
        row = int(np.argmin(np.isfinite(squares)))
        raise InputError(f"vector {row} is too long: its numbers' squares add up to more than float32 holds")
    return np.ascontiguousarray(array)
