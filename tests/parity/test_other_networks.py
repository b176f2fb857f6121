"""Networks besides BERT and MPNet, small and seeded: by the optimum front-end, and natively where known."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.errors import ExportError, SourceError
from paritas.export import export_model
from paritas.export.certificate.certify import compare
from paritas.export.contract import Frontend
from paritas.export.int8.quantizer import Quantizer
from paritas.export.networks.known import ARCHITECTURES
from paritas.registry import PRECISIONS, Precision, Registry, load_registry
from tests.parity.pytorch import pytorch_vectors
from tests.parity.texts import pairs, texts
from tests.parity.tiny_networks import MAX_LENGTH, NETWORKS, write_network
from tests.unit.tiny import write_tiny_bert

# What transformers' code of DeBERTa and ModernBERT still uses.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")

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
    assert bundle.variant("fp32").unpadded_graph == "model.fp32.equal_length.onnx"
    chosen = texts(32)
    contract = bundle.manifest.contract
    reference = pytorch_vectors(checkpoint, contract, "query", chosen)
    with Encoder(bundle.directory) as encoder:
        assert compare(encoder.encode(chosen, role="query"), reference).max_abs_diff <= 1e-5
    with Encoder(bundle.directory, precision="fp16") as encoder:
        assert compare(encoder.encode(chosen, role="query"), reference).min_cosine >= 0.9999


def test_the_native_front_end_says_what_it_knows(
    checkpoint: Path, registry: Registry, tmp_path: Path
) -> None:
    with pytest.raises(
        ExportError,
        match=r"'distilbert'; the native front-end knows bert, mpnet, roberta, .*; try --frontend optimum",
    ):
        export_model("tiny-distilbert", source=checkpoint, out=tmp_path / "bundle", registry=registry)
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
    assert bundle.variant("fp32").certified.reference == "NumPy float64"
    broken = drop(
        shutil.copytree(checkpoints["tiny-bert"], tmp_path / "checkpoint"),
        "encoder.layer.1.output.LayerNorm.bias",
    )
    with pytest.raises(SourceError, match=r"missing 'encoder\.layer\.1\.output\.LayerNorm\.bias'"):
        export_model("tiny-bert", source=str(broken), **options)


def test_too_few_positions_for_pytorch_are_an_export_error(
    checkpoint: Path, registry: Registry, tmp_path: Path
) -> None:
    """The configuration's word for its positions is not always the table's: data2vec starts at 2."""
    from transformers import Data2VecTextConfig, Data2VecTextModel

    broken = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    config = Data2VecTextConfig(
        vocab_size=128,
        max_position_embeddings=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    Data2VecTextModel(config, add_pooling_layer=False).save_pretrained(broken)
    path = tmp_path / "registry.yaml"
    text = REGISTRY.replace("network: distilbert", "network: data2vec-text").replace("32}", "40}")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ExportError, match=r"PyTorch cannot run 40 tokens of role query: "):
        export(broken, load_registry(path), tmp_path / "bundle")


# One network after another, small and seeded.


@dataclass(frozen=True)
class Made:
    """A network's checkpoint and its bundle in all precisions."""

    network: str
    frontend: Frontend
    checkpoint: Path
    bundle: Bundle

    def pytorch(self, role: str) -> NDArray[np.float32]:
        """Vectors of transformers' AutoModel and AutoTokenizer, pooled by hand."""
        import torch
        from transformers import AutoModel, AutoTokenizer

        model = AutoModel.from_pretrained(self.checkpoint).eval()
        tokenizer = AutoTokenizer.from_pretrained(self.checkpoint)
        vectors = []
        for text in TEXTS[role]:
            parts = [[part] for part in ((text,) if isinstance(text, str) else text)]
            tokens = tokenizer(*parts, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
            with torch.inference_mode():
                hidden = model(**{name: tokens[name] for name in NETWORKS[self.network].takes})[0]
            mean = hidden[0].mean(0)
            vectors.append((mean / mean.norm()).numpy())
        return np.stack(vectors)


TEXTS = {"query": texts(MAX_LENGTH), "passage": pairs(MAX_LENGTH)}
# Networks whose mask does more than to add zeros to scores where nothing is padded.
MASKED = {"deberta-v2", "modernbert"}
# What widens the embeddings; keys and queries of the relative positions.
MORE_LAYERS = {"albert": 1, "electra": 1, "deberta-v2": 4}


def registry_of(directory: Path, network: str, max_length: int = MAX_LENGTH) -> Registry:
    path = directory / "registry.yaml"
    path.write_text(
        f"models: {{tiny: {{network: {network}, dim: 64, pooling: mean, roles: {{"
        f"query: {{max_length: {max_length}}}, passage: {{max_length: {max_length}, pair: true}}}}}}}}",
        encoding="utf-8",
    )
    return load_registry(path)


def export_tiny(
    made: Path,
    network: str,
    *precisions: Precision,
    frontend: Frontend = "optimum",
    max_length: int = MAX_LENGTH,
) -> Bundle:
    return export_model(
        "tiny",
        source=str(made / "checkpoint"),
        precisions=precisions,
        frontend=frontend,
        out=made / "bundle",
        registry=registry_of(made, network, max_length),
    )


NATIVE = [network for network in NETWORKS if network in ARCHITECTURES]
MADE: list[tuple[str, Frontend]] = [
    *((network, "native") for network in NATIVE),
    # One of those known natively is enough as the cross-check.
    *((network, "optimum") for network in NETWORKS if network not in NATIVE[1:]),
]


@pytest.fixture(scope="module", params=MADE, ids="-".join)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    network, frontend = request.param
    directory = tmp_path_factory.mktemp(network)
    checkpoint = write_network(network, directory / "checkpoint")
    bundle = export_tiny(directory, network, *PRECISIONS, frontend=frontend)
    return Made(network, frontend, checkpoint, bundle)


@pytest.mark.parametrize("role", TEXTS)
def test_vectors_are_those_of_transformers(made: Made, role: str) -> None:
    """In batches of one length, and in padded ones, which another graph may serve."""
    reference = made.pytorch(role)
    for precision in PRECISIONS:
        for padding in (0.0, 0.9):
            with Encoder(made.bundle, precision=precision, max_padding=padding) as encoder:
                figures = compare(encoder.encode(TEXTS[role], role=role), reference)
            if precision == "fp32":
                assert figures.max_abs_diff <= 1e-5, padding
            else:
                assert figures.min_cosine >= (0.9999 if precision == "fp16" else 0.985), (precision, padding)


def test_batches_of_one_length_lose_the_mask_where_it_adds_nothing(made: Made) -> None:
    for precision in PRECISIONS:
        variant = made.bundle.variant(precision)
        assert (variant.unpadded_graph == variant.cpu_graph) == (made.network in MASKED), precision


def test_what_is_known_here_is_held_against_numpy(made: Made) -> None:
    expected = "NumPy float64" if made.network in ARCHITECTURES else "PyTorch float32"
    assert {made.bundle.variant(precision).certified.reference for precision in PRECISIONS} == {expected}


def test_every_linear_layer_is_found(made: Made) -> None:
    """Those of layers that share their weights, too: six a layer."""
    quantization = made.bundle.variant("int8").quantization
    assert quantization is not None
    assert quantization.layers == 12 + MORE_LAYERS.get(made.network, 0)


def test_int8_alone_keeps_the_window_too(tmp_path: Path) -> None:
    write_network("modernbert", tmp_path / "checkpoint")
    variant = export_tiny(tmp_path, "modernbert", "int8").variant("int8")
    assert variant.unpadded_graph == variant.cpu_graph == "model.int8.onnx"


@pytest.mark.parametrize(("max_length", "shows"), [(5, False), (6, True)])
def test_a_window_that_no_text_reaches_beyond_is_none(max_length: int, shows: bool, tmp_path: Path) -> None:
    """Tokens see four others on either side."""
    write_network("modernbert", tmp_path / "checkpoint")
    variant = export_tiny(tmp_path, "modernbert", "fp32", max_length=max_length).variant("fp32")
    assert (variant.unpadded_graph == variant.cpu_graph) == shows


def test_means_are_over_what_a_layer_reads_and_not_over_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeBERTa's relative positions are as many in every batch."""
    means: list[NDArray[np.float64]] = []
    once = Quantizer._round

    def watched(quantizer: Quantizer, source: str, moments: Any, before: Any, after: Any) -> None:
        means.append(before)
        once(quantizer, source, moments, before, after)

    monkeypatch.setattr(Quantizer, "_round", watched)
    checkpoint = write_network("deberta-v2", tmp_path / "checkpoint")
    export_tiny(tmp_path, "deberta-v2", "int8")
    positions = load_file(checkpoint / "model.safetensors")["encoder.rel_embeddings.weight"]
    centred = positions - positions.mean(1, keepdims=True)
    normed = centred / np.sqrt(centred.var(1, keepdims=True) + 1e-7)
    assert any(np.allclose(found, normed.mean(0), rtol=0, atol=1e-4) for found in means)


def test_a_network_that_takes_more_than_tokens_is_refused(tmp_path: Path) -> None:
    write_network("gpt2", tmp_path / "checkpoint")
    with pytest.raises(
        ExportError, match="the network takes position_ids, and texts are encoded from input_"
    ):
        export_tiny(tmp_path, "gpt2", "fp32")
