"""The CPUs, the memory and the onnxruntime of this machine."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

from paritas.doctor.packages import version_of
from paritas.doctor.problem import Problem
from paritas.engine.runtime.cpus import (
    available_cpus,
    cpu_affinity,
    cpu_name,
    cpu_quota,
    dot_product,
    instructions,
    own_cgroups,
)
from paritas.engine.runtime.installation import installed_runtimes
from paritas.engine.runtime.kernels import ONNXRUNTIME, VARIABLE, Kernels, available_kernels
from paritas.engine.runtime.precision import fast_with
from paritas.errors import InputError, MissingExtraError

_TELEMETRY = "ORT_DISABLE_TELEMETRY"
NOT_LOADED = (ImportError, OSError, AttributeError)
"""What importing onnxruntime may raise.

Where one of two distributions was removed and took files of the other with it, what is left may import as an
empty package.
"""


class Cpu(Struct, frozen=True):
    """The CPUs, and how many of them this process may use."""

    name: str
    """Its instruction sets among it."""
    instructions: list[str]
    dot_product: str | None
    """What multiplies bytes fast and exactly; None where nothing does."""
    int8: bool
    """Whether INT8 with dynamic inputs is faster than FP32."""
    kernels: str
    """Whose kernels run paritas's own operators: an instruction set of ours, or onnxruntime."""
    kernels_reason: str
    present: int
    available: int
    """What affinity and quota leave."""
    affinity: int
    quota: float | None
    """The cgroup's, in CPUs."""


class Memory(Struct, frozen=True):
    """The memory there is, and how much of it this process may use."""

    total_bytes: int | None
    """None where the system does not say."""
    limit_bytes: int | None
    """The cgroup's."""


class Runtime(Struct, frozen=True):
    """The onnxruntime that is installed, or several."""

    distributions: dict[str, str]
    """Versions by name."""
    providers: list[str]
    error: str | None
    """Why it cannot be used."""
    telemetry: str | None
    """What the user set ORT_DISABLE_TELEMETRY to; where nothing, paritas sets 1."""


def examine_cpu() -> Cpu:
    """Return what the CPUs are, and how many of them this process may use."""
    names, kernels = instructions(), _kernels()
    return Cpu(
        name=cpu_name(),
        instructions=names,
        dot_product=dot_product(names),
        int8=fast_with(kernels)[0],
        kernels=kernels.name,
        kernels_reason=kernels.reason,
        present=os.cpu_count() or 1,
        available=available_cpus(),
        affinity=cpu_affinity(),
        quota=cpu_quota(),
    )


def _kernels() -> Kernels:
    try:
        return available_kernels()
    except InputError as fault:  # a finding; encoders refuse it
        return Kernels(ONNXRUNTIME, str(fault))


def examine_memory() -> Memory:
    """Return how much memory there is, and how much of it this process may use."""
    return Memory(_total_bytes(), cgroup_memory_limit())


def _total_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def cgroup_memory_limit(cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the memory limit in bytes of this process's cgroup or the tightest of its parents, else None.

    Args:
        cgroup: where the cgroup hierarchy is mounted (version 2, or version 1's memory controller below it).
    """
    limits = []
    for directory in own_cgroups("memory", cgroup=cgroup):
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                limits.append(int((directory / name).read_text()))
            except (OSError, ValueError):  # not there, or "max"
                continue
    # Version 1 writes "no limit" as the largest number of pages there can be.
    return min((limit for limit in limits if limit < 2**60), default=None)


def examine_runtime() -> Runtime:
    """Return which onnxruntime there is, and whether it loads."""
    telemetry = os.environ.get(_TELEMETRY)
    versions = {name: version_of(name) or "unknown" for name in installed_runtimes()}
    providers, error = [], None
    try:
        from paritas.engine.runtime.session import available_providers

        providers = available_providers()
    except MissingExtraError as fault:
        error = str(fault)
    except NOT_LOADED as fault:
        error = f"onnxruntime is damaged: {fault}; type: pip install --force-reinstall {' '.join(versions)}"
    return Runtime(versions, providers, error, telemetry)


def kernel_problems() -> list[Problem]:
    """Return what is wrong with the choice of kernels."""
    try:
        available_kernels()
    except InputError as fault:
        what, _, _ = str(fault).partition(";")
        return [Problem("error", what, f"unset {VARIABLE}")]
    return []


def runtime_problems(runtime: Runtime) -> list[Problem]:
    """Return what is wrong with the onnxruntime."""
    problems = []
    if runtime.error is not None:
        what, _, mend = runtime.error.partition("; type: ")
        problems.append(Problem("error", what, mend))
    if runtime.telemetry not in (None, "1"):
        what = f"{_TELEMETRY} is {runtime.telemetry!r}: onnxruntime may report what runs here to its maker"
        problems.append(Problem("warning", what, f"unset {_TELEMETRY}"))
    return problems
