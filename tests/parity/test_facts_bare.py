"""Checkpoints of transformers, which say nothing of pooling: with an entry, with --pooling, with neither."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from paritas.engine.encoder import Encoder
from paritas.errors import ExportError, ParitasError
from paritas.export import export_model
from paritas.registry import load_registry
from tests.parity.fact_edits import (
    BACKEND,
    CONFIG,
    MODEL,
    POOLING,
    SENTENCE,
    TEXTS,
    change,
    control,
    inside,
)
from tests.parity.pytorch import pytorch_vectors

PAIRS = [
    ("the ferry", "leaves in the morning"),
    ("-", "why is the sky blue"),
    ("the city " * 9, "of the river " * 9),
]
ENTRY = """
models:
  mine:
    pooling: cls
    roles:
      query: {max_length: 12}
      passage: {max_length: 20, pair: true, default_title: "-"}
"""
TRANSFORMERS = {
    "as it is": lambda d: None,
    "no token types": change(CONFIG, model_input_names=["input_ids", "attention_mask"]),
    "cut from the left": change(CONFIG, truncation_side="left"),
    "DistilBERT's tokenizer": change(CONFIG, tokenizer_class="DistilBertTokenizer"),
    "tokenizer.json alone": change(
        CONFIG,
        tokenizer_class="PreTrainedTokenizerFast",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ),
}


def bare(directory: Path) -> Path:
    control(directory)
    for name in ("modules.json", SENTENCE, MODEL):
        (directory / name).unlink()
    (directory / POOLING).unlink()
    (directory / "1_Pooling").rmdir()
    return directory


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_checkpoint_of_transformers_with_an_entry(name: str, tmp_path: Path) -> None:
    directory = bare(tmp_path / "checkpoint")
    TRANSFORMERS[name](directory)
    (tmp_path / "entry.yaml").write_text(ENTRY, encoding="utf-8")
    registry = load_registry(tmp_path / "entry.yaml")
    bundle = export_model("mine", source=str(directory), out=tmp_path / "bundle", registry=registry)
    with Encoder(bundle, cache=False) as encoder:
        for role, texts in (("query", TEXTS), ("passage", [*TEXTS, *PAIRS])):
            expected = pytorch_vectors(directory, encoder.contract, role, texts)
            np.testing.assert_allclose(encoder.encode(texts, role=role), expected, rtol=0, atol=1e-5)


def test_token_types_of_pairs_that_two_releases_read_differently_are_refused(tmp_path: Path) -> None:
    directory = bare(tmp_path / "checkpoint")
    change(CONFIG, tokenizer_class="PreTrainedTokenizerFast")(directory)
    (tmp_path / "entry.yaml").write_text(ENTRY, encoding="utf-8")
    registry = load_registry(tmp_path / "entry.yaml")
    with pytest.raises(ExportError, match=r"tokenizer_config\.json: model_input_names is missing"):
        export_model("mine", source=str(directory), out=tmp_path / "bundle", registry=registry)
    export_model(directory, pooling="mean", out=tmp_path / "bundle")  # no pairs, no doubt


def test_pairs_that_two_releases_surround_differently_are_refused_where_there_are_any(tmp_path: Path) -> None:
    directory = bare(tmp_path / "checkpoint")
    inside(BACKEND, "post_processor", "pair", 2, "SpecialToken", "id", value="[CLS]")(directory)
    (tmp_path / "entry.yaml").write_text(ENTRY, encoding="utf-8")
    registry = load_registry(tmp_path / "entry.yaml")
    with pytest.raises(
        ExportError, match=r"tokenizer\.json: post_processor puts .* around pairs, which transformers 4"
    ):
        export_model("mine", source=str(directory), out=tmp_path / "bundle", registry=registry)
    export_model(directory, pooling="mean", out=tmp_path / "bundle")


@pytest.mark.parametrize("pooling", ["cls", "mean", "max+mean"])
def test_a_checkpoint_without_pooling_takes_the_callers(pooling: str, tmp_path: Path) -> None:
    directory = bare(tmp_path / "checkpoint")
    bundle = export_model(directory, pooling=pooling, out=tmp_path / "bundle")
    assert bundle.manifest.contract.pooling == pooling
    assert bundle.manifest.origins["pooling"] == "--pooling"
    assert {rule.max_length for rule in bundle.manifest.contract.roles.values()} == {40}


def test_a_checkpoint_without_pooling_asks_for_it(tmp_path: Path) -> None:
    directory = bare(tmp_path / "checkpoint")
    with pytest.raises(
        ExportError, match=r"modules\.json is missing.*; type: --pooling cls, or one of max, mean"
    ):
        export_model(directory, out=tmp_path / "bundle")
    with pytest.raises(
        ExportError, match=r"--pooling: pooling is 'men'; expected one of .*; did you mean 'mean'"
    ):
        export_model(directory, pooling="men", out=tmp_path / "bundle")


def test_a_pooling_that_contradicts_the_checkpoint_is_refused(tmp_path: Path) -> None:
    directory = control(tmp_path / "checkpoint")
    with pytest.raises(
        ParitasError, match=r"1_Pooling/config\.json: pooling_mode_mean_tokens is 'mean', --pooling says"
    ):
        export_model(directory, pooling="cls", out=tmp_path / "bundle")
    assert (
        export_model(directory, pooling="mean", out=tmp_path / "bundle").manifest.contract.pooling == "mean"
    )
