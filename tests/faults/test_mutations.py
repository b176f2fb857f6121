"""Every file of a bundle and of the cache, changed in many ways: never a crash, never a wrong vector."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from paritas import Encoder
from paritas.engine.bundle import digest_cache
from paritas.engine.bundle.directory import Bundle
from paritas.export import export_model
from paritas.registry import load_registry
from tests.conftest import TINY_REGISTRY
from tests.faults.conftest import WHOLE
from tests.faults.models import BULK, TEXTS, copied
from tests.unit.tiny import write_tiny_bert

ROOT = Path(__file__).parent.parent.parent
TIMES = 2_000 if WHOLE else 25
READ = {"manifest.json", "tokenizer.json", "model.fp32.equal_length.onnx", "model.fp32.onnx.data"}


@pytest.fixture
def place(bundles: dict[str, Bundle], tmp_path: Path) -> Path:
    return copied(bundles["tiny-bert"].directory, tmp_path / "bundle")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose optimized form has weights of its own beside the graph."""
    folder = tmp_path_factory.mktemp("wide")
    (folder / "registry.yaml").write_text(TINY_REGISTRY.replace("dim: 16", "dim: 128"), encoding="utf-8")
    checkpoint = write_tiny_bert(folder / "checkpoint", hidden_size=128, intermediate_size=256)
    registry = load_registry(folder / "registry.yaml")
    return export_model("tiny-bert", source=str(checkpoint), out=folder / "out", registry=registry).directory


def trial(place: Path, file: Path, tmp_path: Path, *, read: bool = True) -> dict[str, int]:
    """Change a file so often, and return how often each outcome came."""
    with Encoder(place, **BULK, cache=False) as encoder:
        np.save(tmp_path / "right.npy", encoder.encode(TEXTS[:12], role="query"))
    words = [place, file, TIMES, 0, tmp_path / "right.npy", "read" if read else "not read"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.mutate", *map(str, words)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (file.name, done.stderr[-2_000:])
    found: dict[str, int] = json.loads(done.stdout)
    assert sum(found.values()) == TIMES
    print(f"{file.name}: {found}")
    return found


def test_of_each_file_of_a_bundle(place: Path, tmp_path: Path) -> None:
    for file in sorted(place.iterdir()):
        if file.name in READ:
            trial(place, file, tmp_path)
        elif WHOLE or file.name == "probes.json":
            trial(place, file, tmp_path, read=False)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "made.json"])
def test_of_a_optimized_graph(wide: Path, home: Path, tmp_path: Path, name: str) -> None:
    place = copied(wide, tmp_path / "bundle")
    with Encoder(place, **BULK):
        (file,) = (home / "cache" / "prepared").glob(f"*/{name}")
    assert "refused" not in trial(place, file, tmp_path)  # it is made again


def test_of_the_record_of_what_was_checked(
    place: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest_cache, "_TICK_NS", -3_600_000_000_000)
    with Encoder(place, **BULK):
        records = sorted((home / "cache" / "checked").iterdir())
    assert records
    for record in records:
        assert "refused" not in trial(place, record, tmp_path)
