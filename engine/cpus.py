"""How many CPUs this process may really use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_cpus(cgroup: Path = _CGROUP) -> int:
    """Return the CPUs of this process's affinity, or of its cgroup's quota where that is less; at least 1.

    A container limited to 2 CPUs on a 64-core host still sees 64: a pool of 64 threads would spend its
    quota in the first milliseconds of each period and then stand still.

    Args:
        cgroup: where the cgroup hierarchy is mounted (version 2, or version 1's cpu controller below it).
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, affinity if quota is None else min(affinity, math.ceil(quota)))


def _quota(cgroup: Path) -> float | None:
    """Return the quota in CPUs, None where there is none; the tightest of this cgroup and its parents."""
    quotas = []
    for directory in _own_cgroups(cgroup):
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


def _own_cgroups(cgroup: Path) -> list[Path]:
    """The directories that may limit this process: the mount itself and the path below it."""
    found = [cgroup, cgroup / "cpu", cgroup / "cpu,cpuacct"]
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroup / controllers if controllers else cgroup
        own = root / path.lstrip("/")
        found += [own, *(parent for parent in own.parents if root in parent.parents)]
    return found
