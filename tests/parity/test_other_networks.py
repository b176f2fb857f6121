"""Networks that are not exported natively go through the optimum front-end, to the same bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from paritas.engine.bundle import Bundle
from paritas.engine.encoder import Encoder
from paritas.errors import ExportError, SourceError
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


def export(checkpoint: Path, registry: Registry, out: Path) -> Bundle:
    return export_model(
        "tiny-distilbert",
        source=str(checkpoint),
        precisions=("fp32", "fp16"),
        frontend="optimum",
        out=out,
        registry=registry,
    )


def test_a_network_optimum_knows_becomes_a_bundle(
    checkpoint: Path, registry: Registry, tmp_path: Path
) -> None:
    bundle = export(checkpoint, registry, tmp_path / "bundle")
    assert bundle.variant("fp32").equal_length_graph == "model.fp32.equal_length.onnx"
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


def drop(checkpoint: Path, *names: str) -> Path:
    weights = load_file(checkpoint / "model.safetensors")
    for name in names:
        del weights[name]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    return checkpoint


def test_weights_that_transformers_would_make_up_are_missed(
    checkpoint: Path, registry: Registry, tmp_path: Path
) -> None:
    broken = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    drop(broken, "transformer.layer.1.ffn.lin1.bias", "embeddings.LayerNorm.weight")
    with pytest.raises(
        SourceError,
        match=r"missing 'embeddings\.LayerNorm\.weight'; missing 'transformer\.layer\.1\.ffn\.lin1",
    ):
        export(broken, registry, tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_layers_that_transformers_would_ignore_are_refused(
    checkpoint: Path, registry: Registry, tmp_path: Path
) -> None:
    broken = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    config = json.loads((broken / "config.json").read_text(encoding="utf-8"))
    (broken / "config.json").write_text(json.dumps(config | {"n_layers": 1}), encoding="utf-8")
    with pytest.raises(SourceError, match=r"unexpected 'transformer\.layer\.1\."):
        export(broken, registry, tmp_path / "bundle")


def test_a_bert_by_optimum_is_held_against_numpy_and_its_weights_checked(
    tiny_registry: Registry, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    options = {"frontend": "optimum", "out": tmp_path / "bundle", "registry": tiny_registry}
    bundle = export_model("tiny-bert", source=str(checkpoints["tiny-bert"]), **options)
    assert bundle.variant("fp32").certificate.reference == "NumPy float64"
    broken = drop(
        shutil.copytree(checkpoints["tiny-bert"], tmp_path / "checkpoint"),
        "encoder.layer.1.output.LayerNorm.bias",
    )
    with pytest.raises(SourceError, match=r"missing 'encoder\.layer\.1\.output\.LayerNorm\.bias'"):
        export_model("tiny-bert", source=str(broken), **options)


def test_too_few_positions_for_pytorch_are_an_export_error(
    checkpoint: Path, registry: Registry, tmp_path: Path
) -> None:
    """The configuration's word for its positions is not always the table's: RoBERTa starts at 2."""
    from transformers import RobertaConfig, RobertaModel

    broken = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    config = RobertaConfig(
        vocab_size=128,
        max_position_embeddings=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    RobertaModel(config, add_pooling_layer=False).save_pretrained(broken)
    path = tmp_path / "registry.yaml"
    text = REGISTRY.replace("network: distilbert", "network: roberta").replace("32}", "40}")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ExportError, match=r"PyTorch cannot run 40 tokens of role query: "):
        export(broken, load_registry(path), tmp_path / "bundle")
