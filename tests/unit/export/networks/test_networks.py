"""What a checkpoint must be to be exported natively, and what is said of one that is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from paritas.errors import ExportError, SourceError
from paritas.export import export_model
from paritas.export.networks.config import read_network
from paritas.export.networks.known import ARCHITECTURES
from paritas.export.networks.mpnet import MPNET as MPNET_MADE_OF
from paritas.export.networks.mpnet import BucketedBias
from paritas.export.networks.positions import AfterPadding, FromZero
from paritas.export.networks.record import Network
from paritas.export.networks.weights import open_network
from paritas.registry import load_registry
from tests.unit.tiny import BERT, MPNET, write_tiny_bert

Weights = dict[str, NDArray[Any]]
Edit = Callable[[Weights], None]


def edited(source: Path, directory: Path, edit: Edit) -> Path:
    """Copy a checkpoint with other weights."""
    shutil.copytree(source, directory, dirs_exist_ok=True)
    weights = load_file(directory / "model.safetensors")
    edit(weights)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def read_all(directory: Path) -> tuple[Network, Weights]:
    """Every weight of a checkpoint, under our names."""
    network, parameters = open_network(directory)
    return network, {ours: parameters[ours] for ours, _, _ in network.parameters()}


def refused(source: Path, directory: Path, edit: Edit) -> str:
    with pytest.raises(SourceError) as caught:
        open_network(edited(source, directory, edit))
    return str(caught.value)


def same(found: Weights, expected: Weights) -> bool:
    return list(found) == list(expected) and all(np.array_equal(found[key], expected[key]) for key in found)


# Configurations.


def test_bert_is_read_from_its_configuration() -> None:
    network = read_network(BERT, "config.json")
    assert (network.model_type, network.layers, network.heads, network.dim) == ("bert", 2, 2, 16)
    assert (network.head_dim, network.intermediate, network.vocab_size) == (8, 32, 128)
    assert (network.position_rows, network.max_length) == (40, 40)
    assert (network.token_types, network.position_bias, network.norm_eps) == (2, None, 1e-12)


def test_mpnets_positions_start_after_the_padding_id() -> None:
    network = read_network(MPNET, "config.json")
    assert (network.model_type, network.position_rows, network.max_length) == ("mpnet", 42, 40)
    assert (network.positions, network.norm_eps) == (AfterPadding(1), 1e-5)
    assert (network.token_types, network.position_bias) == (0, MPNET_MADE_OF.position_bias)


def test_an_mpnet_counts_from_1_whatever_padding_its_configuration_names() -> None:
    # As transformers does: its MPNetEmbeddings ignores pad_token_id.
    network = read_network({**MPNET, "pad_token_id": 0}, "config.json")
    assert (network.positions, network.max_length) == (AfterPadding(1), 40)


ROBERTA = {**BERT, "model_type": "roberta", "type_vocab_size": 1, "max_position_embeddings": 42}


@pytest.mark.parametrize(("stated", "pad_token_id"), [({"pad_token_id": 3}, 3), ({}, 1)])
def test_robertas_positions_start_after_the_padding_id_it_names(
    stated: dict[str, int], pad_token_id: int
) -> None:
    silent = {key: value for key, value in ROBERTA.items() if key != "pad_token_id"}
    network = read_network({**silent, **stated}, "config.json")
    assert network.positions == AfterPadding(pad_token_id)
    assert network.max_length == 42 - pad_token_id - 1


@pytest.mark.parametrize("value", [-1, "1", None, 1.0, True])
def test_a_padding_id_of_roberta_that_is_none(value: object) -> None:
    with pytest.raises(SourceError, match=r"^x/config\.json: pad_token_id is .*; expected a token's id"):
        read_network({**ROBERTA, "pad_token_id": value}, "x/config.json")


@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta", "camembert"])
def test_roberta_is_bert_with_other_positions(model_type: str) -> None:
    network = read_network({**ROBERTA, "model_type": model_type}, "config.json")
    bert = read_network({**BERT, "type_vocab_size": 1, "max_position_embeddings": 42}, "config.json")
    assert list(network.parameters()) == list(bert.parameters())


def test_padding_inside_a_text_is_not_counted() -> None:
    ids = np.array([5, 1, 6, 1, 1, 7])
    assert AfterPadding(1).rows(ids).tolist() == [2, 1, 3, 1, 1, 4]
    assert FromZero().rows(ids).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_roberta_is_exported_without_torch(tmp_path: Path) -> None:
    """Its graph is held against the reference in NumPy, which counts positions by itself."""
    checkpoint = write_tiny_bert(
        tmp_path / "checkpoint",
        model_type="roberta",
        architectures=["RobertaModel"],
        type_vocab_size=1,
        max_position_embeddings=42,
    )
    bundle = export_model(checkpoint, pooling="mean", out=tmp_path / "bundle")
    certificate = bundle.variant("fp32").certified
    assert certificate.reference == "NumPy float64"
    assert certificate.figures.max_abs_diff <= 1e-5
    assert bundle.manifest.contract.network == "roberta"
    assert bundle.manifest.contract.roles["query"].max_length == 41


def test_parts_of_networks_can_be_joined_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part alone is a network's; a new network may have token types and a bias, and count from zero."""
    monkeypatch.setitem(ARCHITECTURES, "bert", replace(ARCHITECTURES["bert"], position_bias=BucketedBias()))
    checkpoint = write_tiny_bert(tmp_path / "checkpoint")
    path = tmp_path / "registry.yaml"
    roles = "{passage: {max_length: 24, pair: true}}"
    path.write_text(f"models: {{mine: {{network: bert, dim: 16, pooling: mean, roles: {roles}}}}}")
    registry = load_registry(path)
    bundle = export_model("mine", source=checkpoint, out=tmp_path / "bundle", registry=registry)
    certificate = bundle.variant("fp32").certified
    assert certificate.reference == "NumPy float64"
    assert certificate.figures.max_abs_diff <= 1e-5


def test_what_transformers_leaves_out_of_a_configuration_has_its_defaults() -> None:
    bare = {key: value for key, value in MPNET.items() if key not in ("layer_norm_eps", "pad_token_id")}
    del bare["relative_attention_num_buckets"]
    network = read_network(bare, "config.json")
    assert network.norm_eps == 1e-12


@pytest.mark.parametrize("kind", ["distilbert", "modernbert", None, 7, "BERT"])
def test_another_network_is_left_to_the_other_frontend(kind: object) -> None:
    with pytest.raises(
        ExportError, match=r"^x/config\.json: model_type is .*bert, mpnet, .*; try --frontend opt"
    ):
        read_network({**BERT, "model_type": kind}, "x/config.json")


@pytest.mark.parametrize(
    ("base", "key", "value"),
    [
        (BERT, "hidden_act", "relu"),
        (BERT, "hidden_act", "gelu_new"),
        (BERT, "position_embedding_type", "relative_key"),
        (BERT, "is_decoder", True),
        (BERT, "add_cross_attention", True),
        (MPNET, "hidden_act", "relu"),
        (MPNET, "relative_attention_num_buckets", 64),
        (MPNET, "relative_attention_num_buckets", 16),
    ],
)
def test_an_option_the_graph_does_not_have_is_refused(base: dict[str, Any], key: str, value: object) -> None:
    with pytest.raises(
        ExportError, match=f"{key} is {value!r}; the native front-end knows .*--frontend optimum"
    ):
        read_network({**base, key: value}, "config.json")


@pytest.mark.parametrize(
    "key",
    [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "type_vocab_size",
    ],
)
def test_a_size_that_is_missing_or_no_size_is_named(key: str) -> None:
    for value in (None, 0, -1, "16", 16.0):
        with pytest.raises(SourceError, match=f"{key} is {value!r}; expected a positive integer"):
            read_network({**BERT, key: value}, "config.json")
    with pytest.raises(SourceError, match=f"{key} is missing; expected a positive integer"):
        read_network({name: size for name, size in BERT.items() if name != key}, "config.json")


@pytest.mark.parametrize("value", [None, "1e-12", 0, -1e-5])
def test_an_epsilon_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(SourceError, match=f"layer_norm_eps is {value!r}; expected a positive number"):
        read_network({**BERT, "layer_norm_eps": value}, "config.json")


def test_a_width_that_does_not_split_into_heads_is_refused() -> None:
    with pytest.raises(SourceError, match="hidden_size 16 is no multiple of 3 heads"):
        read_network({**BERT, "num_attention_heads": 3}, "config.json")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "expected a JSON object, got list"),
        ("", "cannot be read as JSON"),
    ],
)
def test_a_configuration_that_is_no_object_is_named(
    tmp_path: Path, checkpoints: dict[str, Path], content: str, fault: str
) -> None:
    directory = edited(checkpoints["tiny-bert"], tmp_path, lambda _: None)
    (directory / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(SourceError, match=rf"config\.json: {fault}"):
        open_network(directory)


# Weights.


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-mpnet"])
def test_every_weight_of_a_checkpoint_is_used_once(name: str, checkpoints: dict[str, Path]) -> None:
    network, found = read_all(checkpoints[name])
    stored = load_file(checkpoints[name] / "model.safetensors")
    theirs = [full for _, full, _ in network.parameters()]
    assert sorted(theirs) == sorted(stored)
    for ours, full, shape in network.parameters():
        assert found[ours].shape == shape
        np.testing.assert_array_equal(found[ours], stored[full])


def test_a_missing_weight_is_named_with_its_shape(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    message = refused(
        checkpoints["tiny-bert"], tmp_path, lambda weights: weights.pop("encoder.layer.1.output.dense.weight")
    )
    assert "the weights do not fit config.json: missing 'encoder.layer.1.output.dense.weight'" in message
    assert "shape (16, 32)" in message


def test_an_unexpected_weight_is_named(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    def edit(weights: Weights) -> None:
        weights["encoder.layer.0.adapter.weight"] = np.zeros((2, 2), np.float32)

    assert "unexpected 'encoder.layer.0.adapter.weight'" in refused(checkpoints["tiny-bert"], tmp_path, edit)


def test_one_layer_too_many_is_unexpected(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    directory = edited(checkpoints["tiny-mpnet"], tmp_path, lambda _: None)
    (directory / "config.json").write_text(json.dumps({**MPNET, "num_hidden_layers": 1}), encoding="utf-8")
    with pytest.raises(
        SourceError, match=r"unexpected 'encoder\.layer\.1\.attention\.LayerNorm\.bias'.*and 8 more"
    ):
        open_network(directory)


def test_a_weight_of_another_shape_is_named_with_both(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    def edit(weights: Weights) -> None:
        weights["embeddings.position_embeddings.weight"] = np.zeros((41, 16), np.float32)

    message = refused(checkpoints["tiny-bert"], tmp_path, edit)
    assert (
        "'embeddings.position_embeddings.weight' has shape (41, 16), config.json asks for (40, 16)" in message
    )


def test_several_faults_are_named_at_once(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    def edit(weights: Weights) -> None:
        del weights["embeddings.LayerNorm.bias"]
        weights["encoder.layer.0.attention.self.key.bias"] = np.zeros(17, np.float32)
        weights["extra"] = np.zeros(1, np.float32)

    message = refused(checkpoints["tiny-bert"], tmp_path, edit)
    assert "missing 'embeddings.LayerNorm.bias'" in message
    assert "'encoder.layer.0.attention.self.key.bias' has shape (17,), config.json asks for (16,)" in message
    assert "unexpected 'extra'" in message
    assert "more" not in message


def test_very_many_faults_are_counted(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    def edit(weights: Weights) -> None:
        for name in [name for name in weights if name.startswith("encoder.layer.1")]:
            del weights[name]

    message = refused(checkpoints["tiny-bert"], tmp_path, edit)
    assert message.count("missing") == 8
    assert message.endswith("; and 8 more")


def test_a_checkpoint_without_word_embeddings_is_refused(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    message = refused(
        checkpoints["tiny-bert"], tmp_path, lambda weights: weights.pop("embeddings.word_embeddings.weight")
    )
    expected = "embeddings.word_embeddings.weight or bert.embeddings.word_embeddings.weight"
    assert f"expected one weight named {expected}, found []" in message


def test_a_checkpoint_of_two_encoders_is_refused(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    def edit(weights: Weights) -> None:
        for name in list(weights):
            weights[f"question.{name}"] = weights[name]

    assert "'question.embeddings.word_embeddings.weight'" in refused(checkpoints["tiny-bert"], tmp_path, edit)


@pytest.mark.parametrize(("name", "prefix"), [("tiny-bert", "bert."), ("tiny-mpnet", "mpnet.")])
def test_an_encoder_saved_with_its_heads_is_found(
    tmp_path: Path, checkpoints: dict[str, Path], name: str, prefix: str
) -> None:
    def edit(weights: Weights) -> None:
        for key in list(weights):
            weights[prefix + key] = weights.pop(key)
        weights["cls.predictions.bias"] = np.zeros(128, np.float32)
        weights["cls.predictions.transform.LayerNorm.gamma"] = np.zeros(16, np.float32)
        weights["lm_head.bias"] = np.zeros(128, np.float32)
        weights["classifier.weight"] = np.zeros((2, 16), np.float32)
        weights["qa_outputs.weight"] = np.zeros((2, 16), np.float32)
        weights[f"{prefix}pooler.dense.weight"] = np.zeros((16, 16), np.float32)
        weights[f"{prefix}embeddings.position_ids"] = np.arange(40)[None]
        weights[f"{prefix}embeddings.token_type_ids"] = np.zeros((1, 40), np.int64)

    expected = read_all(checkpoints[name])
    found = read_all(edited(checkpoints[name], tmp_path, edit))
    assert found[0] == expected[0]
    assert same(found[1], expected[1])


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-mpnet"])
def test_the_older_names_of_layer_norms_are_known(
    tmp_path: Path, checkpoints: dict[str, Path], name: str
) -> None:
    def edit(weights: Weights) -> None:
        for key in [key for key in weights if "LayerNorm" in key]:
            old = key.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
            weights[old] = weights.pop(key)

    found = read_all(edited(checkpoints[name], tmp_path, edit))[1]
    assert same(found, read_all(checkpoints[name])[1])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused_when_read(
    tmp_path: Path, checkpoints: dict[str, Path], value: float
) -> None:
    def edit(weights: Weights) -> None:
        weights["encoder.layer.0.attention.self.query.weight"][3, 4] = value

    _, parameters = open_network(edited(checkpoints["tiny-bert"], tmp_path, edit))
    with pytest.raises(
        SourceError, match=r"'encoder\.layer\.0\.attention\.self\.query\.weight' holds NaN or inf"
    ):
        parameters["layer.0.query.weight"]


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_weights_of_other_precisions_are_read_as_float32(
    tmp_path: Path, checkpoints: dict[str, Path], dtype: str
) -> None:
    import ml_dtypes

    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)

    def edit(weights: Weights) -> None:
        for name in weights:
            weights[name] = weights[name].astype(kind)

    expected = read_all(checkpoints["tiny-bert"])[1]
    for name, value in read_all(edited(checkpoints["tiny-bert"], tmp_path, edit))[1].items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, expected[name].astype(kind).astype(np.float32))


def test_weights_that_are_no_floats_are_refused(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    def edit(weights: Weights) -> None:
        weights["embeddings.LayerNorm.bias"] = np.zeros(16, np.int8)

    _, parameters = open_network(edited(checkpoints["tiny-bert"], tmp_path, edit))
    with pytest.raises(SourceError, match=r"'embeddings\.LayerNorm\.bias' has dtype I8; expected one of"):
        parameters["embeddings_norm.bias"]


def test_a_damaged_weights_file_is_named(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    directory = edited(checkpoints["tiny-bert"], tmp_path, lambda _: None)
    content = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(SourceError, match=r"model\.safetensors: not a readable safetensors file"):
        open_network(directory)


def test_weights_in_shards_are_those_in_one_file(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    directory = edited(checkpoints["tiny-mpnet"], tmp_path, lambda _: None)
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    shards: dict[str, Weights] = {"a.safetensors": {}, "b.safetensors": {}}
    for number, (name, value) in enumerate(weights.items()):
        shards["ab"[number % 2] + ".safetensors"][name] = value
    for file, part in shards.items():
        save_file(part, directory / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert same(read_all(directory)[1], read_all(checkpoints["tiny-mpnet"])[1])


def test_weights_in_a_pickle_are_those_in_safetensors(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    import torch

    directory = edited(checkpoints["tiny-bert"], tmp_path, lambda _: None)
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    state = {f"bert.{name}": torch.from_numpy(value) for name, value in weights.items()}
    torch.save(state, directory / "pytorch_model.bin")
    assert same(read_all(directory)[1], read_all(checkpoints["tiny-bert"])[1])


# The position bias.


@pytest.fixture(scope="module")
def table() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32)


@pytest.mark.parametrize("length", [1, 2, 16, 40, 512])
def test_the_position_bias_is_that_of_transformers(table: NDArray[np.float32], length: int) -> None:
    import torch
    from transformers import MPNetConfig
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    config = MPNetConfig(hidden_size=16, num_attention_heads=4, num_hidden_layers=1, intermediate_size=16)
    encoder = MPNetEncoder(config)
    with torch.no_grad():
        encoder.relative_attention_bias.weight.copy_(torch.from_numpy(table))
        theirs = encoder.compute_position_bias(torch.zeros(1, length, 16))[0].numpy()
    by_distance = BucketedBias().by_distance(table, length)
    assert by_distance.shape == (4, 2 * length - 1)
    assert by_distance.dtype == np.float32
    key, query = np.arange(length)[None, :], np.arange(length)[:, None]
    np.testing.assert_array_equal(by_distance[:, key - query + length - 1], theirs)


def test_every_distance_has_the_bucket_of_transformers() -> None:
    import torch
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    length = 3000
    numbered = np.arange(32, dtype=np.float32)[:, None]
    ours = BucketedBias().by_distance(numbered, length)[0].astype(np.int64)
    theirs = MPNetEncoder.relative_position_bucket(torch.arange(-(length - 1), length))
    np.testing.assert_array_equal(ours, theirs.numpy())
    assert set(ours) == set(range(32)) - {16}  # distance 0 counts as "before", so 16 is never used


def test_a_longer_table_agrees_with_a_shorter_one(table: NDArray[np.float32]) -> None:
    longer, shorter = BucketedBias().by_distance(table, 512), BucketedBias().by_distance(table, 40)
    np.testing.assert_array_equal(longer[:, 511 - 39 : 511 + 40], shorter)
