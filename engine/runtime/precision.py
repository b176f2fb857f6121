"""Which precision an encoder loads, and why."""

from __future__ import annotations

import logging
from typing import Literal

from paritas.engine.bundle.directory import Bundle
from paritas.engine.runtime.cpus import dot_product, instructions
from paritas.errors import InputError
from paritas.registry import Precision

_log = logging.getLogger("paritas")


def choose_precision(
    bundle: Bundle, asked: Precision | Literal["auto"], *, on_cpu: bool
) -> tuple[Precision, str]:
    """Return the precision to load and why; log what somebody who is paged would want to know.

    Args:
        bundle: what there is to choose from.
        asked: a precision, or "auto": INT8 where the bundle has it and this CPU multiplies bytes fast.
        on_cpu: it will run on a CPU.

    Raises:
        InputError: INT8 was asked for on anything but a CPU.
    """
    has = bundle.manifest.precisions
    if asked == "auto":
        precision, reason = automatic_precision(bundle, on_cpu=on_cpu)
        _log.info("%s: precision %s: %s", bundle.manifest.model, precision, reason)
    else:
        precision, reason = asked, "asked for"
    if precision != "int8":
        return precision, reason
    if not on_cpu:
        raise InputError('INT8 graphs are for CPUs; take precision="fp16" with this provider')
    fast = dot_product(instructions())
    certificate = has["int8"].certificate if "int8" in has else None
    if certificate is not None and fast != (certified := dot_product(certificate.instructions)):
        _log.warning(
            "%s: the INT8 certificate was made with %s, this CPU has %s; its integers are the same, %s; "
            "`paritas verify %s` repeats the certificate here",
            bundle.manifest.model,
            certified or "no byte dot product",
            fast or "no byte dot product",
            "computed by other instructions" if fast else "but slower to compute than FP32",
            bundle.directory,
        )
    return precision, reason


def automatic_precision(bundle: Bundle, *, on_cpu: bool) -> tuple[Precision, str]:
    """Return what "auto" stands for here, and why.

    Args:
        bundle: it has one precision at least.
        on_cpu: it will run on a CPU.
    """
    has = bundle.manifest.precisions
    if "int8" not in has or not on_cpu:
        why = "the bundle has no INT8" if on_cpu else "INT8 graphs are for CPUs"
        return ("fp32" if "fp32" in has else next(iter(has))), why
    figures = has["int8"].certified.figures
    proof = f"certified, mean cosine {figures.mean_cosine:.4f}, smallest {figures.min_cosine:.4f}"
    fast = dot_product(instructions())
    if fast is not None:
        return "int8", f"{fast} multiplies bytes fast; {proof}"
    slow = (
        f"without a byte dot product ({' '.join(instructions()) or 'no known instructions'}) INT8 is slower"
    )
    if "fp32" in has:
        return "fp32", slow
    return "int8", f"{slow}, but the bundle has no FP32; {proof}"
