"""Checkpoints of networks that optimum exports: seeded weights, and a tokenizer of each one's kind."""

from __future__ import annotations

import json
import math
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from paritas.export.int8.calibration import built_in_texts
from tests.unit.tiny import WIDE, write_tiny_bert

MAX_LENGTH = 40
"""Tokens that every checkpoint serves."""
VOCABULARY = 400
# The first and the third stand around a text, the fourth for what is unknown.
_BERT_SPECIAL = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
_ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
# What configurations of most networks call by the names of `WIDE`.
_DISTILBERT = {"dim": 64, "hidden_dim": 192, "n_layers": 2, "n_heads": 4}
# Positions are counted from the padding id's successor, so two rows of the table serve no token.
_ROBERTA = {"max_position_embeddings": MAX_LENGTH + 2, "type_vocab_size": 1}
_ROBERTA_IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
# As published v3 checkpoints have it, their buckets of positions aside: 256.
_DEBERTA = {
    "relative_attention": True,
    "max_relative_positions": -1,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
}


def _word_piece(directory: Path) -> None:
    write_tiny_bert(directory)
    for name in ("config.json", "model.safetensors"):
        (directory / name).unlink()


def _save(tokenizer: Tokenizer, directory: Path, special: list[str]) -> None:
    """Put special tokens around what a tokenizer gives, and write it."""
    first, last = special[0], special[2]
    tokenizer.add_special_tokens(special)
    second = int(special is _BERT_SPECIAL)  # its type
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:{second} {last}:{second}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, last)],
    )
    tokenizer.save(str(directory / "tokenizer.json"))


def _bpe(directory: Path, special: list[str] = _ROBERTA_SPECIAL) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(built_in_texts("certificate"), trainer)
    _save(tokenizer, directory, special)


def _unigram(directory: Path, special: list[str] = _ROBERTA_SPECIAL) -> None:
    # Training one gives another vocabulary every time.
    words = Counter(" ".join(built_in_texts("certificate")).split()).most_common(VOCABULARY - 100)
    pieces = [*"▁", *string.ascii_letters, *string.punctuation[:20]]
    scored = [(token, 0.0) for token in special]
    scored += [(piece, -9.0) for piece in pieces]
    scored += [(f"▁{word}", math.log(count) - 8) for word, count in words]
    tokenizer = Tokenizer(models.Unigram(scored[:VOCABULARY], unk_id=special.index(special[3])))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    _save(tokenizer, directory, special)


def _bert_bpe(directory: Path) -> None:
    _bpe(directory, _BERT_SPECIAL)


def _bert_unigram(directory: Path) -> None:
    _unigram(directory, _BERT_SPECIAL)


UNTYPED = ("input_ids", "attention_mask")
TYPED = (*UNTYPED, "token_type_ids")


@dataclass(frozen=True)
class Network:
    """How a network's checkpoint is made."""

    tokenizer: Callable[[Path], None]
    options: dict[str, Any] = field(default_factory=dict)
    """Of its configuration."""
    gives: tuple[str, ...] = UNTYPED
    """What its tokenizer's output holds."""
    takes: tuple[str, ...] = UNTYPED
    """What of it the network's forward takes."""


NETWORKS = {
    "albert": Network(_bert_unigram, {"embedding_size": 48}, TYPED, TYPED),
    "camembert": Network(_unigram, _ROBERTA | _ROBERTA_IDS),
    "deberta-v2": Network(_bert_unigram, _DEBERTA, TYPED, TYPED),
    "distilbert": Network(_word_piece, _DISTILBERT, TYPED),
    "electra": Network(_word_piece, {"embedding_size": 48}, TYPED, TYPED),
    "modernbert": Network(
        _bert_bpe,
        {"local_attention": 8, "global_attn_every_n_layers": 2, "num_hidden_layers": 3, "pad_token_id": 1},
    ),
    "roberta": Network(_bpe, _ROBERTA | _ROBERTA_IDS),
    "xlm-roberta": Network(_unigram, _ROBERTA | _ROBERTA_IDS),
}


REFUSED = {"gpt2": Network(_bpe, {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": MAX_LENGTH})}
"""What optimum exports, and texts alone cannot be encoded with."""


def write_network(name: str, directory: Path) -> Path:
    """Write a network's checkpoint; return the directory."""
    import torch
    from transformers import AutoConfig, AutoModel

    network = (NETWORKS | REFUSED)[name]
    directory.mkdir(parents=True, exist_ok=True)
    network.tokenizer(directory)
    stated = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": network.gives}
    (directory / "tokenizer_config.json").write_text(json.dumps(stated), encoding="utf-8")
    options = {
        **WIDE,
        "num_hidden_layers": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": MAX_LENGTH,
        # Attention of weights as small as they are by default looks at all tokens alike.
        "initializer_range": 0.15,
        **network.options,
    }
    torch.manual_seed(1)
    model = AutoModel.from_config(AutoConfig.for_model(name, **options))
    model.save_pretrained(directory)
    return directory
