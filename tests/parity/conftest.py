"""Full-size models: real weights where a package carries them, else twins of the exact configuration.

A twin has seeded random weights. Parity does not depend on what the weights are; quality would.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from paritas.engine.bundle.directory import Bundle
from paritas.engine.tokenize.tokenizer import Text
from paritas.export import export_model
from paritas.export.checkpoint.sources import open_checkpoint
from paritas.export.contract import Frontend
from paritas.registry import load_registry
from tests.parity.pytorch import pytorch_vectors
from tests.parity.texts import pairs, texts

# Model, and whose tokenizer its twin borrows: the vocabularies are the same files.
TWINS = {
    "simlm-base-msmarco-finetuned": "all-MiniLM-L6-v2",
    "multi-qa-mpnet-base-cos-v1": "all-mpnet-base-v2",
}
MODELS = ["all-MiniLM-L6-v2", "all-mpnet-base-v2", *TWINS]


class Zoo:
    """Checkpoints, bundles and PyTorch's vectors, each made when first asked for."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.models = load_registry()
        self._stack = stack
        self.checkpoint = functools.cache(self._checkpoint)
        self.bundle = functools.cache(self._bundle)
        self.int8 = functools.cache(self._int8)
        self.pytorch = functools.cache(self._pytorch)

    def _checkpoint(self, name: str) -> Path:
        if name not in TWINS:
            model = self.models[name]
            return self._stack.enter_context(open_checkpoint(name, model, "package")).directory
        directory = self.directory / f"{name}-twin"
        _write_twin(directory, mpnet=self.models[name].network == "mpnet")
        for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            shutil.copy(self.checkpoint(TWINS[name]) / file, directory / file)
        return directory

    def _bundle(self, name: str, frontend: Frontend) -> Bundle:
        return export_model(
            name,
            source=str(self.checkpoint(name)),
            precisions=("fp32", "fp16"),
            frontend=frontend,
            out=self.directory / f"{name}-{frontend}",
            registry=self.models,
        )

    def _int8(self, name: str, frontend: Frontend) -> Bundle:
        return export_model(
            name,
            source=str(self.checkpoint(name)),
            precisions=("int8",),
            frontend=frontend,
            out=self.directory / f"{name}-{frontend}-int8",
            registry=self.models,
        )

    def texts(self, name: str, role: str) -> list[Text]:
        rule = self.bundle(name, "native").manifest.contract.roles[role]
        return [*texts(rule.max_length), *(pairs(rule.max_length) if rule.pair else [])]

    def _pytorch(self, name: str, role: str) -> NDArray[np.float32]:
        contract = self.bundle(name, "native").manifest.contract
        return pytorch_vectors(self.checkpoint(name), contract, role, self.texts(name, role))


def _write_twin(directory: Path, *, mpnet: bool) -> None:
    import torch
    from transformers import BertConfig, BertModel, MPNetConfig, MPNetModel

    torch.manual_seed(20260101)
    if mpnet:
        config = MPNetConfig(vocab_size=30527, max_position_embeddings=514, layer_norm_eps=1e-5)
        MPNetModel(config).save_pretrained(directory)
    else:
        BertModel(BertConfig()).save_pretrained(directory)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store without a cache: optimized forms of all full-size graphs would take 10 GB of the disk."""
    directory = tmp_path_factory.mktemp("user")
    (directory / "cache").write_text("no directory")
    monkeypatch.setenv("PARITAS_HOME", str(directory))
    return directory


@pytest.fixture
def cache(home: Path) -> Iterator[Path]:
    """A cache after all, for as long as the test lasts."""
    directory = home / "cache"
    directory.unlink()
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    with ExitStack() as stack:
        yield Zoo(tmp_path_factory.mktemp("zoo"), stack)
