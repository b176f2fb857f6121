"""Registry entries, and checkpoints as users may have them: in shards, in installed packages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from paritas.errors import SourceError
from paritas.export.checkpoint.sources import Checkpoint, open_checkpoint
from paritas.registry import (
    HubSource,
    Model,
    PackageSource,
    Role,
    Sources,
)

NAME = "tiny"
FILES = ("config.json", "tokenizer.json", "model.safetensors")


def model_of(
    *,
    hub: HubSource | None = None,
    package: PackageSource | None = None,
    digests: dict[str, str] | None = None,
) -> Model:
    return Model(
        network="bert",
        dim=16,
        pooling="mean",
        roles={"query": Role(max_length=40)},
        sources=Sources(hub=hub, package=package),
        digests=digests or {},
    )


def opened(model: Model, source: str | None, name: str = NAME) -> Checkpoint:
    with open_checkpoint(name, model, source) as checkpoint:
        return checkpoint


def refusal(model: Model, source: str | None) -> str:
    with pytest.raises(SourceError) as caught:
        opened(model, source)
    return str(caught.value)


def shard(directory: Path) -> None:
    """Split model.safetensors into two shards and an index."""
    weights = load_file(directory / "model.safetensors")
    names = sorted(weights)
    halves = [names[::2], names[1::2]]
    weight_map = {}
    for number, half in enumerate(halves, 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in half}, directory / file)
        weight_map.update(dict.fromkeys(half, file))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (directory / "model.safetensors").unlink()


def install(site: Path, name: str, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay out a distribution as pip leaves it, and make it importable."""
    information = f"{name.replace('-', '_')}-1.0.dist-info"
    written = {
        **files,
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
    }
    for file, content in written.items():
        path = site / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    record = [*written, f"{information}/RECORD"]
    (site / information / "RECORD").write_text("".join(f"{file},,\n" for file in record))
    monkeypatch.syspath_prepend(str(site))
