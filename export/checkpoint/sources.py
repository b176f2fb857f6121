"""Where a checkpoint comes from: a model hub, an installed Python package, or a directory.

Whatever the way, its files are checked: against the registry's digests, or those the first export recorded.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from paritas import store
from paritas.arguments import not_utf8, pathname
from paritas.engine.bundle.digests import digest
from paritas.engine.bundle.directory import Bundle
from paritas.engine.bundle.lookup import is_checkpoint
from paritas.errors import RegistryError, SourceError
from paritas.export.checkpoint import hub, lock, packages
from paritas.export.checkpoint.layout import collect
from paritas.registry import HubSource, Model, Registry, Sources

DIRECTORY: Literal["directory"] = "directory"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint directory and where it came from."""

    directory: Path
    kind: str
    """hub, package or directory"""
    location: str
    revision: str | None
    digests: dict[str, str]
    """sha256 of every file that was read, and what else the registry knows, by file name"""
    absent: list[str]
    """Files that were looked for and not there."""


@dataclass(frozen=True, slots=True)
class Named:
    """What a user's word for a model stands for."""

    name: str
    """What the manifest and the checkpoint lock call it."""
    model: Model
    """Its registry entry; for others an entry that leaves everything to the checkpoint."""
    source: str | None
    """As `open_checkpoint` takes it."""
    kind: Literal["registry", "hub", "directory"]
    bundle: Path
    """Where its bundle belongs in the store."""


def resolve(model: str | os.PathLike[str], registry: Registry, source: str | None = None) -> Named:
    """Return what MODEL stands for: a registry id, a checkpoint's directory, or a hub id.

    A hub id without a revision stands for the commit that its first export resolved to, later ones too;
    owner/name@main takes the newest.

    Args:
        model: registry id, owner/name, owner/name@revision, or a directory.
        registry: the models.
        source: the caller's own.

    Raises:
        RegistryError: none of these. SourceError: a directory that is no checkpoint's, or `source` beside a
        directory; an unreadable checkpoint lock. InputError: `model` is neither a name nor a path.
    """
    if model == "":
        raise RegistryError("the model's name is empty; expected a registry id, a hub id or a directory")
    name = pathname("name", model, "a registry id, a hub id or a checkpoint's directory")
    if name in registry:
        return Named(name, registry[name], source, "registry", store.bundle_path(name))
    path = Path(name)
    if path.is_dir():
        if source is not None:
            raise SourceError(f"--source {source}: {name} is a directory already; leave the option out")
        if not is_checkpoint(path):
            raise SourceError(
                f"{name}: no config.json and no modules.json; expected a checkpoint's directory"
            )
        return Named(path.resolve().name, Model(), name, DIRECTORY, store.bundle_path(path))
    hub_id = store.hub_id(name)
    if hub_id is None or isinstance(model, Path):
        if os.sep in name:
            raise SourceError(
                f"{name}: no such directory; expected one with config.json, or a hub id: owner/name"
            )
        registry[name]  # unknown: ends here, with the nearest name
        raise AssertionError(name)
    repo, revision = hub_id
    hub_source = HubSource(repo, revision or lock.locked_commit(repo) or "main")
    entry = Model(sources=Sources(hub=hub_source))
    return Named(name, entry, source or "hub", "hub", store.bundle_path(name))


@contextmanager
def open_checkpoint(name: str, model: Model, source: str | None = None) -> Iterator[Checkpoint]:
    """Fetch a model's checkpoint and check its digests; what had to be unpacked goes with the context.

    Args:
        name: what messages and the checkpoint lock call the model.
        model: its registry entry.
        source: "hub", "package" or a directory; where None the package if it is installed, else the hub.

    Raises:
        SourceError: it cannot be fetched, a file is missing, or a digest does not match.
        ExportError: modules.json asks for what is not exported.
        MissingExtraError: the hub's client is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="paritas-") as scratch:
        directory, kind, location, revision = _fetch(name, model, source, Path(scratch))
        if fault := not_utf8(directory):
            raise SourceError(fault)

        def get(file: str, *, required: bool = False) -> Path | None:
            if (directory / file).is_file():
                return directory / file
            if required:
                raise SourceError(f"{directory}: {file} missing from the checkpoint of {name}")
            return None

        names, absent = collect(directory, get, str(directory))
        # Whatever else the registry has a digest for is checked too, if it is there.
        names += [file for file in model.digests if file not in names and (directory / file).is_file()]
        try:
            digests = {file: digest(directory / file) for file in names}
        except OSError as error:
            raise SourceError(f"{directory}: a file of {name} cannot be read: {error}") from error
        lock.check_registry(name, model, digests, directory)
        if kind != DIRECTORY:  # which is the user's own, and may change
            lock.check(name, revision, digests, directory)
        yield Checkpoint(directory, kind, location, revision, digests, absent)


def pin(name: str, checkpoint: Checkpoint) -> None:
    """Hold later exports of a model to a checkpoint that was exported, unless it is a directory.

    A hub id without a revision stands for this commit from now on.

    Raises:
        SourceError: as `lock.record`.
    """
    if checkpoint.kind != DIRECTORY:
        lock.record(name, checkpoint.revision, checkpoint.digests, checkpoint.directory)
    if checkpoint.kind == "hub" and checkpoint.revision is not None and name == checkpoint.location:
        lock.record_commit(name, checkpoint.revision)


def _fetch(name: str, model: Model, source: str | None, scratch: Path) -> tuple[Path, str, str, str | None]:
    on_hub, package = model.sources.hub, model.sources.package
    if source is None:
        source = "package" if package is not None and packages.is_installed(package) else "hub"
    if source == "hub":
        if on_hub is None:
            raise SourceError(f"{name} has no hub source; {_offer(model)}")
        directory, commit = hub.fetch(on_hub)
        return directory, "hub", on_hub.repo, commit
    if source == "package":
        if package is None:
            raise SourceError(f"{name} has no package source; {_offer(model)}")
        directory = packages.fetch(package, scratch)
        version = metadata.version(package.distributions[0])
        return directory, "package", ", ".join(package.distributions), version
    directory = Path(source)
    if not directory.is_dir():
        raise SourceError(f"--source {source}: no such directory; expected hub, package or a directory")
    return directory, DIRECTORY, directory.name, None


def _offer(model: Model) -> str:
    offered = [kind for kind in ("hub", "package") if getattr(model.sources, kind) is not None]
    return f"type: --source {' or '.join([*offered, 'DIR'])}"


@contextmanager
def open_same_checkpoint(bundle: Bundle, registry: Registry, source: str) -> Iterator[Path]:
    """Yield the directory of the checkpoint that a bundle was made from, fetched anew.

    Args:
        bundle: whose; only a directory serves one whose model is in no registry here.
        registry: the models.
        source: "hub", "package" or a directory.

    Raises:
        SourceError: as `open_checkpoint`; or it is another checkpoint than the bundle's manifest records.
    """
    source_of = bundle.manifest.source
    if source == "hub" and source_of.kind == "hub" and source_of.revision is not None:
        # The very commit, whatever the registry or the lock say today.
        model = Model(sources=Sources(hub=HubSource(source_of.location, source_of.revision)))
    elif source in ("hub", "package"):
        model = registry[bundle.manifest.model]
    else:
        if not Path(source).is_dir():
            raise SourceError(
                f"--reference {source}: no such directory; expected hub, package or a directory"
            )
        _check_same(bundle, Path(source))
        yield Path(source)
        return
    with open_checkpoint(bundle.manifest.model, model, source) as checkpoint:
        _check_same(bundle, checkpoint.directory)
        yield checkpoint.directory


def _check_same(bundle: Bundle, directory: Path) -> None:
    for file in bundle.manifest.source.absent:
        if (directory / file).exists():
            raise SourceError(
                f"{directory / file}: the bundle was made from a checkpoint without it; "
                "give the checkpoint it was made from"
            )
    for file, expected in bundle.manifest.source.digests.items():
        if not (directory / file).is_file():
            raise SourceError(f"{directory / file}: missing; the bundle was made from a checkpoint with it")
        try:
            actual = digest(directory / file)
        except OSError as error:
            raise SourceError(f"{directory / file}: cannot be read: {error}") from error
        if actual != expected:
            raise SourceError(
                f"{directory / file}: sha256 {actual}, the bundle was made from {expected}; "
                "give the checkpoint it was made from"
            )
