"""A bundle: the directory that is all the engine needs, its files held against the manifest's digests."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from paritas.arguments import not_utf8
from paritas.engine.checked import Checked
from paritas.engine.manifest import FORMAT, MODULES, SINCE_4, TOKENIZER, Manifest, Variant
from paritas.errors import BundleError
from paritas.registry import Precision, check_pooling

MANIFEST = "manifest.json"
PROBES = "probes.json"
REFERENCE = "reference.npy"

# FP16 and FP32 vectors may be searched together: they differ by a millionth of cosine, and by less than a
# thousandth where rounding tips a token (docs/certificates.md).
# INT8 vectors are a thousandth of cosine away: near enough to rank alike, too far to mix unnoticed.
FAMILIES: dict[Precision, str] = {"fp32": "float", "fp16": "float", "int8": "int8"}


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
        self.verified: set[str] = set()
        """Names of the files found whole since this object was made."""
        path = self.directory / MANIFEST
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{self.directory}: not a bundle: cannot read {MANIFEST}: {error}") from error
        _check_format(path, data)
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

    def verify(self, names: list[str] | None = None) -> None:
        """Check files against their digests.

        Args:
            names: which; all of them where None.

        Raises:
            BundleError: a file is missing or changed; the message names it.
        """
        for name in names if names is not None else list(self.manifest.files):
            expected = self.manifest.files[name]
            path = self.directory / name
            try:
                size = path.stat().st_size
                actual = digest(path) if size == expected.size_bytes else None
            except OSError as error:
                raise BundleError(f"{path}: missing from the bundle: {error}; export it again") from error
            if actual != expected.sha256:
                what = (
                    f"{size} bytes, expected {expected.size_bytes}" if actual is None else f"sha256 {actual}"
                )
                raise BundleError(
                    f"{path}: changed since the export ({what}); restore the file or export the model again"
                )
            self.verified.add(name)

    def check(self, names: list[str], *, remember: bool = True) -> None:
        """Check files as `verify` does, but none that this object found whole before.

        Args:
            names: which.
            remember: read none either that is as it was when any process found it whole; see `Checked`.

        Raises:
            BundleError: a file is missing or changed; the message names it.
        """
        if not remember:
            self.verify([name for name in names if name not in self.verified])
            return
        checked = Checked(self.directory)
        expected = {name: self.manifest.files[name].sha256 for name in names if name not in self.verified}
        doubtful = {name: sha256 for name, sha256 in expected.items() if checked.digest(name) != sha256}
        self.verify(list(doubtful))
        checked.keep(doubtful)
        self.verified.update(names)


def _check_format(path: Path, data: bytes) -> None:
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


def file_names(directory: Path) -> set[str]:
    """Return the files of a bundle of any format, its manifest among them.

    Raises:
        BundleError: no bundle there.
    """
    path = directory / MANIFEST
    try:
        files = json.loads(path.read_bytes())["files"]
        return {MANIFEST, *map(str, files)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{directory}: not a bundle: {MANIFEST}: {error!r}") from error


def digest(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
