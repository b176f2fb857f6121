"""Where exported bundles live, so that a model's name is enough to load one.

$PARITAS_HOME, or the user's data folder
├── bundles/<model>/        what `paritas export` writes unless told otherwise; see `bundle_path`
│   └── .<model>.partial-*  an export under way, or what a killed one left; see workplace.py
├── cache/                  what can be made again; optimized.py and digest_cache.py write it
├── tuned/                  what `paritas tune` found, see engine/tuned.py
└── pins.json               commits and digests of first exports, see export/checkpoint/lock.py
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from paritas.arguments import not_utf8
from paritas.errors import StoreError

ENVIRONMENT_VARIABLE = "PARITAS_HOME"

_NAME = r"[A-Za-z0-9][\w.-]*"
_HUB_ID = re.compile(rf"(?P<repo>{_NAME}/{_NAME})(@(?P<revision>[\w.][\w./-]*))?", re.ASCII)


def home() -> Path:
    """Return the folder that holds bundles and the checkpoint lock; it may not exist yet.

    Raises:
        StoreError: this user has no home directory, or its name is not UTF-8.
    """
    directory = _home()
    if fault := not_utf8(directory):
        raise StoreError(f"{fault}; the store is there; type: export {ENVIRONMENT_VARIABLE}=DIR")
    return directory


def _home() -> Path:
    chosen = os.environ.get(ENVIRONMENT_VARIABLE)
    if chosen:
        return Path(chosen)
    import platformdirs

    try:
        directory = platformdirs.user_data_path("paritas", appauthor=False)
    except (RuntimeError, KeyError) as error:  # no HOME, and no such user
        raise _homeless(str(error)) from error
    if not directory.is_absolute():
        raise _homeless(f"no absolute path is known, only {directory}")
    return directory


def _homeless(why: str) -> StoreError:
    return StoreError(
        f"this user has no home directory for a store: {why}; set {ENVIRONMENT_VARIABLE}; "
        f"type: export {ENVIRONMENT_VARIABLE}=DIR, a folder that can be written to"
    )


def cache() -> Path:
    """Return the folder of what can be made again; it may not exist yet. Errors as `home`."""
    return home() / "cache"


def tuned() -> Path:
    """Return the folder of what was tuned; it may not exist yet. Errors as `home`."""
    return home() / "tuned"


def hub_id(name: str) -> tuple[str, str | None] | None:
    """Return repository and revision of a name such as owner/name@revision, None for another name."""
    match = _HUB_ID.fullmatch(name)
    if match is None or "--" in name or ".." in name:
        return None
    return match["repo"], match["revision"]


def bundle_path(model: str | Path) -> Path:
    """Return where a model's bundle belongs, whether or not it is there.

    Args:
        model: a registry id, whose folder has that name; a hub id, whose folder is owner--name or
            owner--name@revision; or, as a Path, a checkpoint's directory, whose folder has its name and the
            beginning of a digest of its path.
    """
    if isinstance(model, Path):
        path = model.resolve()
        folder = f"{path.name}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
    else:
        folder = model.replace("/", "--")
    return home() / "bundles" / folder


def bundles() -> list[Path]:
    """Return the folders of the bundles that are there, by name."""
    try:
        return sorted(path for path in (home() / "bundles").iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
