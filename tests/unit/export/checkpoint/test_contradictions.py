"""Requests and registry entries that do not fit the checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.errors import ExportError, RegistryError, SourceError
from paritas.export import export_model
from paritas.export.checkpoint.facts import read_facts
from paritas.export.contract import agree
from paritas.registry import Registry, Role, load_registry
from tests.unit.export.entries import entry
from tests.unit.tiny import write_tiny_bert


def test_an_unknown_model_is_answered_with_the_nearest(tmp_path: Path, tiny_registry: Registry) -> None:
    with pytest.raises(RegistryError, match="unknown model 'tiny-brt'; did you mean 'tiny-bert'"):
        export_model("tiny-brt", out=tmp_path / "out", registry=tiny_registry)


def test_an_unknown_front_end_is_refused(tmp_path: Path, tiny_registry: Registry) -> None:
    with pytest.raises(ExportError, match="unknown frontend 'x'; expected native or optimum"):
        export_model("tiny-bert", frontend="x", out=tmp_path / "out", registry=tiny_registry)


def test_an_unknown_precision_is_refused(tmp_path: Path, tiny_registry: Registry) -> None:
    with pytest.raises(ExportError, match="unknown precision 'int4'; expected fp32, fp16, int8"):
        export_model("tiny-bert", precisions=["int4"], out=tmp_path / "out", registry=tiny_registry)
    with pytest.raises(ExportError, match="no precision given"):
        export_model("tiny-bert", precisions=[], out=tmp_path / "out", registry=tiny_registry)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("facts", "fault"),
    [
        ({"dim": 32}, r"config\.json: hidden_size is 16, the registry's entry of mine says 32"),
        (
            {"network": "mpnet"},
            r"config\.json: model_type is 'bert', the registry's entry of mine says 'mpnet'",
        ),
        (
            {"max_length": 41},
            r"mine: roles\.query\.max_length is 41 \(the registry's entry of mine\); the checkpoint's "
            r"position table serves 40 tokens",
        ),
    ],
)
def test_an_entry_that_contradicts_the_checkpoint_is_refused(
    tmp_path: Path, checkpoints: dict[str, Path], facts: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ExportError, match=fault):
        export_model(
            "mine",
            source=str(checkpoints["tiny-bert"]),
            out=tmp_path / "out",
            registry=entry(tmp_path, **facts),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["entry.yaml"]


@pytest.mark.parametrize(("name", "longest"), [("tiny-bert", 40), ("tiny-mpnet", 40)])
def test_the_longest_texts_of_the_position_table_are_served(
    tmp_path: Path, checkpoints: dict[str, Path], name: str, longest: int
) -> None:
    network = name.removeprefix("tiny-")
    registry = entry(tmp_path, network=network, max_length=longest)
    bundle = export_model("mine", source=str(checkpoints[name]), out=tmp_path / "out", registry=registry)
    with Encoder(bundle.directory) as encoder:
        encoder.encode(["the " * 100], role="query")
        assert encoder.last_stats is not None
        assert encoder.last_stats.tokens == longest
    registry = entry(tmp_path, network=network, max_length=longest + 1)
    with pytest.raises(ExportError, match="serves 40 tokens"):
        export_model("mine", source=str(checkpoints[name]), out=tmp_path / "out", registry=registry)


def test_a_pooling_that_nothing_names_is_part_of_a_checkpoint(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    checkpoint = shutil.copytree(checkpoints["tiny-bert"], tmp_path / "checkpoint")
    (checkpoint / "1_Pooling").mkdir()
    (checkpoint / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}', encoding="utf-8")
    with pytest.raises(
        SourceError, match=r"1_Pooling/config\.json: modules\.json, which should name it, is miss"
    ):
        export_model("mine", source=str(checkpoint), out=tmp_path / "out", registry=entry(tmp_path))


def test_another_models_tokenizer_is_refused(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    checkpoint = write_tiny_bert(tmp_path / "checkpoint", vocab_size=60)
    shutil.copyfile(checkpoints["tiny-bert"] / "tokenizer.json", checkpoint / "tokenizer.json")
    with pytest.raises(
        SourceError,
        match=r"the tokenizer gives '\S+' the id \d+, and the weights have 60 rows \(config\.json: vocab",
    ):
        export_model("mine", source=str(checkpoint), out=tmp_path / "out", registry=entry(tmp_path))


def test_pairs_need_a_second_token_type(tmp_path: Path, tiny_registry: Registry) -> None:
    checkpoint = write_tiny_bert(tmp_path / "checkpoint", type_vocab_size=1)
    with pytest.raises(
        SourceError, match=r"the tokenizer gives token type 1, and the weights have 1 of them"
    ):
        export_model("tiny-bert", source=str(checkpoint), out=tmp_path / "out", registry=tiny_registry)


MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


def sentence_checkpoint(
    source: Path, target: Path, pooling: dict[str, Any], modules: list[dict[str, Any]] = MODULES
) -> Path:
    """A checkpoint as sentence-transformers writes it."""
    shutil.copytree(source, target)
    (target / "1_Pooling").mkdir()
    (target / "1_Pooling" / "config.json").write_text(
        json.dumps({"embedding_dimension": 16, **pooling}), encoding="utf-8"
    )
    (target / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    limits = {"max_seq_length": 12, "do_lower_case": False}
    (target / "sentence_bert_config.json").write_text(json.dumps(limits), encoding="utf-8")
    return target


@pytest.mark.parametrize(
    ("pooling", "modules", "facts", "fault"),
    [
        ({"pooling_mode_cls_token": True}, MODULES, {}, None),
        ({"pooling_mode": "cls"}, MODULES, {}, None),
        (
            {"pooling_mode": "mean"},
            MODULES,
            {},
            r"1_Pooling/config\.json: pooling_mode is 'mean', the registry's entry of mine says 'cls'; if "
            r"the entry means it, add it there: overrides: \[pooling\]",
        ),
        (
            {"pooling_mode": ["cls", "mean"]},
            MODULES,
            {},
            r"pooling_mode is 'cls\+mean', the registry's entry",
        ),
        (
            {"pooling_mode": "cls"},
            MODULES[:2],
            {},
            r"modules\.json: Normalize at the end is False, the registry's entry of mine says True",
        ),
        (
            {"pooling_mode": "cls"},
            MODULES,
            {"normalize": "false"},
            r"modules\.json: Normalize at the end is True, the registry's entry of mine says False",
        ),
        (
            {"pooling_mode": "cls"},
            MODULES,
            {"max_length": 13},
            r"sentence_bert_config\.json: max_seq_length is 12, the registry's entry of mine says 13",
        ),
        ({"pooling_mode": "mean"}, MODULES, {"overrides": "[pooling]"}, None),
        ({"pooling_mode": "cls"}, MODULES[:2], {"overrides": "[normalize]"}, None),
        ({"pooling_mode": "cls"}, MODULES, {"max_length": 13, "overrides": "[max_length]"}, None),
        ({"pooling_mode": "mean"}, MODULES, {"overrides": "[normalize]"}, r"pooling_mode is 'mean'"),
    ],
)
def test_what_an_entry_says_otherwise_is_meant_or_an_error_that_names_both_places(
    tmp_path: Path,
    checkpoints: dict[str, Path],
    pooling: dict[str, Any],
    modules: list[dict[str, Any]],
    facts: dict[str, Any],
    fault: str | None,
) -> None:
    source = sentence_checkpoint(checkpoints["tiny-bert"], tmp_path / "checkpoint", pooling, modules)
    registry = entry(tmp_path, **facts)

    def export() -> Bundle:
        return export_model("mine", source=str(source), out=tmp_path / "out", registry=registry)

    if fault is None:
        contract = export().manifest.contract
        assert (contract.pooling, contract.normalize) == ("cls", True)
        assert contract.roles["query"].max_length == facts.get("max_length", 12)
    else:
        with pytest.raises(ExportError, match=fault):
            export()
        assert not (tmp_path / "out").exists()


def test_an_entry_may_leave_everything_to_the_checkpoint(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    source = sentence_checkpoint(
        checkpoints["tiny-bert"], tmp_path / "checkpoint", {"pooling_mode": "max"}, MODULES[:2]
    )
    (tmp_path / "mine.yaml").write_text("models: {mine: {license: mit}}", encoding="utf-8")
    registry = load_registry(tmp_path / "mine.yaml")
    manifest = export_model("mine", source=str(source), out=tmp_path / "out", registry=registry).manifest
    contract = manifest.contract
    assert (contract.network, contract.dim, contract.pooling) == ("bert", 16, "max")
    assert not contract.normalize
    assert contract.roles == {"query": Role(12), "passage": Role(12)}
    assert manifest.origins == {
        "network": "config.json: model_type",
        "pooling": "1_Pooling/config.json: pooling_mode",
        "normalize": "modules.json: Normalize at the end",
        "dim": "config.json: hidden_size",
        "roles.query.max_length": "sentence_bert_config.json: max_seq_length",
        "roles.passage.max_length": "sentence_bert_config.json: max_seq_length",
        "tokenizer": "BertTokenizer (config.json: model_type)",
    }


def test_the_fingerprint_counts_the_layers(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    """The same weights, but fewer of their layers used, are another model."""
    model = entry(tmp_path)["mine"]
    first = agree("mine", model, read_facts(checkpoints["tiny-bert"]), "native").contract
    checkpoint = shutil.copytree(checkpoints["tiny-bert"], tmp_path / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    config["num_hidden_layers"] = 1
    (checkpoint / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert agree("mine", model, read_facts(checkpoint), "native").contract != first
