"""The texts of a call as people hand them over: lists, arrays, columns, generators; what is no such thing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from paritas.errors import InputError

_ONE = "a single string; expected several, as in encode([text], role=...)"
_MENDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    ((str, bytes, bytearray, memoryview), _ONE),
    (Mapping, "which yields its keys; type: list(texts.values())"),
    ((set, frozenset), "which has no order, so that no vector is known to be whose; type: sorted(texts)"),
)
_TABLE = 'a table, which yields its columns; give one of them, as in encode(texts["text"], role=...)'
_FILE = 'an open file, whose lines keep their ends; type: [line.rstrip("\\n") for line in texts]'
# What tells tables and files from their like; pandas, Polars, PyArrow and Datasets name columns so.
_SIGNS = {"columns": _TABLE, "column_names": _TABLE, "readline": _FILE}


def listed(texts: Iterable[Any]) -> Sequence[Any]:
    """Return texts as a list or tuple, in the order given; each by itself is not looked at.

    Args:
        texts: a list, tuple, array, Series, column, generator, ...; anything that yields its texts.

    Raises:
        InputError: what yields something else: one string, a dict, a table, a set, an open file.
    """
    if isinstance(texts, (list, tuple)):
        return texts
    for kinds, mend in _MENDS:
        if isinstance(texts, kinds):
            raise _refused(texts, mend)
    for name, mend in _SIGNS.items():
        if hasattr(texts if mend is _FILE else type(texts), name):
            raise _refused(texts, mend)
    return _items(texts)


def _items(texts: Any) -> list[Any]:
    if isinstance(texts, np.ndarray) and texts.ndim > 1 and texts.shape[1:] != (2,):
        raise _refused(texts, f"of shape {texts.shape}; expected (texts,), or (texts, 2) for pairs")
    # NumPy's and PyArrow's arrays yield scalars of their own, which are no strings.
    for method in ("tolist", "to_pylist"):
        if callable(convert := getattr(texts, method, None)):
            texts = convert()
    if isinstance(texts, str):
        raise _refused(texts, _ONE)
    try:
        iterator = iter(texts)
    except TypeError:
        raise _refused(texts, "which yields nothing; expected an iterable of strings") from None
    return list(iterator)


def _refused(texts: object, why: str) -> InputError:
    return InputError(f"texts is {type(texts).__name__}, {why}")
