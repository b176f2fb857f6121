"""Which precision an encoder loads, and why."""

from __future__ import annotations

import logging
from typing import Literal

from paritas.engine.bundle.directory import Bundle
from paritas.engine.bundle.manifest import Variant
from paritas.engine.runtime.cpus import dot_product, instructions
from paritas.engine.runtime.kernels import Kernels, compute_alike, is_dynamic, kernels_for
from paritas.errors import InputError
from paritas.registry import Precision

_log = logging.getLogger("paritas")


def choose_precision(
    bundle: Bundle, asked: Precision | Literal["auto"], *, on_cpu: bool, own: bool = True
) -> tuple[Precision, str]:
    """Return the precision to load and why; log what somebody who is paged would want to know.

    Args:
        bundle: what there is to choose from.
        asked: a precision, or "auto": INT8 where the bundle has it and this CPU multiplies bytes fast.
        on_cpu: it will run on a CPU.
        own: whether paritas's own kernels may run.

    Raises:
        InputError: INT8 was asked for on anything but a CPU.
    """
    has = bundle.manifest.precisions
    if asked == "auto":
        precision, reason = automatic_precision(bundle, on_cpu=on_cpu, own=own)
        _log.info("%s: precision %s: %s", bundle.manifest.model, precision, reason)
    else:
        precision, reason = asked, "asked for"
    if precision != "int8":
        return precision, reason
    if not on_cpu:
        raise InputError('INT8 graphs are for CPUs; take precision="fp16" with this provider')
    if "int8" in has and (difference := certified_elsewhere(has["int8"], own=own)):
        _log.warning(
            "%s: %s; `paritas verify %s` repeats the certificate here",
            bundle.manifest.model,
            difference,
            bundle.directory,
        )
    return precision, reason


def certified_elsewhere(variant: Variant, *, own: bool = True) -> str:
    """Return what INT8's certificate was made with and what runs here; empty where that is the same."""
    certificate, kernels = variant.certificate, kernels_for(variant, own=own)
    if certificate is None:  # it is being made
        return ""
    if is_dynamic(variant):
        if any(compute_alike(kernels.name, name) for name in certificate.kernels):
            return ""
        made = " and ".join(certificate.kernels)
        return f"INT8 was certified with the kernels of {made}, here it runs with those of {kernels.name}"
    fast, certified = dot_product(instructions()), dot_product(certificate.instructions)
    if fast == certified:
        return ""
    how = "computed by other instructions" if fast else "but slower to compute than FP32"
    return (
        f"INT8 was certified with {certified or 'no byte dot product'}, this CPU has "
        f"{fast or 'no byte dot product'}; its integers are the same, {how}"
    )


def automatic_precision(bundle: Bundle, *, on_cpu: bool, own: bool = True) -> tuple[Precision, str]:
    """Return what "auto" stands for here, and why.

    Args:
        bundle: it has one precision at least.
        on_cpu: it will run on a CPU.
        own: whether paritas's own kernels may run.
    """
    has = bundle.manifest.precisions
    if "int8" not in has or not on_cpu:
        why = "the bundle has no INT8" if on_cpu else "INT8 graphs are for CPUs"
        return ("fp32" if "fp32" in has else next(iter(has))), why
    figures = has["int8"].certified.figures
    proof = f"certified, mean cosine {figures.mean_cosine:.4f}, smallest {figures.min_cosine:.4f}"
    fast, why = _fast(has["int8"], own=own)
    if fast:
        return "int8", f"{why}; {proof}"
    if "fp32" in has:
        return "fp32", why
    return "int8", f"{why}, but the bundle has no FP32; {proof}"


def fast_with(kernels: Kernels) -> tuple[bool, str]:
    """Say whether INT8 with dynamic inputs is faster than FP32 here by these kernels, and why."""
    if kernels.name == "avx2" and "avx512f" in instructions():
        return False, "FP32 runs with AVX-512 here, and paritas's kernels with avx2 alone"
    return kernels.own, kernels.reason if kernels.own else f"{kernels.reason}: INT8 runs like FP32"


def _fast(variant: Variant, *, own: bool) -> tuple[bool, str]:
    """Say whether INT8 is faster than FP32 here, and why."""
    if is_dynamic(variant):
        return fast_with(kernels_for(variant, own=own))
    fast = dot_product(instructions())
    if fast is not None:
        return True, f"{fast} multiplies bytes fast"
    names = " ".join(instructions()) or "no known instructions"
    return False, f"without a byte dot product ({names}) INT8 is slower"
