"""A bundle: the directory that is all the engine needs, its files held against the manifest's digests."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from paritas import files
from paritas.arguments import not_utf8
from paritas.engine.bundle.digest_cache import look
from paritas.engine.bundle.digests import Whole, Words
from paritas.engine.bundle.manifest import FORMAT, MODULES, SINCE_4, TOKENIZER, Manifest, Variant
from paritas.errors import BundleError
from paritas.registry import Precision, check_pooling

MANIFEST = "manifest.json"
PROBES = "probes.json"
REFERENCE = "reference.npy"
# The manifest's own digest; bundles had none before 0.1.0, and who edits a manifest by hand removes it.
_SEAL = "manifest_sha256"

# FP16 and FP32 vectors may be searched together: they differ by a millionth of cosine, and by less than a
# thousandth where rounding tips a token (docs/certificates.md).
# INT8 vectors are a thousandth of cosine away: near enough to rank alike, too far to mix unnoticed.
FAMILIES: dict[Precision, str] = {"fp32": "float", "fp16": "float", "int8": "int8"}

_WORDS = Words(
    what="bundle",
    again="export it again",
    since="the export",
    mend="restore the file or export the model again",
)

_T = TypeVar("_T")


class Bundle:
    """A bundle directory, its manifest read and checked."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Read the manifest. No other file is opened yet; `verify` does that.

        Raises:
            BundleError: no bundle there, a manifest that does not parse, or a name that leads out of it.
        """
        self.directory = Path(directory)
        if fault := not_utf8(self.directory):
            raise BundleError(fault)
        path = self.directory / MANIFEST
        try:
            self._manifest_look = look(path)
            data = files.read(path)
        except OSError as error:
            raise BundleError(f"{self.directory}: not a bundle: cannot read {MANIFEST}: {error}") from error
        document = _check_format(path, data)
        try:
            self.manifest = msgspec.json.decode(data, type=Manifest)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{path}: {error}; export the model again") from error
        if fault := check_pooling(self.manifest.contract.pooling):
            raise BundleError(f"{path}: {fault}; export the model again")
        for name in self._names():
            if name in ("", ".", "..") or name != Path(name).name or "\\" in name or "\0" in name:
                raise BundleError(f"{path}: {name!r} leads out of the bundle; expected a plain file name")
        undigested = sorted(set(self._names()) - set(self.manifest.files))
        if undigested:
            raise BundleError(f"{path}: no digest of {', '.join(undigested)}; export the model again")
        if _SEAL in document and document[_SEAL] != _seal(document):
            raise BundleError(f"{path}: changed since the export; restore the file or export the model again")
        self._whole = Whole(self.directory, self.manifest.files, _WORDS)

    def _names(self) -> list[str]:
        names = [*self.manifest.files, TOKENIZER, PROBES, REFERENCE]
        names += [MODULES] if self.manifest.contract.weighted else []
        for variant in self.manifest.precisions.values():
            names += variant.names()
        return names

    @cached_property
    def fingerprint(self) -> str:
        """A digest of what determines the vectors: weights, tokenizer and contract.

        Bundles of one model agree in it whatever their precision, front-end or age.
        """
        weights = {
            name: digest
            for name, digest in self.manifest.source.digests.items()
            if name.endswith((".safetensors", ".bin"))
        }
        parts = {
            "weights": weights,
            "tokenizer": self.manifest.files[TOKENIZER].sha256,
            "contract": self.manifest.contract.facts(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def variant(self, precision: str) -> Variant:
        """Return what the manifest says of one precision.

        Raises:
            BundleError: the bundle has no such precision.
        """
        found = {str(name): variant for name, variant in self.manifest.precisions.items()}
        if precision not in found:
            raise BundleError(
                f"{self.directory}: no precision {precision!r}, it has {', '.join(found)}; type: "
                f"{self._command([*found, precision])}"
            )
        return found[precision]

    def needed(self, variant: Variant, graph: str) -> list[str]:
        """Return the names of the files that an encoder of one of a precision's graphs reads."""
        modules = [MODULES] if self.manifest.contract.weighted else []
        return [TOKENIZER, graph, *variant.files, *modules]

    def digests(self, names: Iterable[str]) -> dict[Path, str]:
        """Return the sha256 of files, by path, as the manifest has them."""
        return {self.directory / name: self.manifest.files[name].sha256 for name in names}

    def _command(self, precisions: list[str]) -> str:
        """Return what makes this bundle again, with other precisions."""
        manifest, source = self.manifest, self.manifest.source
        at = f"DIR (its {source.location})"
        model, options = manifest.model, ""
        if source.named_by == "directory":
            model = at
        elif source.named_by == "registry" or source.kind == "directory":
            options = f" --source {source.kind if source.kind in ('hub', 'package') else at}"
        if manifest.origins.get("pooling") == "--pooling":
            options += f" --pooling {manifest.contract.pooling}"
        asked = f"--precision {','.join(precisions)}{options} --frontend {manifest.frontend}"
        return f"paritas export {model} {asked} --out {self.directory}"

    @property
    def verified(self) -> set[str]:
        """Names of the files found whole since this object was made."""
        return self._whole.names

    def trust(self) -> None:
        """Take all files for whole as they are now, for whoever wrote them this moment."""
        self._whole.trust(self.manifest.files)

    def verify(self, names: list[str] | None = None) -> None:
        """Check files against their digests.

        Args:
            names: which; all of them where None.

        Raises:
            BundleError: a file is missing or changed; the message names it.
        """
        with self._replaced_told():
            self._whole.verify(names if names is not None else list(self.manifest.files))

    def check(self, names: list[str], *, remember: bool = True) -> None:
        """Check files as `verify` does, but none that is still as this object found it whole.

        Args:
            names: which.
            remember: read none either that is as it was when any process found it whole; see `Checked`.

        Raises:
            BundleError: a file is missing or changed; the message names it.
        """
        with self._replaced_told():
            self._whole.check(names, remember=remember)

    def read(self, names: Iterable[str], load: Callable[[], _T], *, remember: bool = True) -> _T:
        """Return what `load` makes of files that are whole, and the same before and after it; see `Whole`.

        Args:
            names: the files it reads.
            load: reads them; may be called again, where they changed meanwhile.
            remember: as for `check`.

        Raises:
            BundleError: as `check`, or another bundle came into the directory.
        """
        with self._replaced_told():
            return self._whole.read(names, load, remember=remember)

    @contextmanager
    def _replaced_told(self) -> Iterator[None]:
        """Where another manifest lies there by now, no file is damaged: say so."""
        try:
            yield
        except BundleError as error:
            with suppress(OSError):
                if look(self.directory / MANIFEST) != self._manifest_look:
                    raise BundleError(
                        f"{error}; or only load it again: another bundle took its place meanwhile"
                    ) from error
            raise


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return what manifest.json holds: the manifest, and at its end a digest of all that is before it."""
    document: dict[str, Any] = json.loads(msgspec.json.encode(manifest))
    sealed = {**document, _SEAL: _seal(document)}
    return msgspec.json.format(msgspec.json.encode(sealed), indent=1) + b"\n"


def _seal(document: dict[str, Any]) -> str:
    content = {key: value for key, value in document.items() if key != _SEAL}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_format(path: Path, data: bytes) -> Any:
    """Tell a bundle of a newer paritas from a damaged one, and one of format 4 from one that lost a field."""
    try:
        document: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not JSON: {error}; export the model again") from error
    found = document.get("format") if isinstance(document, dict) else None
    if isinstance(found, int) and found > FORMAT:
        tools = document.get("tools")
        version = tools.get("paritas") if isinstance(tools, dict) else None
        newer = f"'paritas>={version}'" if isinstance(version, str) else "--upgrade paritas"
        raise BundleError(
            f"{path}: bundle format {found}, this paritas reads up to {FORMAT}; type: pip install {newer}"
        )
    contract = document.get("contract") if isinstance(document, dict) else None
    if found == FORMAT and isinstance(contract, dict):
        missing = [field for field in SINCE_4 if field not in contract]
        if missing:
            raise BundleError(f"{path}: contract: {missing[0]} is missing; export the model again")
    return document


def file_names(directory: Path) -> set[str]:
    """Return the files of a bundle of any format, its manifest among them.

    Raises:
        BundleError: no bundle there.
    """
    path = directory / MANIFEST
    try:
        named = json.loads(files.read(path))["files"]
        return {MANIFEST, *map(str, named)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{directory}: not a bundle: {MANIFEST}: {error!r}") from error
