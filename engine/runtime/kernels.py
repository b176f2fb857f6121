"""paritas's own operators: a small library that onnxruntime calls for the layers it has kernels for.

A graph that holds such an operator also says, in onnxruntime's own operators, what it computes. Without the
library, or on a CPU that its kernels do not fit, onnxruntime runs that instead: slower, and within the same
certificate.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import paritas
from paritas.engine.bundle.manifest import Variant
from paritas.errors import InputError

LIBRARY = Path(paritas.__file__).with_name("kernels.so")
VARIABLE = "PARITAS_KERNELS"
ONNXRUNTIME = "onnxruntime"
# These round inputs of layers to the same integers. The rest is FP32, but for x86's attention, which is in
# integers of 16 bits: that is a 3,000th apart, and mean cosines to FP32 are the same to the fifth digit.
_OF_BYTES = frozenset({"amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp"})


class Kernels(NamedTuple):
    """Whose kernels run a graph, and why."""

    name: str
    """The instruction set of ours, or "onnxruntime" where all are its own."""
    reason: str
    identity: str = ""
    """What an optimized graph depends on: the library's digest; empty where all are onnxruntime's."""

    @property
    def own(self) -> bool:
        """Whether ours are among them."""
        return bool(self.identity)


def kernels_for(variant: Variant, *, own: bool = True) -> Kernels:
    """Return whose kernels run a precision's graphs here.

    Args:
        variant: the precision.
        own: whether ours may run.

    Raises:
        InputError: the environment's PARITAS_KERNELS has no such value.
    """
    if not is_dynamic(variant):
        return Kernels(ONNXRUNTIME, "its graphs hold onnxruntime's operators alone")
    return available_kernels() if own else Kernels(ONNXRUNTIME, "no others were wanted")


def compute_alike(one: str, other: str) -> bool:
    """Say whether what is proven of some kernels, by their name, holds for others."""
    return one == other or {one, other} <= _OF_BYTES


def is_dynamic(variant: Variant) -> bool:
    """Say whether a precision's graphs hold paritas's own operators: INT8 with dynamic inputs."""
    return variant.quantization is not None and variant.quantization.inputs == "dynamic"


def available_kernels() -> Kernels:
    """Return the kernels there are for paritas's operators on this machine.

    Raises:
        InputError: the environment's PARITAS_KERNELS has no such value.
    """
    asked = os.environ.get(VARIABLE, "")
    if asked not in ("", "none", "required"):
        raise InputError(f"{VARIABLE} is {asked!r}; expected none or required, or unset it")
    if asked == "none":
        return Kernels(ONNXRUNTIME, f"{VARIABLE} is none")
    found = _library_kernels()
    if asked == "required" and not found.own:
        raise InputError(f"{VARIABLE} is required, but {found.reason}; unset it")
    return found


@cache
def _library_kernels() -> Kernels:
    if not LIBRARY.exists():
        return Kernels(ONNXRUNTIME, "paritas was installed without its library of kernels")
    try:
        names = ctypes.CDLL(str(LIBRARY)).paritas_kernels
    except (OSError, AttributeError) as error:  # no library, or another one
        return Kernels(ONNXRUNTIME, f"paritas's library of kernels does not load: {error}")
    names.restype = ctypes.c_char_p
    name = names()
    if name is None:
        return Kernels(ONNXRUNTIME, "paritas has no kernels for this CPU")
    identity = hashlib.sha256(LIBRARY.read_bytes()).hexdigest()
    return Kernels(name.decode(), f"paritas has kernels for {name.decode()}", identity)
