"""paritas turns dense text encoders into fast, certified ONNX bundles and runs them.

    >>> from paritas import Encoder, VectorIndex
    >>> encoder = Encoder("all-MiniLM-L6-v2")
    >>> encoder.encode(["what is qa"], role="query").shape
    (1, 384)

Importing this package loads nothing heavy: each public name is fetched when first asked for.

`__all__` lists the public names. Formats on disk and the documents of `--json` are public too. Every other
module and name is private, and may change in any release.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from paritas import errors
from paritas.errors import ParitasError

if TYPE_CHECKING:
    from paritas.engine.bundle.directory import Bundle
    from paritas.engine.encoder import Encoder
    from paritas.engine.index import Hit, VectorIndex
    from paritas.engine.schedule.call import Encoded
    from paritas.engine.schedule.job import Job
    from paritas.engine.schedule.stats import EncodeStats
    from paritas.export import export_model
    from paritas.registry import load_registry
    from paritas.serving.async_encoder import AsyncEncoder

__version__ = "0.1.0"

__all__ = [
    "AsyncEncoder",
    "Bundle",
    "EncodeStats",
    "Encoded",
    "Encoder",
    "Hit",
    "Job",
    "ParitasError",
    "VectorIndex",
    "__version__",
    "errors",
    "export_model",
    "load_registry",
]

_HOMES = {
    "AsyncEncoder": "paritas.serving.async_encoder",
    "Bundle": "paritas.engine.bundle.directory",
    "EncodeStats": "paritas.engine.schedule.stats",
    "Encoded": "paritas.engine.schedule.call",
    "Encoder": "paritas.engine.encoder",
    "Hit": "paritas.engine.index",
    "Job": "paritas.engine.schedule.job",
    "VectorIndex": "paritas.engine.index",
    "export_model": "paritas.export",
    "load_registry": "paritas.registry",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'paritas' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
