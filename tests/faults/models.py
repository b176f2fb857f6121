"""Two models that look alike: the same files, sizes and dimensions, other weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paritas import Encoder
from paritas.export import export_model
from paritas.registry import Registry
from tests.unit.tiny import write_tiny_bert

# Of many lengths, so that they are many batches and the second session is loaded.
TEXTS = [
    " ".join(["night train to the north", *["a river"] * (place % 5), str(place)]) for place in range(40)
]
BULK = {"threads": 2, "workers": 2, "max_batch_tokens": 16}


def write_pair(folder: Path, registry: Registry) -> tuple[Path, Path]:
    """Export two tiny models that differ in their weights alone; return their bundles' directories."""
    made = []
    for seed, name in ((0, "one"), (1, "other")):
        checkpoint = write_tiny_bert(folder / f"{name}.checkpoint", seed=seed)
        export_model("tiny-bert", source=str(checkpoint), out=folder / name, registry=registry)
        made.append(folder / name)
    return made[0], made[1]


def vectors(bundle: Path, **options: object) -> NDArray[np.float32]:
    """Return the vectors of all texts by a new encoder."""
    with Encoder(bundle, **BULK, **options) as encoder:  # type: ignore[arg-type]
        return encoder.encode(TEXTS, role="query")


def copied(bundle: Path, target: Path) -> Path:
    return Path(shutil.copytree(bundle, target))
