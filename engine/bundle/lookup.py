"""From what a user calls a model to its bundle's directory."""

from __future__ import annotations

import os
from pathlib import Path

from paritas import store
from paritas.arguments import pathname
from paritas.engine.bundle.digest_cache import DigestCache
from paritas.engine.bundle.digests import digest
from paritas.engine.bundle.directory import MANIFEST, Bundle
from paritas.errors import BundleError, NotExportedError, RegistryError, StoreError, did_you_mean
from paritas.registry import load_registry

# A directory with either of these files is a checkpoint's.
_CHECKPOINT = ("config.json", "modules.json")


def find(model: str | os.PathLike[str]) -> Path:
    """Return the bundle directory of a model.

    A name that is a registry id and a directory as well is the id; write ./name for the directory.

    Args:
        model: a registry id; a hub id, owner/name or owner/name@revision; a directory, the bundle's own or
            that of a checkpoint that was exported.

    Raises:
        RegistryError: none of these.
        NotExportedError: no bundle of it yet.
        StoreError: it would be in the store, and there is none.
        BundleError: no such directory, or a checkpoint that was changed since.
        InputError: `model` is neither a name nor a path.
    """
    if model == "":
        raise RegistryError("the model's name is empty; expected a registry id, a hub id or a directory")
    name = pathname("model", model, "a registry id, a hub id or a directory")
    if os.sep not in name and name not in (".", ".."):
        if _is_exported(name):
            return store.bundle_path(name)
        if name in load_registry():
            store.home()  # or the error that there is none
            raise NotExportedError(f"{name} was not exported yet; type: paritas export {name}")
    path = Path(name)
    if os.path.isdir(path):  # noqa: PTH112 - no name is too long for it, where Path raises
        return path if (path / MANIFEST).exists() or not is_checkpoint(path) else _exported_from(path)
    if isinstance(model, str) and store.hub_id(name) is not None:
        store.home()
        if _is_exported(name):
            return store.bundle_path(name)
        raise NotExportedError(
            f"{name}: no such directory, and no hub id that was exported; type: paritas export {name}"
        )
    if os.sep in name or name in (".", ".."):
        raise BundleError(
            f"{name}: no such bundle directory; expected one with {MANIFEST}, or a checkpoint's"
        )
    raise RegistryError(
        f"unknown model {name!r}{did_you_mean(name, load_registry())}; a hub id is owner/name, "
        "a directory ./name"
    )


def is_checkpoint(path: Path) -> bool:
    """Say whether a directory looks like a checkpoint's."""
    return any((path / file).is_file() for file in _CHECKPOINT)


def _is_exported(name: str) -> bool:
    try:
        return os.path.exists(store.bundle_path(name) / MANIFEST)  # noqa: PTH110 - likewise
    except StoreError:  # a bundle given by its path needs none
        return False


def _exported_from(checkpoint: Path) -> Path:
    """Return the bundle that was made from a checkpoint's directory, if the files are still those."""
    bundle_path = store.bundle_path(checkpoint)
    if not (bundle_path / MANIFEST).exists():
        raise NotExportedError(f"{checkpoint} was not exported yet; type: paritas export {checkpoint}")
    source = Bundle(bundle_path).manifest.source
    added = next((file for file in source.absent if (checkpoint / file).exists()), None)
    if added is not None:
        raise BundleError(
            f"{checkpoint / added}: added since the bundle was made without it; type: paritas export "
            f"{checkpoint}, or name the bundle: {bundle_path}"
        )
    cache = DigestCache(checkpoint)
    fresh: dict[str, str] = {}
    for file, expected in source.digests.items():
        try:
            sha256 = cache.digest(file) or fresh.setdefault(file, digest(checkpoint / file))
        except OSError:
            sha256 = None
        if sha256 != expected:
            fault = "missing" if sha256 is None else "changed"
            raise BundleError(
                f"{checkpoint / file}: {fault} since the bundle was made from it; type: paritas export "
                f"{checkpoint}, or name the bundle: {bundle_path}"
            )
    if fresh:
        cache.keep(fresh)
    return bundle_path
