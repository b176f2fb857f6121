"""Networks that are not exported natively go through the optimum front-end, to the same bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from paritas.engine.encoder import Encoder
from paritas.errors import ExportError
from paritas.export import export_model
from paritas.export.certify import compare
from paritas.export.probes import Probe
from paritas.export.reference import reference_torch
from paritas.registry import Registry, load_registry
from tests.parity.texts import texts
from tests.unit.tiny import write_tiny_bert

REGISTRY = """
models:
  tiny-distilbert:
    network: distilbert
    dim: 16
    pooling: mean
    roles:
      query: {max_length: 32}
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import DistilBertConfig, DistilBertModel

    directory = tmp_path_factory.mktemp("distilbert") / "checkpoint"
    write_tiny_bert(directory)  # for its tokenizer
    for name in ("config.json", "model.safetensors"):
        (directory / name).unlink()
    torch.manual_seed(1)
    config = DistilBertConfig(
        vocab_size=128, max_position_embeddings=40, dim=16, n_layers=2, n_heads=2, hidden_dim=32
    )
    DistilBertModel(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    path = tmp_path_factory.mktemp("registry") / "registry.yaml"
    path.write_text(REGISTRY, encoding="utf-8")
    return load_registry(path)


def test_a_network_optimum_knows_becomes_a_bundle(
    checkpoint: Path, registry: Registry, tmp_path: Path
) -> None:
    bundle = export_model(
        "tiny-distilbert",
        source=str(checkpoint),
        precisions=("fp32", "fp16"),
        frontend="optimum",
        out=tmp_path / "bundle",
        registry=registry,
    )
    chosen = texts(32)
    contract = bundle.manifest.contract
    reference = reference_torch(checkpoint, contract, [Probe("query", text) for text in chosen])
    with Encoder(bundle.directory) as encoder:
        assert compare(encoder.encode(chosen, role="query"), reference).max_abs_diff <= 1e-5
    with Encoder(bundle.directory, precision="fp16") as encoder:
        assert compare(encoder.encode(chosen, role="query"), reference).min_cosine >= 0.9999


def test_the_native_front_end_says_what_it_knows(
    checkpoint: Path, registry: Registry, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=r"'distilbert'; the native front-end knows bert, mpnet; try --fro"):
        export_model("tiny-distilbert", source=str(checkpoint), out=tmp_path / "bundle", registry=registry)
    assert list(tmp_path.iterdir()) == []
