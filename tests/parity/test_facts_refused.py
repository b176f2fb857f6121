"""What a checkpoint says and is not exported is refused, with file and key, and leaves nothing behind."""

from __future__ import annotations

import json
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
    NEWTOK,
    POOLING,
    SENTENCE,
    TOKENS,
    Edit,
    both,
    change,
    control,
    dense,
    inside,
    modules,
    pickled,
    remove,
    vocabulary_alone,
    write,
)


def _forget_one(directory: Path) -> None:
    path = directory / "pytorch_model.bin.index.json"
    index = json.loads(path.read_text(encoding="utf-8"))
    del index["weight_map"]["embeddings.LayerNorm.bias"]
    path.write_text(json.dumps(index), encoding="utf-8")


REFUSED: dict[str, tuple[Edit, str]] = {
    "an added token in the letters of another normaliser": (
        both(
            inside(BACKEND, "normalizer", "lowercase", value=False),
            inside(
                BACKEND,
                "added_tokens",
                value=[{"id": 126, "special": False, **NEWTOK, "content": "Newtok", "normalized": True}],
            ),
        ),
        "the added token 'Newtok' is 'Newtok' by its normalizer, which transformers 4.57 matches",
    ),
    "an added token with two words for it": (
        both(
            inside(BACKEND, "added_tokens", value=[{"id": 126, "special": False, **NEWTOK}]),
            change(CONFIG, added_tokens_decoder={"126": {**NEWTOK, "normalized": True}}),
        ),
        "tokenizer.json: added_tokens: normalized of 'newtok' is False, tokenizer_config.json says True",
    ),
    "added tokens of another kind": (
        inside(BACKEND, "added_tokens", value=None),
        "tokenizer.json: added_tokens is None; expected a list",
    ),
    "a normaliser of another kind": (
        inside(BACKEND, "normalizer", value=[[]]),
        "tokenizer.json: normalizer.type is [[]]",
    ),
    "an activation of another kind": (
        both(dense(None), change("2_Dense/config.json", activation_function={"type": None})),
        "2_Dense/config.json: activation_function is {'type': None}",
    ),
    "arguments of another kind": (
        change(SENTENCE, model_args=["x"]),
        "sentence_bert_config.json: model_args is ['x']; expected an object",
    ),
    "half a character": (
        lambda d: (d / MODEL).write_text('{"prompts": {"query": "\\ud800"}}', encoding="utf-8"),
        "config_sentence_transformers.json: cannot be read as JSON",
    ),
    "two tokens of one id": (
        inside(BACKEND, "model", "vocab", "zzzz", value=46),
        "have one id, 46; expected ids that differ",
    ),
    "other weights": (
        change("config.json", transformers_weights="other.safetensors"),
        "config.json: transformers_weights is other.safetensors",
    ),
    "other configurations": (
        change("config.json", configuration_files=["config.4.0.0.json", "config.json"]),
        "config.json: configuration_files is",
    ),
    "keys under other names": (
        change("config.json", attribute_map={"num_attention_heads": "hh"}, hh=4),
        "config.json: attribute_map is",
    ),
    "quantised weights": (
        change("config.json", quantization_config={"load_in_8bit": True}),
        "config.json: quantization_config is",
    ),
    "causal attention": (change("config.json", is_causal=True), "config.json: is_causal is True"),
    "positions that two releases read differently": (
        change("config.json", position_embedding_type=None),
        "config.json: position_embedding_type is None",
    ),
    "a chunked layer": (change("config.json", chunk_size_feed_forward=4), "chunk_size_feed_forward is 4"),
    "model_type of another kind": (change("config.json", model_type=["bert"]), "model_type is ['bert']"),
    "no unknown token": (change(CONFIG, unk_token=None), "tokenizer_config.json: unk_token is null"),
    "an empty unknown token": (change(CONFIG, unk_token=""), "tokenizer_config.json: unk_token is empty"),
    "null among special tokens": (
        both(change(TOKENS, unk_token=None), remove(CONFIG)),
        "special_tokens_map.json: unk_token is null",
    ),
    "a number among special tokens": (
        change(CONFIG, cls_token=7),
        "tokenizer_config.json: cls_token: '7' is no token",
    ),
    "an unknown token that is not there": (
        both(vocabulary_alone, change(CONFIG, unk_token="[NONE]")),
        "tokenizer_config.json: unk_token is '[NONE]'; expected a token of the vocabulary",
    ),
    "another id beside vocab.txt": (
        both(
            vocabulary_alone,
            change(CONFIG, added_tokens_decoder={"60": {**NEWTOK, "content": "[CLS]", "special": True}}),
        ),
        "the added token '[CLS]' has the id 60 in the files beside vocab.txt, and 2 by it",
    ),
    "white space in vocab.txt": (
        both(vocabulary_alone, lambda d: (d / "vocab.txt").write_text("[PAD]\n[UNK] \n", encoding="utf-8")),
        "vocab.txt:2: '[UNK] ' ends in white space",
    ),
    "tokens of another kind": (
        change(CONFIG, added_tokens_decoder=None),
        "tokenizer_config.json: added_tokens_decoder is None; expected an object",
    ),
    "an id that is no number": (
        change(CONFIG, added_tokens_decoder={"x": NEWTOK}),
        "tokenizer_config.json: added_tokens_decoder: 'x' is no id",
    ),
    "special tokens as a string": (
        change(CONFIG, additional_special_tokens="newtok"),
        "tokenizer_config.json: additional_special_tokens is 'newtok'; expected a list",
    ),
    "inputs of another kind": (
        change(CONFIG, model_input_names=None),
        "tokenizer_config.json: model_input_names is None; expected a list",
    ),
    "a length as a string": (
        change(CONFIG, model_max_length="16"),
        "tokenizer_config.json: model_max_length is '16'; expected a positive number",
    ),
    "a length with no room": (
        change(SENTENCE, max_seq_length=2),
        "sentence_bert_config.json: max_seq_length is 2; expected 4 tokens or more",
    ),
    "a template of unknown tokens": (
        inside(BACKEND, "post_processor", "special_tokens", value={}),
        "tokenizer.json",
    ),
    "types that two releases give single texts differently": (
        both(
            change(CONFIG, tokenizer_class="PreTrainedTokenizerFast"),
            inside(BACKEND, "post_processor", "single", 1, "Sequence", "type_id", value=1),
        ),
        "tokenizer_config.json: model_input_names is missing",
    ),
    "a chat template without modules.json": (
        lambda d: (
            [(d / name).unlink() for name in ("modules.json", "1_Pooling/config.json")]
            and (d / "chat_template.jinja").write_text("{{ messages }}")
        ),
        "chat_template.jinja: sentence-transformers renders texts by it",
    ),
    "nested without end": (
        lambda d: (d / "config.json").write_text("[" * 100_000),
        "config.json: cannot be read as JSON",
    ),
    "a pooling that is null": (
        change(POOLING, pooling_mode=None),
        "pooling_mode is None; expected one or more",
    ),
    "no pooling in the list": (change(POOLING, pooling_mode=[]), "pooling_mode is []; expected one or more"),
    "pooling by a number": (change(POOLING, pooling_mode=1), "pooling_mode is 1; expected one or more"),
    "a pooling without width": (
        lambda d: write(d, POOLING, {"pooling_mode": "mean"}),
        "1_Pooling/config.json: embedding_dimension is missing",
    ),
    "Dropout before pooling": (
        lambda d: modules(d, "Dropout:2_Dropout", "Pooling:1_Pooling"),
        "modules.json: the modules are Transformer, Dropout, Pooling",
    ),
    "a module without a name": (
        inside("modules.json", 1, "name", value=["1"]),
        "modules.json: [1]: expected a type",
    ),
    "two modules of one name": (
        inside("modules.json", 1, "name", value="0"),
        "modules.json: two modules have the name '0'",
    ),
    "no prompts": (change(MODEL, prompts=None), "config_sentence_transformers.json: prompts is None"),
    "a default prompt of another kind": (
        change(MODEL, default_prompt_name=["query"]),
        "default_prompt_name is ['query']; expected one of the prompts",
    ),
    "shards that lack what the index does not list": (
        lambda d: (pickled(d, shards=2), _forget_one(d)),
        "pytorch_model.bin.index.json: weight_map: ",
    ),
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
