"""The CPUs this process may use: how many, and what they can do."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_CPUINFO = Path("/proc/cpuinfo")

# NumPy asks the processor itself; under emulation /proc/cpuinfo may still be the host's.
_NUMPY_NAMES = {
    "AVX2": "avx2",
    "AVX512F": "avx512f",
    "AVX512VNNI": "avx512_vnni",
    "ASIMD": "asimd",
    "ASIMDDP": "asimddp",
}
_OTHER_NAMES = ("avx_vnni", "amx_int8", "i8mm")
# Dot products of four bytes in one instruction, exact in 32 bits.
_DOT_PRODUCTS = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp")


def available_cpus(cgroup: Path = _CGROUP) -> int:
    """Return the CPUs of this process's affinity, or of its cgroup's quota where that is less; at least 1.

    A container limited to 2 CPUs on a 64-core host still sees 64. A pool of 64 threads would spend its
    quota in the first milliseconds of each period, and then stand still.

    Args:
        cgroup: where the cgroup hierarchy is mounted (version 2, or version 1's cpu controller below it).
    """
    affinity, quota = cpu_affinity(), cpu_quota(cgroup)
    return max(1, affinity if quota is None else min(affinity, math.ceil(quota)))


def cpu_affinity() -> int:
    """Return the CPUs this process may be scheduled on; all of them where the system has no affinities."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(cgroup: Path = _CGROUP) -> float | None:
    """Return the quota in CPUs, None where there is none; the tightest of this cgroup and its parents."""
    quotas = []
    for directory in own_cgroups("cpu", "cpu,cpuacct", cgroup=cgroup):
        try:
            if (directory / "cpu.max").exists():
                limit, period = (directory / "cpu.max").read_text().split()
            else:
                limit = (directory / "cpu.cfs_quota_us").read_text().strip()
                period = (directory / "cpu.cfs_period_us").read_text().strip()
            if limit not in ("max", "-1"):
                quotas.append(int(limit) / int(period))
        except (OSError, ValueError, ZeroDivisionError):
            continue  # not limited here, or not readable: nothing to respect
    return min(quotas, default=None)


def own_cgroups(*mounts: str, cgroup: Path = _CGROUP) -> list[Path]:
    """Return the directories that may limit this process: the mounts themselves and its path below them.

    Args:
        mounts: the controller, and under what other names version 1 may have it mounted.
        cgroup: where the hierarchy is mounted.
    """
    directories = [cgroup, *(cgroup / mount for mount in mounts)]
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return directories
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and mounts[0] not in controllers.split(","):
            continue
        root = cgroup / controllers if controllers else cgroup
        own = root / path.lstrip("/")
        directories += [own, *(parent for parent in own.parents if root in parent.parents)]
    return directories


def instructions() -> list[str]:
    """Return the instruction sets that matter to the encoders' kernels, by Linux's names."""
    # Private by its name, but what numpy.show_runtime() prints, and the same since NumPy 1.16.
    from numpy._core._multiarray_umath import __cpu_features__ as features  # type: ignore[import-not-found]

    names = [name for key, name in _NUMPY_NAMES.items() if features.get(key)]
    flags = {flag for line in _cpuinfo() if line.startswith(("flags", "Features")) for flag in line.split()}
    if all(name in flags for name in names) and ("avx512f" in flags) == ("avx512f" in names):
        names += [name for name in _OTHER_NAMES if name in flags]
    return names


def dot_product(available: list[str]) -> str | None:
    """Return which of these instruction sets multiplies bytes fast and exactly; None where none does.

    Without one, x86 adds products of unsigned and signed bytes in 16 bits, which saturate. There onnxruntime
    is told to shift the weights to unsigned bytes, which is exact but slower.
    """
    return next((name for name in _DOT_PRODUCTS if name in available), None)


def cpu_name() -> str:
    """Return the CPU's name and the instruction sets that matter to its kernels.

    Hypervisors may hide the number in a name ("AMD EPYC"). Its family and model follow then.
    """
    facts: dict[str, str] = {}
    for line in _cpuinfo():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name") or platform.processor() or platform.machine()
    if {"cpu family", "model"} <= facts.keys() and not any(character.isdigit() for character in name):
        name += f" family {facts['cpu family']} model {facts['model']}"
    return f"{name} ({' '.join(instructions()) or platform.machine()})"


def _cpuinfo() -> list[str]:
    try:
        return _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:  # not on Linux
        return []
