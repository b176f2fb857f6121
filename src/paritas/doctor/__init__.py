"""What this machine, its packages and the store's bundles are like, and what is wrong with them.

Nothing is encoded, and nothing here needs onnxruntime: where it is missing, that is a finding.
"""

from __future__ import annotations

from msgspec import Struct

from paritas.doctor.machine import (
    Cpu,
    Memory,
    Runtime,
    examine_cpu,
    examine_memory,
    examine_runtime,
    kernel_problems,
    runtime_problems,
)
from paritas.doctor.packages import package_problems, versions
from paritas.doctor.problem import Problem
from paritas.doctor.store import BundleState, Store, bundle_problems, examine_store, store_problems


class Findings(Struct, frozen=True):
    """All of it."""

    ok: bool
    """There are warnings at most."""
    versions: dict[str, str]
    cpu: Cpu
    memory: Memory
    onnxruntime: Runtime
    store: Store
    bundles: list[BundleState]
    problems: list[Problem]


def examine() -> Findings:
    """Look at everything; what cannot be read is a finding, never an error."""
    cpu = examine_cpu()
    runtime = examine_runtime()
    place, bundles = examine_store()
    problems = [
        *runtime_problems(runtime),
        *kernel_problems(),
        *package_problems(),
        *store_problems(place),
        *(problem for bundle in bundles for problem in bundle_problems(bundle, cpu)),
    ]
    return Findings(
        ok=all(problem.severity == "warning" for problem in problems),
        versions=versions(),
        cpu=cpu,
        memory=examine_memory(),
        onnxruntime=runtime,
        store=place,
        bundles=bundles,
        problems=sorted(problems, key=lambda problem: problem.severity),
    )
