"""A bundle's directory: all the engine needs, each file held against the manifest's digests."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from paritas import files
from paritas.arguments import not_utf8
from paritas.engine.bundle.digest_cache import FileState, file_state
from paritas.engine.bundle.digests import Messages, VerifiedFiles
from paritas.engine.bundle.manifest import MODULES, TOKENIZER, Manifest, Variant, read_manifest
from paritas.errors import BundleError
from paritas.registry import Precision

MANIFEST = "manifest.json"

# FP16 and FP32 vectors may be searched together: they differ by a millionth of cosine, and by less than a
# thousandth where rounding tips a token (docs/certificates.md).
# INT8 vectors are a thousandth of cosine away: near enough to rank alike, too far to mix unnoticed.
FAMILIES: dict[Precision, str] = {"fp32": "float", "fp16": "float", "int8": "int8"}

_MESSAGES = Messages(
    kind="bundle",
    if_missing="export it again",
    since="the export",
    if_changed="restore the file or export the model again",
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
            state = file_state(path)
            content = files.read(path)
        except OSError as error:
            raise BundleError(f"{self.directory}: not a bundle: cannot read {MANIFEST}: {error}") from error
        self._describe(read_manifest(path, content), state)

    @classmethod
    def draft(cls, directory: Path, manifest: Manifest) -> Bundle:
        """Return a bundle that is being exported, so that it can be run before its manifest is written.

        Args:
            directory: where its files lie.
            manifest: what they are; they are taken for verified as they are now.
        """
        draft = cls.__new__(cls)
        draft.directory = directory
        draft._describe(manifest, None)
        draft._files.trust(manifest.files)
        return draft

    def _describe(self, manifest: Manifest, manifest_state: FileState | None) -> None:
        self.manifest, self._manifest_state = manifest, manifest_state
        self._files = VerifiedFiles(self.directory, manifest.files, _MESSAGES)

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
        variants = {str(name): variant for name, variant in self.manifest.precisions.items()}
        if precision not in variants:
            raise BundleError(
                f"{self.directory}: no precision {precision!r}, it has {', '.join(variants)}; type: "
                f"{self._command([*variants, precision])}"
            )
        return variants[precision]

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
        """Names of the files verified since this object was made."""
        return self._files.names

    def verify(self, names: list[str] | None = None) -> None:
        """Check files against their digests.

        Args:
            names: which; all of them where None.

        Raises:
            BundleError: a file is missing or changed; the message names it.
        """
        with self._replaced_told():
            self._files.verify(names if names is not None else list(self.manifest.files))

    def doubtful(self) -> list[str]:
        """Return the files that `check` would have to read, the smallest first."""
        return self._files.doubtful(self.manifest.files)

    def has_size(self, name: str) -> bool:
        """Say whether a file is there and as long as the manifest says, without reading it."""
        return self._files.has_size(name)

    def check(self, names: list[str], *, use_cache: bool = True) -> None:
        """Check files as `verify` does, but none that is still as this object verified it.

        Args:
            names: which.
            use_cache: read none either that any process verified and that has not changed; see `DigestCache`.

        Raises:
            BundleError: a file is missing or changed; the message names it.
        """
        with self._replaced_told():
            self._files.check(names, use_cache=use_cache)

    def read(self, names: Iterable[str], load: Callable[[], _T], *, use_cache: bool = True) -> _T:
        """Return what `load` makes of files that are verified before it, and the same ones after it.

        Args:
            names: the files it reads.
            load: reads them; may be called again, where they changed meanwhile.
            use_cache: as for `check`.

        Raises:
            BundleError: as `check`, or another bundle came into the directory.
        """
        with self._replaced_told():
            return self._files.read(names, load, use_cache=use_cache)

    @contextmanager
    def _replaced_told(self) -> Iterator[None]:
        """Where another manifest lies there by now, no file is damaged: say so."""
        try:
            yield
        except BundleError as error:
            with suppress(OSError):
                if file_state(self.directory / MANIFEST) != self._manifest_state:
                    raise BundleError(
                        f"{error}; or only load it again: another bundle took its place meanwhile"
                    ) from error
            raise


def file_names(directory: Path) -> set[str]:
    """Return the files of a bundle of any format, its manifest among them.

    Raises:
        BundleError: no bundle there.
    """
    path = directory / MANIFEST
    try:
        names = json.loads(files.read(path))["files"]
        return {MANIFEST, *map(str, names)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{directory}: not a bundle: {MANIFEST}: {error!r}") from error
