"""An encoder's options as callers give them: of the right type and in range, or an error that says so."""

from __future__ import annotations

from typing import Any

from paritas.arguments import choice, flag, share, text, whole
from paritas.engine.runtime.memory import parse_size
from paritas.errors import InputError
from paritas.registry import PRECISIONS

_THREADS = 65_535
_TOKENS = 2**31 - 1


def check(*, precision: Any, provider: Any, max_padding: Any, cache: Any) -> None:
    """Check an encoder's options, by the names that its constructor gives them.

    Raises:
        InputError: one has the wrong type or is out of its range.
    """
    choice("precision", precision, (*PRECISIONS, "auto"))
    text("provider", provider, 'its name, such as "cpu" or "cuda"')
    share("max_padding", max_padding)
    flag("cache", cache)


def threads(value: Any) -> int | None:
    """Return an encoder's threads; errors as `paritas.arguments.whole`."""
    return whole("threads", value, "None for the CPUs at hand", most=_THREADS)


def workers(value: Any) -> int | None:
    """Return an encoder's workers; errors as `paritas.arguments.whole`."""
    return whole("workers", value, "None for as many as threads", most=_THREADS)


def max_batch_tokens(value: Any) -> int | None:
    """Return an encoder's token budget; errors as `paritas.arguments.whole`."""
    return whole("max_batch_tokens", value, "None for the default", most=_TOKENS)


def dim(truncate_dim: Any, full: int) -> int:
    """Return how many channels of a vector to keep: all of them where None was asked for.

    Raises:
        InputError: not a whole number from 1 to the vectors' width.
    """
    kept = whole("truncate_dim", truncate_dim, "None for the vectors' full width", most=full)
    return full if kept is None else kept


def limit(memory_limit: Any, *, on_cpu: bool) -> int | None:
    """Return a memory limit in bytes, None for none.

    Raises:
        InputError: no size, or the limit is for an accelerator.
    """
    if memory_limit is None:
        return None
    if not on_cpu:
        raise InputError("memory_limit is for CPUs; an accelerator's memory is its provider's to limit")
    return parse_size(memory_limit)
