"""What this machine, its packages and the store's bundles are like, and what is wrong with them.

Nothing is encoded, and nothing here needs onnxruntime: where it is missing, that is a finding.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from paritas import __version__, files, store, workplace
from paritas.engine.bundle.digest_cache import DigestCache
from paritas.engine.bundle.directory import Bundle
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
from paritas.engine.runtime.precision import automatic_precision
from paritas.errors import BundleError, MissingExtraError, StoreError
from paritas.registry import Precision

if TYPE_CHECKING:  # its module needs onnxruntime
    from paritas.engine.settings import Settings

_PACKAGES = ("numpy", "tokenizers", "usearch", "onnx", "optimum-onnx", "transformers")
_TELEMETRY = "ORT_DISABLE_TELEMETRY"
# What was never digested before is read up to here: 2 to 4 s where a CPU has no instructions for SHA-256.
_READ_AT_MOST_BYTES = 10**9
# What importing onnxruntime may raise: where one of two distributions was removed and took files of the other
# with it, what is left may import as an empty package.
_NOT_LOADED = (ImportError, OSError, AttributeError)


class Cpu(Struct, frozen=True):
    """The CPUs, and how many of them this process may use."""

    name: str
    """Its instruction sets among it."""
    instructions: list[str]
    dot_product: str | None
    """What multiplies bytes fast and exactly; None where nothing does."""
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


class Leftover(Struct, frozen=True):
    """What a killed process left in the store."""

    path: str
    size_bytes: int


class Store(Struct, frozen=True):
    """The folder of bundles and of what can be made again."""

    path: str
    """Empty where this user has no home directory."""
    writable: bool
    cache_bytes: int
    prepared_bytes: int
    error: str | None
    """Why its bundles cannot be listed."""
    leftovers: list[Leftover] = []


class BundledGraph(Struct, frozen=True):
    """One precision of a bundle."""

    size_bytes: int
    """On the disk, for CPUs."""
    certified: list[str]
    """The instruction sets the certificate was made with."""
    date: str
    prepared: bool | None = None
    """This machine's form of it is in the cache; None where onnxruntime does not load, as for `settings`."""
    damage: str | None = None
    """What is wrong with that form; the next load makes it again."""
    settings: Settings | None = None
    """With what an encoder runs here."""
    gain: float | None = None
    """How many times as fast as the default, where that was tuned."""
    tuned_cpus: int | None = None
    """How many CPUs there were when it was tuned; where these are not the present ones, it does not hold."""


class BundleState(Struct, frozen=True):
    """One bundle of the store."""

    model: str
    path: str
    error: str | None
    """What is wrong with it."""
    unread_bytes: int = 0
    """Of files whose size is right and whose digest was not taken now or before."""
    graphs: dict[Precision, BundledGraph] = {}
    precision: Precision | None = None
    """What "auto" stands for here."""
    reason: str | None = None
    """Why."""


class Problem(Struct, frozen=True):
    """Something to mend."""

    severity: Literal["error", "warning"]
    """An error makes encoding impossible."""
    what: str
    mend: str
    """What to type."""


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
    versions = _versions()
    cpu = _cpu()
    runtime = _runtime()
    place, bundles = _store()
    problems = [
        *_runtime_problems(runtime),
        *_package_problems(versions),
        *_store_problems(place),
        *(problem for bundle in bundles for problem in _bundle_problems(bundle, cpu)),
    ]
    return Findings(
        ok=all(problem.severity == "warning" for problem in problems),
        versions=versions,
        cpu=cpu,
        memory=Memory(_memory_total(), cgroup_memory_limit()),
        onnxruntime=runtime,
        store=place,
        bundles=bundles,
        problems=sorted(problems, key=lambda problem: problem.severity),
    )


def _versions() -> dict[str, str]:
    versions = {"paritas": __version__, "python": platform.python_version()}
    # From their records: importing usearch before onnxruntime may be one of the problems.
    return versions | {name: version for name in _PACKAGES if (version := _version(name))}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> Cpu:
    names = instructions()
    return Cpu(
        name=cpu_name(),
        instructions=names,
        dot_product=dot_product(names),
        present=os.cpu_count() or 1,
        available=available_cpus(),
        affinity=cpu_affinity(),
        quota=cpu_quota(),
    )


def _memory_total() -> int | None:
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


def _runtime() -> Runtime:
    telemetry = os.environ.get(_TELEMETRY)
    versions = {name: _version(name) or "unknown" for name in installed_runtimes()}
    providers, error = [], None
    try:
        from paritas.engine.runtime.session import available_providers

        providers = available_providers()
    except MissingExtraError as fault:
        error = str(fault)
    except _NOT_LOADED as fault:
        error = f"onnxruntime is damaged: {fault}; type: pip install --force-reinstall {' '.join(versions)}"
    return Runtime(versions, providers, error, telemetry)


def _store() -> tuple[Store, list[BundleState]]:
    try:
        home = store.home()
    except StoreError as fault:
        return Store("", writable=False, cache_bytes=0, prepared_bytes=0, error=str(fault)), []
    bundles: list[BundleState] = []
    error = None
    try:
        directories = sorted(path for path in (home / "bundles").iterdir() if path.is_dir())
    except FileNotFoundError:
        directories = []
    except OSError as fault:
        directories, error = [], str(fault)
    room_bytes = _READ_AT_MOST_BYTES
    for directory in directories:
        if directory.name.startswith("."):  # an export under way
            continue
        state, read_bytes = _bundle(directory, room_bytes)
        bundles.append(state)
        room_bytes -= read_bytes
    cache_bytes, prepared_bytes = _size_bytes(store.cache()), _size_bytes(store.cache() / "prepared")
    place = Store(str(home), _writable(home), cache_bytes, prepared_bytes, error, _leftovers(home))
    return place, bundles


def _leftovers(home: Path) -> list[Leftover]:
    prepared = home / "cache" / "prepared"
    leftovers = workplace.leftovers(home / "bundles")
    with contextlib.suppress(OSError, TimeoutError), files.locked(prepared, patience_s=0):
        leftovers += prepared.glob(".partial-*")
    return [Leftover(str(path), _size_bytes(path)) for path in leftovers]


def _writable(path: Path) -> bool:
    """Say whether a folder can be written to, or made."""
    while not os.access(path, os.F_OK) and path != path.parent:
        path = path.parent
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)


def _size_bytes(folder: Path) -> int:
    """The size of all files below a folder, as far as they can be seen."""
    size_bytes = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # removed meanwhile
                size_bytes += Path(parent, name).lstat().st_size
    return size_bytes


def _bundle(directory: Path, room_bytes: int) -> tuple[BundleState, int]:
    """What a bundle is like, and how many bytes were read to say so."""
    name, path = directory.name, str(directory)
    try:
        bundle = Bundle(directory)
    except BundleError as fault:
        return BundleState(name, path, str(fault)), 0
    read_bytes, unread_bytes, error = _check(bundle, room_bytes)
    precision, reason = automatic_precision(bundle, on_cpu=True)
    graphs = {each: _graph(bundle, each) for each in bundle.manifest.precisions}
    return BundleState(name, path, error, unread_bytes, graphs, precision, reason), read_bytes


def _check(bundle: Bundle, room_bytes: int) -> tuple[int, int, str | None]:
    """Check sizes and digests, those as there is room; return bytes read, bytes left unread and the fault."""
    entries = bundle.manifest.files
    known = DigestCache(bundle.directory)
    doubtful = [name for name, entry in entries.items() if known.digest(name) != entry.sha256]
    read_bytes = unread_bytes = 0
    try:
        for name in sorted(doubtful, key=lambda name: entries[name].size_bytes):
            size_bytes = entries[name].size_bytes
            if _has_size(bundle.directory / name, size_bytes) and read_bytes + size_bytes > room_bytes:
                unread_bytes += size_bytes
                continue
            bundle.check([name])
            read_bytes += size_bytes
    except BundleError as fault:
        return read_bytes, unread_bytes, str(fault)
    return read_bytes, unread_bytes, None


def _has_size(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except OSError:
        return False


def _graph(bundle: Bundle, precision: Precision) -> BundledGraph:
    variant = bundle.variant(precision)
    graph = variant.graph_for(on_cpu=True)
    names = {graph, *variant.files}
    size_bytes = sum(bundle.manifest.files[name].size_bytes for name in names)
    certificate = variant.certified
    try:
        from paritas.engine.runtime.optimized import has_optimized
        from paritas.engine.settings import choose_settings
        from paritas.engine.tuned import find_tuned, read_tuned
    except _NOT_LOADED:  # said once, of onnxruntime
        return BundledGraph(size_bytes, certificate.instructions, certificate.date)
    tuned, before = find_tuned(bundle, precision), read_tuned(bundle, precision)
    damage = None
    try:
        prepared = has_optimized(bundle, graph, variant.files)
    except BundleError as fault:
        prepared, damage = False, str(fault)
    return BundledGraph(
        size_bytes,
        certificate.instructions,
        certificate.date,
        prepared=prepared,
        damage=damage,
        settings=choose_settings(None, None, None, on_cpu=True, tuned=tuned.settings if tuned else None),
        gain=tuned.gain if tuned else None,
        tuned_cpus=before.cpus if before else None,
    )


def _runtime_problems(runtime: Runtime) -> list[Problem]:
    problems = []
    if runtime.error is not None:
        what, _, mend = runtime.error.partition("; type: ")
        problems.append(Problem("error", what, mend))
    if runtime.telemetry not in (None, "1"):
        what = f"{_TELEMETRY} is {runtime.telemetry!r}: onnxruntime may report what runs here to its maker"
        problems.append(Problem("warning", what, f"unset {_TELEMETRY}"))
    return problems


def _package_problems(versions: dict[str, str]) -> list[Problem]:
    problems = []
    usearch = versions.get("usearch", "0")
    if _release(usearch) >= (2, 26, 2):
        what = f"usearch {usearch} crashes the interpreter when it is imported before onnxruntime"
        problems.append(Problem("warning", what, "pip install 'usearch<2.26.2'"))
    optimum, transformers = versions.get("optimum-onnx"), versions.get("transformers", "0")
    if optimum and _release(optimum) < (0, 2) and _release(transformers) >= (4, 58):
        what = f"optimum-onnx {optimum} needs transformers below 4.58, not {transformers}"
        problems.append(Problem("warning", what, "pip install 'transformers<4.58'"))
    return problems


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])


def _store_problems(store: Store) -> list[Problem]:
    elsewhere = "export PARITAS_HOME=DIR, a folder that can be written to"
    if not store.path:
        what = (store.error or "").partition("; ")[0]
        return [Problem("warning", f"{what}; only bundles given by path load, and slower", elsewhere)]
    if store.error is not None:
        return [Problem("error", f"bundles cannot be listed: {store.error}", elsewhere)]
    if not store.writable:
        what = f"{store.path} cannot be written to: bundles load slower, and nothing can be exported or tuned"
        return [Problem("warning", what, elsewhere)]
    return [
        Problem("warning", f"{each.path}: {each.size_bytes / 1e6:.1f} MB, left by a killed process", removal)
        for each in store.leftovers
        for removal in [f"rm -r {shlex.quote(each.path)}"]
    ]


def _bundle_problems(bundle: BundleState, cpu: Cpu) -> list[Problem]:
    if bundle.error is not None:
        precisions = f" --precision {','.join(bundle.graphs)}" if bundle.graphs else ""
        return [Problem("error", bundle.error, f"paritas export {bundle.model}{precisions}")]
    problems = []
    for precision, graph in bundle.graphs.items():
        if graph.damage is not None:
            what, _, mend = graph.damage.rpartition("; or type: ")
            problems.append(Problem("warning", what, mend))
        certified = dot_product(graph.certified)
        if precision == "int8" and certified != cpu.dot_product:
            with_what, here = certified or "no byte dot product", cpu.dot_product or "none"
            what = f"{bundle.model}: INT8 was certified with {with_what}, this CPU has {here}"
            problems.append(Problem("warning", what, f"paritas verify {bundle.model}"))
        if graph.tuned_cpus not in (None, cpu.available):
            what = f"{bundle.model}: {precision} was tuned with {graph.tuned_cpus} CPUs, now {cpu.available}"
            problems.append(Problem("warning", what, f"paritas tune {bundle.model} --precision {precision}"))
    return problems
