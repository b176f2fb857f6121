"""Which onnxruntime is installed: exactly one may be.

All distributions of it unpack into one folder, where the last one installed silently wins.
"""

from __future__ import annotations

import sys
from pathlib import Path

from paritas.errors import MissingExtraError

_DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-migraphx",
)
# Training and nightly builds have names like these, and so do distributions that bring other packages.
_BEGINNINGS = ("onnxruntime", "ort")
_PACKAGE = "onnxruntime/__init__.py"


def check_installation() -> None:
    """Refuse an environment with no onnxruntime, or with several that overwrite each other.

    Raises:
        MissingExtraError: says which were found and what to type.
    """
    installed = installed_runtimes()
    if not installed:
        raise MissingExtraError(
            "onnxruntime is not installed; type: pip install 'paritas[cpu]' "
            "(or 'paritas[gpu]' on a machine with an NVIDIA card)"
        )
    if len(installed) > 1:
        raise MissingExtraError(
            f"{' and '.join(installed)} are both installed and overwrite each other's files; keep one; "
            f"type: pip uninstall -y {' '.join(installed)} && pip install 'paritas[cpu]' (or 'paritas[gpu]')"
        )


def installed_runtimes() -> list[str]:
    """Return the onnxruntime distributions that are installed; any two of them share one folder.

    The usual ones, training and nightly builds, and what was installed without a record: "onnxruntime" then.
    """
    # By the records they leave beside that folder. importlib.metadata reads the same ones, but its import
    # takes 40 ms, a tenth of the time from a process's start to its first vector.
    records = {
        record.name.partition("-")[0].replace("_", "-"): record
        for directory in map(Path, sys.path)
        for record in directory.glob("o*.dist-info")
        if record.name.startswith(_BEGINNINGS)
    }
    usual = [name for name in _DISTRIBUTIONS if name in records]
    unusual = sorted(name for name in records if name not in usual and _brings_onnxruntime(records[name]))
    return [*usual, *unusual] or _others()


def _brings_onnxruntime(record: Path) -> bool:
    try:
        return f"{_PACKAGE}," in (record / "RECORD").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _others() -> list[str]:
    """Return a distribution of another name that brings onnxruntime, or its package where nobody says."""
    from importlib.metadata import packages_distributions
    from importlib.util import find_spec

    names = sorted(filter(None, set(packages_distributions().get("onnxruntime", ()))))
    if names:
        return names
    spec = find_spec("onnxruntime")
    return ["onnxruntime"] if spec is not None and spec.origin is not None else []
