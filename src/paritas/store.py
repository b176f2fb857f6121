"""Where exported bundles live, so that a registry id is enough to load one.

$PARITAS_HOME, or the user's data folder
├── bundles/<model id>/     what `paritas export` writes unless told otherwise
├── cache/                  what can be made again, see engine/prepared.py, checked.py, settings.py
└── pins.json               digests recorded by first exports, see export/checkpoint/pins.py
"""

from __future__ import annotations

import os
from pathlib import Path

from paritas.errors import BundleError, RegistryError, did_you_mean
from paritas.registry import load_registry

ENVIRONMENT_VARIABLE = "PARITAS_HOME"


def home() -> Path:
    """Return the folder that holds bundles and pins; it may not exist yet."""
    chosen = os.environ.get(ENVIRONMENT_VARIABLE)
    if chosen:
        return Path(chosen)
    import platformdirs

    return platformdirs.user_data_path("paritas", appauthor=False)


def cache() -> Path:
    """Return the folder of what can be made again; it may not exist yet."""
    return home() / "cache"


def bundle_path(model: str) -> Path:
    """Return where the bundle of a registry id belongs, whether or not it is there."""
    return home() / "bundles" / model


def find(model: str | os.PathLike[str]) -> Path:
    """Return the bundle directory of MODEL: a registry id, or such a directory itself.

    A name that is both is the registry id; write ./name for the directory.

    Raises:
        RegistryError: neither a known id nor a path.
        BundleError: a known id that was not exported yet, or a directory that is not there.
    """
    name = os.fspath(model)
    looks_like_path = os.sep in name or (os.altsep or os.sep) in name or name in (".", "..")
    if not looks_like_path:
        if (bundle_path(name) / "manifest.json").exists():
            return bundle_path(name)
        if name in load_registry():
            raise BundleError(f"{name} was not exported yet; type: paritas export {name}")
    if Path(name).is_dir():
        return Path(name)
    if looks_like_path:
        raise BundleError(f"{name}: no such bundle directory")
    raise RegistryError(f"unknown model {name!r}{did_you_mean(name, load_registry())}")
