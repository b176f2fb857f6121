"""Each fact of a checkpoint counts, or is refused (test_facts_refused.py): there is no third outcome.

A row is a tiny checkpoint that differs from the control in one fact. Its vectors are those of
sentence-transformers, computed here, and differ from the control's, or the row would show nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from paritas.engine.encoder import Encoder
from paritas.export import export_model
from tests.parity.fact_edits import (
    BACKEND,
    CONFIG,
    MODEL,
    NEWTOK,
    POOLING,
    SENTENCE,
    TEXTS,
    TOKENS,
    Edit,
    both,
    change,
    control,
    dense,
    in_a_folder,
    inside,
    layer_norm,
    modules,
    pickled,
    pooled_by,
    remove,
    stored_as,
    vocabulary_alone,
    write,
)

# sentence-transformers 5.7 says so of names that published checkpoints still have.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@dataclass(frozen=True)
class Row:
    """One fact."""

    edit: Edit
    roles: tuple[str, ...] = ("query", "passage")
    mpnet: bool = False
    same: bool = False
    """The vectors are the control's: the fact must change nothing."""


LOWERING = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": None,
    "lowercase": True,
}

ROWS = {
    # The tokenizer's class and case.
    "do_lower_case false": Row(change(CONFIG, do_lower_case=False)),
    "tokenizer.json cased, nothing said": Row(
        inside(BACKEND, "normalizer", "lowercase", value=False), same=True
    ),
    "tokenizer.json keeps accents, nothing said": Row(
        inside(BACKEND, "normalizer", "strip_accents", value=False), same=True
    ),
    "no tokenizer_config.json": Row(
        both(remove(CONFIG), inside(BACKEND, "normalizer", "lowercase", value=False)), same=True
    ),
    "strip_accents false": Row(change(CONFIG, strip_accents=False)),
    "tokenize_chinese_chars false": Row(change(CONFIG, tokenize_chinese_chars=False)),
    "case in special_tokens_map.json": Row(change(TOKENS, do_lower_case=False)),
    "tokenizer.json alone, cased": Row(
        both(
            change(CONFIG, tokenizer_class="PreTrainedTokenizerFast", do_lower_case=True),
            inside(BACKEND, "normalizer", "lowercase", value=False),
        )
    ),
    "tokenizer.json alone, lowered twice": Row(
        both(
            change(CONFIG, tokenizer_class="PreTrainedTokenizerFast"),
            inside(
                BACKEND,
                "normalizer",
                value={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
            ),
        )
    ),
    "class named in config.json": Row(
        both(
            change(CONFIG, tokenizer_class=...),
            change("config.json", tokenizer_class="PreTrainedTokenizerFast"),
            inside(BACKEND, "normalizer", "lowercase", value=False),
        )
    ),
    "vocab.txt alone": Row(vocabulary_alone, same=True),
    "vocab.txt alone, cased": Row(both(vocabulary_alone, change(CONFIG, do_lower_case=False))),
    "MPNet, cased": Row(change(CONFIG, do_lower_case=False), mpnet=True),
    "MPNet, accents": Row(change(CONFIG, strip_accents=False), mpnet=True),
    "MPNet, vocab.txt alone": Row(vocabulary_alone, mpnet=True, same=True),
    # Added tokens.
    "added_tokens.json": Row(change("added_tokens.json", newtok=126)),
    "additional special tokens": Row(change(CONFIG, additional_special_tokens=["newtok"])),
    "special_tokens_map.json": Row(change(TOKENS, additional_special_tokens=["newtok", "a"])),
    "added_tokens_decoder": Row(change(CONFIG, added_tokens_decoder={"126": {**NEWTOK, "special": True}})),
    "an added token between words": Row(
        change(CONFIG, added_tokens_decoder={"126": {**NEWTOK, "single_word": True}})
    ),
    "an added token in any letters": Row(
        change(CONFIG, added_tokens_decoder={"126": {**NEWTOK, "normalized": True}})
    ),
    "a token with a name": Row(change(CONFIG, bos_token="newtok")),
    "tokenizer.json's added tokens": Row(
        inside(
            BACKEND,
            "added_tokens",
            value=[
                {"id": 0, "special": True, **NEWTOK, "content": "[PAD]"},
                {"id": 126, "special": False, **NEWTOK},
            ],
        )
    ),
    # Lengths.
    "truncation_side": Row(change(CONFIG, truncation_side="left")),
    "tokenizer.json cuts from the left": Row(
        inside(
            BACKEND,
            "truncation",
            value={"direction": "Left", "max_length": 7, "strategy": "OnlyFirst", "stride": 2},
        )
    ),
    "max_seq_length": Row(change(SENTENCE, max_seq_length=9)),
    "model_max_length": Row(both(remove(SENTENCE), change(CONFIG, model_max_length=11))),
    "positions alone": Row(both(remove(SENTENCE), change(CONFIG, model_max_length=...))),
    "an older name": Row(
        both(remove(SENTENCE), lambda d: write(d, "sentence_roberta_config.json", {"max_seq_length": 8}))
    ),
    "processor's arguments": Row(change(SENTENCE, tokenizer_args={"model_max_length": 10})),
    # sentence-transformers' own.
    "its do_lower_case": Row(
        both(
            change(SENTENCE, do_lower_case=True),
            change(CONFIG, do_lower_case=False, strip_accents=False),
        )
    ),
    "prompts": Row(
        change(MODEL, prompts={"query": "why: ", "document": "the city: ", "title": "how "}),
        roles=("query", "passage", "document", "title"),
    ),
    "a default prompt": Row(
        change(MODEL, prompts={"title": "how is "}, default_prompt_name="title"), roles=("title",)
    ),
    "a default prompt for queries": Row(
        change(MODEL, prompts={"query": "why "}, default_prompt_name="query"), roles=("query",)
    ),
    "its Lowercase, saved without the key": Row(
        inside(
            BACKEND,
            "normalizer",
            value={"type": "Sequence", "normalizers": [{"type": "Lowercase"}, LOWERING]},
        ),
        same=True,
    ),
    "its do_lower_case, saved by itself": Row(
        both(
            change(SENTENCE, do_lower_case=True),
            inside(
                BACKEND,
                "normalizer",
                value={
                    "type": "Sequence",
                    "normalizers": [{"type": "Lowercase"}, LOWERING],
                },
            ),
        ),
        same=True,
    ),
    "a prompt that is not pooled": Row(
        both(
            change(MODEL, prompts={"query": "why is: ", "document": "the city "}),
            change(POOLING, include_prompt=False),
        )
    ),
    "first token after the prompt": Row(
        both(
            change(MODEL, prompts={"query": "why is: ", "document": "the city "}),
            pooled_by("cls", include_prompt=False),
        )
    ),
    "cls": Row(pooled_by("cls")),
    "max": Row(pooled_by("max")),
    "mean_sqrt_len_tokens": Row(
        both(pooled_by("mean_sqrt_len_tokens"), lambda d: modules(d, "Pooling:1_Pooling"))
    ),
    "weightedmean": Row(pooled_by("weightedmean")),
    "lasttoken": Row(pooled_by("lasttoken")),
    "several poolings": Row(pooled_by("max", "cls", "mean")),
    "flags in their own order": Row(
        lambda d: write(
            d,
            POOLING,
            {
                "word_embedding_dimension": 16,
                "pooling_mode_mean_tokens": True,
                "pooling_mode_cls_token": True,
                "pooling_mode_max_tokens": False,
            },
        )
    ),
    "no pooling named": Row(lambda d: write(d, POOLING, {"word_embedding_dimension": 16}), same=True),
    "no Normalize": Row(lambda d: modules(d, "Pooling:1_Pooling")),
    "Dropout": Row(
        both(
            lambda d: modules(d, "Pooling:1_Pooling", "Dropout:2_Dropout", "Normalize:3_Normalize"),
            lambda d: write(d, "2_Dropout/config.json", {"dropout": 0.5}),
        ),
        same=True,
    ),
    "Dense": Row(dense("torch.nn.modules.activation.Tanh")),
    "Dense, no activation named": Row(dense(None, bias=False)),
    "Dense, identity": Row(dense("torch.nn.modules.linear.Identity")),
    "Dense, gelu": Row(dense("torch.nn.modules.activation.GELU")),
    "Dense after two poolings": Row(
        both(dense("torch.nn.modules.activation.ReLU", width=32), pooled_by("mean", "cls"))
    ),
    "LayerNorm": Row(layer_norm),
    "Normalize before LayerNorm": Row(
        both(
            layer_norm,
            lambda d: modules(
                d, "Pooling:1_Pooling", "Normalize:3_N", "LayerNorm:2_LayerNorm", "Normalize:4_N"
            ),
        )
    ),
    "Normalize before Dense alone": Row(
        both(
            dense("torch.nn.Identity"),
            lambda d: modules(d, "Pooling:1_Pooling", "Normalize:3_N", "Dense:2_Dense"),
        )
    ),
    "truncate_dim": Row(change(MODEL, truncate_dim=5)),
    "truncate_dim wider than the vectors": Row(change(MODEL, truncate_dim=500), same=True),
    "a folder of its own": Row(in_a_folder, same=True),
    # Weights.
    "pytorch_model.bin": Row(pickled),
    "parameters in pytorch_model.bin": Row(lambda d: pickled(d, parameters=True)),
    "pytorch_model.bin in shards": Row(lambda d: pickled(d, shards=3)),
    "float16": Row(stored_as("float16")),
    "bfloat16": Row(stored_as("bfloat16")),
}


def theirs(directory: Path, role: str) -> NDArray[np.float32]:
    """sentence-transformers' vectors, each text by itself."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(directory), device="cpu", local_files_only=True)
    if role == "query":
        found = model.encode_query(TEXTS, batch_size=1)
    elif role == "passage":
        found = model.encode_document(TEXTS, batch_size=1)
    else:
        found = model.encode(TEXTS, batch_size=1, prompt_name=role)
    return np.asarray(found, np.float32)


@pytest.fixture(scope="module")
def controls(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, NDArray[np.float32]]:
    """The controls' vectors, by whether the network is MPNet."""
    return {
        mpnet: theirs(control(tmp_path_factory.mktemp("control") / "checkpoint", mpnet=mpnet), "query")
        for mpnet in (False, True)
    }


@pytest.mark.parametrize("name", ROWS)
def test_a_fact_counts(name: str, tmp_path: Path, controls: dict[bool, NDArray[np.float32]]) -> None:
    row = ROWS[name]
    directory = control(tmp_path / "checkpoint", mpnet=row.mpnet)
    row.edit(directory)
    bundle = export_model(directory, out=tmp_path / "bundle")
    for role in row.roles:
        expected = theirs(directory, role)
        with Encoder(bundle, cache=False) as encoder:
            found = encoder.encode(TEXTS, role=role)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))
        before = controls[row.mpnet]
        differs = expected.shape != before.shape or np.abs(expected - before).max() > 1e-4
        assert differs != row.same


def test_a_role_without_a_prompt_has_the_default_one(tmp_path: Path) -> None:
    """As `encode` has it, which most people call."""
    from sentence_transformers import SentenceTransformer

    directory = control(tmp_path / "checkpoint")
    change(MODEL, prompts={"title": "how is "}, default_prompt_name="title")(directory)
    bundle = export_model(directory, out=tmp_path / "bundle")
    expected = SentenceTransformer(str(directory), device="cpu").encode(TEXTS, batch_size=1)
    for role in ("query", "passage"):
        found = Encoder(bundle, cache=False).encode(TEXTS, role=role)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["query", "document", "passage"])
def test_a_default_prompt_of_one_side_is_not_for_the_other(name: str, tmp_path: Path) -> None:
    directory = control(tmp_path / "checkpoint")
    change(MODEL, prompts={name: "why "}, default_prompt_name=name)(directory)
    roles = export_model(directory, out=tmp_path / "bundle").manifest.contract.roles
    expected = {"query": {"query"}, "document": {"document", "passage"}, "passage": {"passage"}}[name]
    assert {role for role, rule in roles.items() if rule.prompt} == expected
