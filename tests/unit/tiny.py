"""Checkpoints small enough to be made in a test: random weights, a real tokenizer, no torch needed."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from paritas.export.networks.config import read_network

BERT: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 128,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
MPNET: dict[str, Any] = {
    "architectures": ["MPNetModel"],
    "model_type": "mpnet",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 128,
    # Positions are counted from the padding id's successor, so two rows of the table serve no token.
    "max_position_embeddings": 42,
    "relative_attention_num_buckets": 32,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
# Options that make matrices wide enough to be quantised.
WIDE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4}

_BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# As published MPNet vocabularies have it: <unk> is there, but the tokenizer's unknown token is [UNK].
_MPNET_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"]

# Whatever a text's words are, these leave few of them unknown: letters, alone and inside a word.
_PIECES = [*string.ascii_lowercase, *("##" + letter for letter in string.ascii_lowercase), *".,?!:-()'"]
_WORDS = [
    "the",
    "of",
    "and",
    "in",
    "is",
    "a",
    "why",
    "what",
    "sky",
    "blue",
    "ferry",
    "leave",
    "morning",
    "island",
    "train",
    "price",
    "apple",
    "river",
    "city",
    "water",
    "light",
    "night",
    "north",
    "how",
    "##s",
    "##ing",
    "##ed",
    "##er",
    "##est",
    "##ly",
    "##ion",
    "##al",
]


def write_tiny_bert(directory: Path, *, seed: int = 0, **config_overrides: Any) -> Path:
    """Write a BERT checkpoint of two layers: config.json, tokenizer.json and model.safetensors.

    Args:
        directory: where to; made if it is not there.
        seed: of the random weights.
        config_overrides: replace or add entries of config.json; the weights follow them.

    Returns:
        The directory.
    """
    config = {**BERT, **config_overrides}
    vocabulary = _vocabulary(_BERT_SPECIAL, config)
    tokenizer = _tokenizer(vocabulary, _BERT_SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return _write(directory, config, tokenizer, seed)


def write_tiny_mpnet(directory: Path, *, seed: int = 0, **overrides: Any) -> Path:
    """Write an MPNet checkpoint of two layers; as `write_tiny_bert`, for 40 tokens."""
    config = {**MPNET, **overrides}
    vocabulary = _vocabulary(_MPNET_SPECIAL, config)
    tokenizer = _tokenizer(vocabulary, _MPNET_SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s>:0 $A:0 </s>:0",
        pair="<s>:0 $A:0 </s>:0 </s>:0 $B:0 </s>:0",
        special_tokens=[(token, vocabulary[token]) for token in ("<s>", "</s>")],
    )
    return _write(directory, config, tokenizer, seed)


def tiny_weights(config: dict[str, Any], seed: int) -> dict[str, NDArray[np.float32]]:
    """Return random weights under the checkpoint's names, scaled so that no layer drowns another."""
    random = np.random.default_rng(seed)
    weights = {}
    for _, name, shape in read_network(config, "config.json").parameters():
        if name.endswith("LayerNorm.weight"):
            value = 1 + 0.1 * random.standard_normal(shape)
        elif len(shape) == 1:
            value = 0.1 * random.standard_normal(shape)
        elif "embeddings" in name or "bias" in name:
            value = random.standard_normal(shape)
        else:
            value = random.standard_normal(shape) / np.sqrt(shape[1])
        weights[name] = value.astype(np.float32)
    return weights


def _vocabulary(special: list[str], config: dict[str, Any]) -> dict[str, int]:
    tokens = [*special, *_PIECES, *(word for word in _WORDS if word not in _PIECES)]
    return {token: number for number, token in enumerate(tokens[: config["vocab_size"]])}


def _tokenizer(vocabulary: dict[str, int], special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    # As MPNet's class has it, the mask takes the space before it.
    tokenizer.add_special_tokens([AddedToken(token, lstrip=token == "<mask>") for token in special])
    return tokenizer


def _write(directory: Path, config: dict[str, Any], tokenizer: Tokenizer, seed: int) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    tokenizer.save(str(directory / "tokenizer.json"))
    save_file(tiny_weights(config, seed), directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def write_prompted_bert(directory: Path) -> Path:
    """Write a small checkpoint with prompts, laid out as sentence-transformers saves them."""
    write_tiny_bert(directory)
    files = {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True},
        "config_sentence_transformers.json": {"prompts": {"query": "query: ", "passage": "passage: "}},
    }
    for name, content in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(json.dumps(content), encoding="utf-8")
    return directory
