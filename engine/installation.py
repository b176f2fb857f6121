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


def check_installation() -> None:
    """Refuse an environment with no onnxruntime, or with several that overwrite each other.

    Raises:
        MissingExtraError: says which were found and what to type.
    """
    found = installed_runtimes()
    if not found:
        raise MissingExtraError(
            "onnxruntime is not installed; type: pip install 'paritas[cpu]' "
            "(or 'paritas[gpu]' on a machine with an NVIDIA card)"
        )
    if len(found) > 1:
        raise MissingExtraError(
            f"{' and '.join(found)} are both installed and overwrite each other's files; keep one; "
            f"type: pip uninstall -y {' '.join(found)} && pip install 'paritas[cpu]' (or 'paritas[gpu]')"
        )


def installed_runtimes() -> list[str]:
    """Return the onnxruntime distributions that are installed; any two of them share one folder."""
    # By the records they leave beside that folder. importlib.metadata reads the same ones, but its import
    # takes 40 ms, a tenth of the time from a process's start to its first vector.
    found = {
        record.name.partition("-")[0].replace("_", "-")
        for directory in sys.path
        for record in Path(directory).glob("onnxruntime*.dist-info")
    }
    return [name for name in _DISTRIBUTIONS if name in found]
