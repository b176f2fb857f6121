"""Requests and registry entries that do not fit the checkpoint."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paritas.engine.bundle import Bundle
from paritas.engine.encoder import Encoder
from paritas.errors import ExportError, RegistryError, SourceError
from paritas.export import export_model
from paritas.export.contract import contract_of
from paritas.registry import (
    Registry,
)
from tests.unit.export.entries import entry
from tests.unit.tiny import write_tiny_bert


def test_an_unknown_model_is_answered_with_the_nearest(tmp_path: Path, tiny_registry: Registry) -> None:
    with pytest.raises(RegistryError, match="unknown model 'tiny-brt'; did you mean 'tiny-bert'"):
        export_model("tiny-brt", out=tmp_path / "out", registry=tiny_registry)


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
            r"mine: roles\.query\.max_length is 41; the checkpoint's position table serves 40 tokens",
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


def test_a_pooling_that_contradicts_the_checkpoints_own_is_refused(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(checkpoints["tiny-bert"], checkpoint)
    (checkpoint / "1_Pooling").mkdir()
    stated = {
        "word_embedding_dimension": 16,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
    }
    (checkpoint / "1_Pooling" / "config.json").write_text(json.dumps(stated), encoding="utf-8")
    with pytest.raises(
        ExportError, match=r"the checkpoint pools by mean, the registry's entry of mine says 'cls'"
    ):
        export_model("mine", source=str(checkpoint), out=tmp_path / "out", registry=entry(tmp_path))
    registry = entry(tmp_path, pooling="mean")
    bundle = export_model("mine", source=str(checkpoint), out=tmp_path / "out", registry=registry)
    assert bundle.manifest.contract.pooling == "mean"


def test_another_models_tokenizer_is_refused(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    checkpoint = write_tiny_bert(tmp_path / "checkpoint", vocab_size=60)
    shutil.copyfile(checkpoints["tiny-bert"] / "tokenizer.json", checkpoint / "tokenizer.json")
    with pytest.raises(
        SourceError, match=r"tokenizer\.json gives token id \d+, and the weights have 60 of them"
    ):
        export_model("mine", source=str(checkpoint), out=tmp_path / "out", registry=entry(tmp_path))


def test_pairs_need_a_second_token_type(tmp_path: Path, tiny_registry: Registry) -> None:
    checkpoint = write_tiny_bert(tmp_path / "checkpoint", type_vocab_size=1)
    with pytest.raises(
        SourceError, match=r"tokenizer\.json gives token type 1, and the weights have 1 of them"
    ):
        export_model("tiny-bert", source=str(checkpoint), out=tmp_path / "out", registry=tiny_registry)


@pytest.mark.parametrize(
    ("file", "stated", "fault"),
    [
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True, "include_prompt": True}, None),
        ("1_Pooling/config.json", {"pooling_mode": "cls", "include_prompt": True}, None),
        ("1_Pooling/config.json", {"pooling_mode": "mean"}, "pools by mean"),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, "pools by cls, mean"),
        ("modules.json", [{"type": "a.Transformer"}, {"type": "b.Pooling"}, {"type": "c.Normalize"}], None),
        (
            "modules.json",
            [{"type": "a.Transformer"}, {"type": "b.Pooling"}, {"type": "c.Dense"}],
            "with Dense",
        ),
        ("modules.json", [{"type": "a.Transformer"}, {"type": "b.Pooling"}], "does not end in Normalize"),
        ("modules.json", {"not": "a list"}, "cannot be read"),
    ],
)
def test_what_follows_the_network_must_be_what_is_exported(
    tmp_path: Path,
    checkpoints: dict[str, Path],
    tiny_registry: Registry,
    file: str,
    stated: object,
    fault: str | None,
) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(checkpoints["tiny-bert"], checkpoint)
    (checkpoint / file).parent.mkdir(exist_ok=True)
    (checkpoint / file).write_text(json.dumps(stated), encoding="utf-8")

    def export() -> Bundle:
        return export_model("tiny-bert", source=str(checkpoint), out=tmp_path / "out", registry=tiny_registry)

    if fault is None:
        export().verify()
    else:
        with pytest.raises(ExportError, match=fault):
            export()


def test_vectors_that_the_checkpoint_leaves_as_they_are_stay_so(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    checkpoint = shutil.copytree(checkpoints["tiny-bert"], tmp_path / "checkpoint")
    modules = [{"type": "a.Transformer"}, {"type": "b.Pooling"}]
    (checkpoint / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    registry = entry(tmp_path, normalize="false")
    bundle = export_model("mine", source=str(checkpoint), out=tmp_path / "out", registry=registry)
    with Encoder(bundle.directory) as encoder:
        assert np.linalg.norm(encoder.encode(["the ferry"], role="query")) > 1.1
    modules.append({"type": "c.Normalize"})
    (checkpoint / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(
        ExportError, match=r"ends in Normalize, the registry's entry of mine says normalize: f"
    ):
        export_model("mine", source=str(checkpoint), out=tmp_path / "out", registry=registry)


def test_the_fingerprint_counts_the_layers(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    """The same weights, but fewer of their layers used, are another model."""
    first = contract_of("mine", entry(tmp_path)["mine"], checkpoints["tiny-bert"], "native")
    checkpoint = shutil.copytree(checkpoints["tiny-bert"], tmp_path / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    config["num_hidden_layers"] = 1
    (checkpoint / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert contract_of("mine", entry(tmp_path)["mine"], checkpoint, "native") != first


@pytest.mark.parametrize(
    ("stated", "fault"),
    [
        ({"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}, None),
        ({"model_max_length": 512}, None),
        ({"do_lower_case": False}, "do_lower_case is False, but tokenizer.json has lowercase: True"),
        ({"strip_accents": False}, "strip_accents is False, but tokenizer.json has strip_accents: None"),
        (
            {"tokenize_chinese_chars": False},
            "tokenize_chinese_chars is False, but tokenizer.json has handle_chinese_chars: True",
        ),
    ],
)
def test_two_words_for_the_tokenizer_must_agree(
    tmp_path: Path, checkpoints: dict[str, Path], stated: dict[str, object], fault: str | None
) -> None:
    """transformers would follow tokenizer_config.json, and its vectors would be of other tokens."""
    checkpoint = shutil.copytree(checkpoints["tiny-bert"], tmp_path / "checkpoint")
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(stated), encoding="utf-8")
    model = entry(tmp_path)["mine"]
    if fault is None:
        contract_of("mine", model, checkpoint, "native")
    else:
        with pytest.raises(ExportError, match=re.escape(fault)):
            contract_of("mine", model, checkpoint, "native")
