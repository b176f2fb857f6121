"""An encoder's options: each of the right type and in range, or an error that says so."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import force_setattr

from paritas.arguments import choice, flag, share, text, whole
from paritas.engine.runtime.memory import parse_size
from paritas.engine.runtime.session import is_cpu
from paritas.errors import InputError
from paritas.registry import PRECISIONS, Precision

_MOST_THREADS = 65_535
_MOST_TOKENS = 2**31 - 1


class EncoderOptions(Struct, frozen=True, kw_only=True):
    """What an `Encoder` is loaded with, its model aside; see there for what each option means.

    Making one checks it, and makes NumPy's integers Python's.

    Raises:
        InputError: an option has the wrong type or is out of its range.
    """

    precision: Precision | Literal["auto"] = "fp32"
    provider: str = "cpu"
    threads: int | None = None
    workers: int | None = None
    max_batch_tokens: int | None = None
    max_padding: float | None = None
    memory_limit: int | str | None = None
    cache: bool = True
    kernels: bool = True
    truncate_dim: int | None = None

    def __post_init__(self) -> None:
        choice("precision", self.precision, (*PRECISIONS, "auto"))
        text("provider", self.provider, 'its name, such as "cpu" or "cuda"')
        share("max_padding", self.max_padding)
        flag("cache", self.cache)
        flag("kernels", self.kernels)
        self._check_whole("threads", "None for the CPUs at hand", most=_MOST_THREADS)
        self._check_whole("workers", "None for as many as threads", most=_MOST_THREADS)
        self._check_whole("max_batch_tokens", "None for the default", most=_MOST_TOKENS)
        if self.memory_limit is None:
            return
        if not self.on_cpu:
            raise InputError("memory_limit is for CPUs; an accelerator's memory is its provider's to limit")
        parse_size(self.memory_limit)

    def _check_whole(self, name: str, none: str, *, most: int) -> None:
        force_setattr(self, name, whole(name, getattr(self, name), none, most=most))

    @property
    def on_cpu(self) -> bool:
        """The provider is the CPU."""
        return is_cpu(self.provider)

    @property
    def padding(self) -> float:
        """Most padding of a batch, as a share, with its default."""
        if self.max_padding is None:
            return 0.0 if self.on_cpu else 0.1
        return self.max_padding

    @property
    def limit_bytes(self) -> int | None:
        """The memory limit in bytes, None for none."""
        return None if self.memory_limit is None else parse_size(self.memory_limit)

    def dim(self, full: int) -> int:
        """Return how many channels of a vector to keep, of as many as there are.

        Raises:
            InputError: `truncate_dim` is no whole number from 1 to the vectors' width.
        """
        kept: Any = whole("truncate_dim", self.truncate_dim, "None for the vectors' full width", most=full)
        return full if kept is None else kept
