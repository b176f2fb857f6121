"""The store: its bundles, what encoders would make of them here, and what killed processes left."""

from __future__ import annotations

import contextlib
import os
import shlex
from pathlib import Path

from msgspec import Struct

from paritas import files, store, workplace
from paritas.doctor.machine import NOT_LOADED, Cpu
from paritas.doctor.problem import Problem
from paritas.engine.bundle.directory import Bundle
from paritas.engine.runtime.kernels import kernels_for
from paritas.engine.runtime.precision import automatic_precision, certified_elsewhere
from paritas.engine.settings import Settings, choose_settings
from paritas.errors import BundleError, InputError, StoreError
from paritas.registry import Precision

# What was never digested before is read up to here: 2 to 4 s where a CPU has no instructions for SHA-256.
_READ_AT_MOST_BYTES = 10**9


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
    kernels: str | None = None
    """Whose kernels run it here; None where PARITAS_KERNELS is wrong."""
    elsewhere: str = ""
    """What INT8 was certified with, where that is not what runs here."""
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


def examine_store() -> tuple[Store, list[BundleState]]:
    """Return what the store is like, and each of its bundles."""
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
    precision, reason = None, None
    with contextlib.suppress(InputError):  # PARITAS_KERNELS; said once, of the machine
        precision, reason = automatic_precision(bundle, on_cpu=True)
    graphs = {each: _graph(bundle, each) for each in bundle.manifest.precisions}
    return BundleState(name, path, error, unread_bytes, graphs, precision, reason), read_bytes


def _check(bundle: Bundle, room_bytes: int) -> tuple[int, int, str | None]:
    """Check sizes and digests, those as there is room; return bytes read, bytes left unread and the fault."""
    entries = bundle.manifest.files
    read_bytes = unread_bytes = 0
    try:
        for name in bundle.doubtful():
            size_bytes = entries[name].size_bytes
            if read_bytes + size_bytes > room_bytes and bundle.has_size(name):
                unread_bytes += size_bytes
                continue
            bundle.check([name])
            read_bytes += size_bytes
    except BundleError as fault:
        return read_bytes, unread_bytes, str(fault)
    return read_bytes, unread_bytes, None


def _graph(bundle: Bundle, precision: Precision) -> BundledGraph:
    variant = bundle.variant(precision)
    graph = variant.graph_for(on_cpu=True)
    names = {graph, *variant.files}
    size_bytes = sum(bundle.manifest.files[name].size_bytes for name in names)
    certificate = variant.certified
    try:
        from paritas.engine.runtime.optimized import has_optimized
        from paritas.engine.tuned import find_tuned, read_tuned

        kernels = kernels_for(variant)
    except (*NOT_LOADED, InputError):  # said once, of onnxruntime, or of PARITAS_KERNELS
        return BundledGraph(size_bytes, certificate.instructions, certificate.date)
    tuned, before = find_tuned(bundle, precision), read_tuned(bundle, precision)
    damage = None
    try:
        prepared = has_optimized(bundle, graph, variant.files, kernels)
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
        kernels=kernels.name,
        elsewhere=certified_elsewhere(variant) if precision == "int8" else "",
    )


def store_problems(store: Store) -> list[Problem]:
    """Return what is wrong with the store, its bundles aside."""
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


def bundle_problems(bundle: BundleState, cpu: Cpu) -> list[Problem]:
    """Return what is wrong with one bundle, on these CPUs."""
    if bundle.error is not None:
        precisions = f" --precision {','.join(bundle.graphs)}" if bundle.graphs else ""
        return [Problem("error", bundle.error, f"paritas export {bundle.model}{precisions}")]
    problems = []
    for precision, graph in bundle.graphs.items():
        if graph.damage is not None:
            what, _, mend = graph.damage.rpartition("; or type: ")
            problems.append(Problem("warning", what, mend))
        if graph.elsewhere:
            what = f"{bundle.model}: {graph.elsewhere}"
            problems.append(Problem("warning", what, f"paritas verify {bundle.model}"))
        if graph.tuned_cpus not in (None, cpu.available):
            what = f"{bundle.model}: {precision} was tuned with {graph.tuned_cpus} CPUs, now {cpu.available}"
            problems.append(Problem("warning", what, f"paritas tune {bundle.model} --precision {precision}"))
    return problems
