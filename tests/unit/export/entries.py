"""Registry entries for the tiny checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paritas.registry import (
    Precision,
    Registry,
    load_registry,
)

BOTH: tuple[Precision, ...] = ("fp32", "fp16")


ENTRY = """
models:
  {name}:
    network: {network}
    dim: {dim}
    pooling: {pooling}
    normalize: {normalize}
    roles:
      query: {{max_length: {max_length}}}
    bounds: {bounds}
    overrides: {overrides}
"""


def entry(directory: Path, name: str = "mine", **facts: Any) -> Registry:
    """A registry with one more model."""
    values = {
        "network": "bert",
        "dim": 16,
        "pooling": "cls",
        "normalize": "true",
        "max_length": 12,
        "bounds": "{}",
        "overrides": "[]",
        **facts,
    }
    path = directory / "entry.yaml"
    path.write_text(ENTRY.format(name=name, **values), encoding="utf-8")
    return load_registry(path)
