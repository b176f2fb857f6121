"""What a checkpoint says and is not exported is refused, with file and key, and leaves nothing behind."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from paritas.errors import ExportError, SourceError
from paritas.export import export_model
from tests.parity.fact_edits import (
    BACKEND,
    CONFIG,
    MODEL,
    POOLING,
    SENTENCE,
    Edit,
    both,
    change,
    control,
    dense,
    inside,
    modules,
    remove,
    write,
)

REFUSED: dict[str, tuple[Edit, str]] = {
    "split_special_tokens": (
        change(CONFIG, split_special_tokens=True),
        "tokenizer_config.json: split_special_tokens is True",
    ),
    "do_lower_case null": (
        change(CONFIG, do_lower_case=None),
        "tokenizer_config.json: do_lower_case is None; expected true",
    ),
    "tokenizer_file": (
        change(CONFIG, tokenizer_file="other.json"),
        "tokenizer_config.json: tokenizer_file is 'other.json'",
    ),
    "truncation_side": (
        change(CONFIG, truncation_side="middle"),
        "truncation_side is 'middle'; expected left or right",
    ),
    "model_input_names": (
        change(CONFIG, model_input_names=["input_ids"]),
        "tokenizer_config.json: model_input_names is",
    ),
    "another unknown token": (
        inside(BACKEND, "model", "unk_token", value="a"),
        "tokenizer.json: model.unk_token is 'a'",
    ),
    "shorter words": (
        inside(BACKEND, "model", "max_input_chars_per_word", value=4),
        "tokenizer.json: model.max_input_chars_per_word is 4",
    ),
    "another normalizer": (
        inside(BACKEND, "normalizer", value={"type": "NFC"}),
        "tokenizer.json: normalizer.type is 'NFC'",
    ),
    "no normalizer": (inside(BACKEND, "normalizer", value=None), "tokenizer.json: normalizer.type is None"),
    "another pre-tokenizer": (
        inside(BACKEND, "pre_tokenizer", value={"type": "WhitespaceSplit"}),
        "tokenizer.json: pre_tokenizer.type is 'WhitespaceSplit'",
    ),
    "no special tokens around": (
        inside(BACKEND, "post_processor", value=None),
        "tokenizer.json: post_processor puts",
    ),
    "another cls_token": (change(CONFIG, cls_token="a"), "tokenizer.json: post_processor puts"),
    "a token that only transformers 5 adds": (
        change(CONFIG, image_token="newtok"),
        "the added token 'newtok' is no token",
    ),
    "a token past the weights": (
        change("config.json", vocab_size=60),
        "vocab_size); give the tokenizer that belongs to the weights",
    ),
    "added tokens past the weights": (
        change("added_tokens.json", **{f"newtok{n}": 200 + n for n in range(60)}),
        "rows (config.json: vocab_size)",
    ),
    "an adapter": (
        lambda d: write(d, "adapter_config.json", {}),
        "adapter_config.json: an adapter changes the weights",
    ),
    "pruned heads": (
        change("config.json", pruned_heads={"0": [1]}),
        "config.json: pruned_heads is {'0': [1]}",
    ),
    "another activation": (change("config.json", hidden_act="relu"), "config.json: hidden_act is 'relu'"),
    "relative positions": (
        change("config.json", position_embedding_type="relative_key"),
        "config.json: position_embedding_type is 'relative_key'",
    ),
    "a decoder": (change("config.json", is_decoder=True), "config.json: is_decoder is True"),
    "another model type": (
        change(MODEL, model_type="SparseEncoder"),
        "model_type is 'SparseEncoder'; expected",
    ),
    "another task": (
        change(SENTENCE, transformer_task="fill-mask"),
        "sentence_bert_config.json: transformer_task is 'fill-",
    ),
    "an unknown key": (change(SENTENCE, wings=2), "sentence_bert_config.json: unknown key 'wings'; expected"),
    "arguments": (change(SENTENCE, config_args={"hidden_act": "relu"}), "config_args.hidden_act is 'relu'"),
    "longer than the positions": (change(SENTENCE, max_seq_length=41), "position table serves 40 tokens"),
    "an unknown pooling": (
        change(POOLING, pooling_mode="MEAN"),
        "1_Pooling/config.json: pooling_mode is 'MEAN'; expected",
    ),
    "an unknown pooling key": (
        change(POOLING, wings=True),
        "1_Pooling/config.json: unknown key 'wings'; expected",
    ),
    "an unknown module": (
        lambda d: modules(d, "Pooling:1_Pooling", "CNN:2_CNN"),
        "modules.json: the modules are",
    ),
    "a module before pooling": (
        lambda d: modules(d, "Dense:2_Dense", "Pooling:1_Pooling"),
        "modules.json: the modules are",
    ),
    "code of its own": (
        lambda d: write(d, "modules.json", [{"name": "0", "path": "", "type": "mine.Transformer"}]),
        "code that comes with a checkpoint is never run",
    ),
    "a module outside": (
        lambda d: modules(d, "Pooling:../1_Pooling"),
        "path is '../1_Pooling'; expected a folder",
    ),
    "modules.json is missing": (remove("modules.json"), "modules.json, which should name it, is missing"),
    "a residual": (
        both(dense(None), change("2_Dense/config.json", use_residual=True)),
        "use_residual is True",
    ),
    "an unknown activation": (
        dense("transformers.activations.NewGELU"),
        "2_Dense/config.json: activation_function is 'transformers.activations.NewGELU'; expected one of",
    ),
    "a Dense of token vectors": (
        both(dense(None), change("2_Dense/config.json", module_input_name="token_embeddings")),
        "2_Dense/config.json: module_input_name is 'token_embeddings'; expected 'sentence_embedding'",
    ),
    "weights of another shape": (
        both(dense(None), change("2_Dense/config.json", in_features=15)),
        "config.json asks for",
    ),
    "an unknown similarity": (
        change(MODEL, similarity_fn_name="maxsim"),
        "similarity_fn_name is 'maxsim'; expected one",
    ),
    "a default prompt that is not there": (
        change(MODEL, default_prompt_name="x"),
        "default_prompt_name is 'x'; expected",
    ),
    "prompts of another kind": (
        change(MODEL, prompts=["query: "]),
        "config_sentence_transformers.json: prompts is",
    ),
    "no width": (change(MODEL, truncate_dim=0), "truncate_dim is 0; expected a positive number"),
    "a newer tokenizer.json": (
        inside(BACKEND, "model", "type", value="Telepathy"),
        "tokenizer.json: tokenizers ",
    ),
    "both spellings of a norm": (
        lambda d: save_file(
            {
                **load_file(d / "model.safetensors"),
                "embeddings.LayerNorm.gamma": np.ones(16, np.float32),
            },
            d / "model.safetensors",
            metadata={"format": "pt"},
        ),
        "'embeddings.LayerNorm.gamma'",
    ),
    "weights under another name": (
        lambda d: save_file(
            {f"encoder.bert.{name}": value for name, value in load_file(d / "model.safetensors").items()},
            d / "model.safetensors",
            metadata={"format": "pt"},
        ),
        "encoder.bert.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_exported_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    edit, message = REFUSED[name]
    directory = control(tmp_path / "checkpoint")
    edit(directory)
    with pytest.raises((ExportError, SourceError), match=re.escape(message)) as caught:
        export_model(directory, out=tmp_path / "bundle")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
