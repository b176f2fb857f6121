"""Tiny tokenizers as checkpoints carry them: one a fact of how transformers puts their files together."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Files = dict[str, Any]
Change = Callable[[Files], None]

WORDS = [
    "the",
    "ferry",
    "leaves",
    "island",
    "at",
    "night",
    "##s",
    "##ing",
    "##ry",
    "new",
    "##new",
    "e\u0301te",
]
BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MPNET_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"]


def vocabulary(special: Iterable[str], texts: Iterable[str]) -> dict[str, int]:
    """Return a vocabulary in which each character of the texts is a piece, in any form of it."""
    characters: set[str] = set()
    for text in texts:
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            found = unicodedata.normalize(form, text)
            characters.update(found, found.lower(), text, text.lower())
    pieces = [prefix + character for character in sorted(characters) for prefix in ("", "##")]
    tokens = dict.fromkeys([*special, *WORDS, *pieces])
    return {token: number for number, token in enumerate(tokens)}


def bert(words: dict[str, int]) -> Files:
    """Return a BERT tokenizer's files as most checkpoints have them."""
    pieces = [_special("[CLS]"), _sequence("A"), _special("[SEP]")]
    return {
        "config.json": {"model_type": "bert"},
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": True},
        "tokenizer.json": {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [added(token, words[token], special=True) for token in BERT_SPECIAL],
            "normalizer": normalizer(),
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": pieces,
                "pair": [*pieces, _sequence("B", 1), _special("[SEP]", 1)],
                "special_tokens": {
                    token: {"id": token, "ids": [words[token]], "tokens": [token]}
                    for token in ("[CLS]", "[SEP]")
                },
            },
            "decoder": None,
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": words,
            },
        },
    }


def mpnet(words: dict[str, int]) -> Files:
    """Return an MPNet tokenizer's files."""
    files = bert({**dict.fromkeys(BERT_SPECIAL, 0), **words})
    stored = files["tokenizer.json"]
    stored["model"]["vocab"] = words
    stored["added_tokens"] = [added(token, words[token], special=True) for token in MPNET_SPECIAL]
    ends = {"sep": ["</s>", words["</s>"]], "cls": ["<s>", words["<s>"]]}
    stored["post_processor"] = {
        "type": "RobertaProcessing",
        **ends,
        "trim_offsets": True,
        "add_prefix_space": False,
    }
    files["config.json"] = {"model_type": "mpnet"}
    files["tokenizer_config.json"] = {"tokenizer_class": "MPNetTokenizer"}
    return files


def write(directory: Path, files: Files) -> Path:
    """Write the files; the vocabulary is also there as vocab.txt."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (directory / name).write_text(text, encoding="utf-8")
    return directory


def added(content: str, number: int, **flags: bool) -> dict[str, Any]:
    """Return an added token as tokenizer.json has it."""
    names = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {"id": number, "content": content, **dict.fromkeys(names, False), **flags}


def normalizer(**flags: bool | None) -> dict[str, Any]:
    """Return BERT's normalizer as tokenizer.json has it."""
    usual = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    return {"type": "BertNormalizer", **usual, **flags}


def only_vocabulary(files: Files) -> None:
    """Leave vocab.txt alone."""
    words = files.pop("tokenizer.json")["model"]["vocab"]
    files["vocab.txt"] = "".join(f"{token}\n" for token in words if token.strip() == token and token)


def _sequence(name: str, type_id: int = 0) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": type_id}}


def _special(name: str, type_id: int = 0) -> dict[str, Any]:
    return {"SpecialToken": {"id": name, "type_id": type_id}}


# The facts. Each changes the files of the tokenizers above.


def _config(**settings: Any) -> Change:
    return lambda files: files["tokenizer_config.json"].update(settings)


def _stored(**parts: Any) -> Change:
    return lambda files: files["tokenizer.json"].update(parts)


def _added(*tokens: tuple[str, dict[str, bool]]) -> Change:
    def change(files: Files) -> None:
        stored = files["tokenizer.json"]
        for content, flags in tokens:
            number = stored["model"]["vocab"].get(content, 10_000 + len(stored["added_tokens"]))
            stored["added_tokens"].append(added(content, number, **flags))

    return change


def _file(name: str, content: Any) -> Change:
    return lambda files: files.update({name: content})


def _without(*names: str) -> Change:
    return lambda files: [files.pop(name, None) for name in names] and None


def _both(*changes: Change) -> Change:
    def change(files: Files) -> None:
        for step in changes:
            step(files)

    return change


def _no_class(files: Files) -> None:
    del files["tokenizer_config.json"]["tokenizer_class"]


_CASED = normalizer(lowercase=False, handle_chinese_chars=False, strip_accents=False)
_PLAIN = _config(tokenizer_class="PreTrainedTokenizerFast")
# No pre-tokenizer drops them, so it shows who takes them.
_BLANKS_COUNT = _stored(pre_tokenizer=None)
_TOKEN = {"content": "<x>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": False}
_DECODER = {
    "0": {**_TOKEN, "content": "[PAD]", "special": True},
    "9001": {**_TOKEN, "special": False},
    "9000": {**_TOKEN, "content": "Ferry", "normalized": True, "special": False},
}

COMMON: dict[str, Change] = {
    "as published": _config(),
    "cased": _config(do_lower_case=False),
    "cased, accents stripped": _config(do_lower_case=False, strip_accents=True),
    "accents kept": _config(strip_accents=False),
    "Chinese off": _config(tokenize_chinese_chars=False),
    "cased file, silent config": _both(_stored(normalizer=_CASED), _without("tokenizer_config.json")),
    "cased file inside a sequence": _stored(normalizer={"type": "Sequence", "normalizers": [_CASED]}),
    "uncleaned file": _stored(normalizer=normalizer(clean_text=False)),
    "file without strip_accents": _stored(
        normalizer={key: value for key, value in normalizer().items() if key != "strip_accents"}
    ),
    "Lowercase": _stored(normalizer={"type": "Lowercase"}),
    "NFC": _stored(normalizer={"type": "NFC"}),
    "NFKC": _stored(normalizer={"type": "NFKC"}),
    "NFKD": _stored(normalizer={"type": "NFKD"}),
    "accents by parts": _stored(
        normalizer={
            "type": "Sequence",
            "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}, {"type": "StripAccents"}],
        }
    ),
    "strip and replace": _stored(
        normalizer={
            "type": "Sequence",
            "normalizers": [
                {"type": "Strip", "strip_left": True, "strip_right": False},
                {"type": "Strip", "strip_left": False, "strip_right": True},
                {"type": "Replace", "pattern": {"String": "e"}, "content": "ee "},
            ],
        }
    ),
    "Whitespace": _stored(pre_tokenizer={"type": "Whitespace"}),
    "WhitespaceSplit": _stored(pre_tokenizer={"type": "WhitespaceSplit"}),
    "pre-tokenizers in turn": _stored(
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "BertPreTokenizer"}],
        }
    ),
    "no pre-tokenizer": _stored(pre_tokenizer=None),
    "no post-processor": _stored(post_processor=None),
    "plain class": _PLAIN,
    "plain class, cased file": _both(_PLAIN, _stored(normalizer=_CASED)),
    "plain class, no normalizer": _both(_PLAIN, _stored(normalizer=None)),
    "plain class, special tokens": _both(_PLAIN, _config(cls_token="[CLS]", mask_token="ferry")),
    "padding names a token": _both(
        _PLAIN,
        _stored(
            padding={
                "strategy": "BatchLongest",
                "direction": "Left",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "ferry",
            }
        ),
    ),
    "class with Fast": lambda files: _config(
        tokenizer_class=files["tokenizer_config.json"]["tokenizer_class"] + "Fast"
    )(files),
    "class by config.json": _no_class,
    "no tokenizer_config": _without("tokenizer_config.json"),
    "types asked for": _config(model_input_names=["input_ids", "token_type_ids", "attention_mask"]),
    "types not asked for": _config(model_input_names=["input_ids", "attention_mask"]),
    "cut on the left": _config(truncation_side="left"),
    "cut on the left by tokenizer.json": _stored(
        truncation={"direction": "Left", "max_length": 9, "strategy": "OnlyFirst", "stride": 2}
    ),
    "padding and truncation of an old file": _stored(
        truncation={"max_length": 9, "strategy": "LongestFirst", "stride": 0}
    ),
    "special tokens split": _config(split_special_tokens=True),
    "plain token": _added(("<x>", {})),
    "normalized token": _added(("Ferry", {"normalized": True})),
    "normalized accent": _added(("\u00c9t\u00e9", {"normalized": True})),
    "normalized token, cased file": _both(
        _stored(normalizer=_CASED), _added(("Ferry", {"normalized": True}))
    ),
    "two that normalize alike": _added(("Ferry", {"normalized": True}), ("fERRY", {"normalized": True})),
    "token of the vocabulary": _added(("ferry", {})),
    "single word": _added(("ew", {"single_word": True}), ("<x>", {"single_word": True})),
    "takes blanks before": _both(_BLANKS_COUNT, _added(("<x>", {"lstrip": True}))),
    "takes blanks after": _both(_BLANKS_COUNT, _added(("<x>", {"rstrip": True}))),
    "takes blanks around": _both(
        _BLANKS_COUNT, _added(("<x>", {"lstrip": True, "rstrip": True, "special": True}))
    ),
    "token that begins with a blank": _both(
        _BLANKS_COUNT, _added((" <x>", {"lstrip": True}), ("ferry", {"rstrip": True}))
    ),
    "longest of several": _added(("new", {}), ("newnew", {}), ("ew", {}), ("n", {"single_word": True})),
    "added twice": _both(_BLANKS_COUNT, _added(("<x>", {"normalized": True}), ("<x>", {"lstrip": True}))),
    "special and plain": _both(
        _BLANKS_COUNT, _added(("<x>", {"normalized": True}), ("<x>", {"special": True, "rstrip": True}))
    ),
    "decoder": _both(_BLANKS_COUNT, _config(added_tokens_decoder=_DECODER)),
    "special token that the decoder would normalize": _both(
        _added(("Ferry", {"special": True})),
        _config(
            added_tokens_decoder={"9000": {**_TOKEN, "content": "Ferry", "normalized": True, "special": True}}
        ),
    ),
    "decoder hides the maps": _both(
        _config(added_tokens_decoder=_DECODER),
        _file("special_tokens_map.json", {"additional_special_tokens": ["night"]}),
        _file("added_tokens.json", {"island": 9002}),
    ),
    "decoder names a mask": _config(
        added_tokens_decoder={"9000": {**_TOKEN, "rstrip": True, "special": True}}, mask_token="<x>"
    ),
    "added_tokens.json": _file("added_tokens.json", {"<x>": 9000, "Ferry": 9001, "night": 9002}),
    "added_tokens.json with special ones": _both(
        _file("added_tokens.json", {"<x>": 9000, "night": 9001}),
        _file("special_tokens_map.json", {"additional_special_tokens": ["night"], "mask_token": "<x>"}),
    ),
    "special_tokens_map.json": _file(
        "special_tokens_map.json", {"additional_special_tokens": ["<x>", {**_TOKEN, "content": "night"}]}
    ),
    "map against config": _both(
        _config(additional_special_tokens=["newnew", "<x>"], mask_token="the"),
        _file(
            "special_tokens_map.json",
            {"additional_special_tokens": ["<x>", "night"], "mask_token": {**_TOKEN, "content": "at"}},
        ),
    ),
    "flags in the config": _both(
        _BLANKS_COUNT, _config(mask_token={"__type": "AddedToken", **_TOKEN, "special": True})
    ),
    "no mask": _config(mask_token=None),
    "further special tokens": _config(extra_special_tokens={"x_token": "<x>"}),
    "old file without a type": lambda files: files["tokenizer.json"]["model"].pop("type"),
    "short words": lambda files: files["tokenizer.json"]["model"].update(max_input_chars_per_word=5),
    "another prefix": lambda files: files["tokenizer.json"]["model"].update(continuing_subword_prefix="n"),
    "only vocab.txt": only_vocabulary,
    "only vocab.txt, no config": _both(only_vocabulary, _without("tokenizer_config.json")),
    "only vocab.txt, cased": _both(only_vocabulary, _config(do_lower_case=False, strip_accents=False)),
    "only vocab.txt, no basic": _both(only_vocabulary, _config(do_basic_tokenize=False)),
    "only vocab.txt, added": _both(
        only_vocabulary,
        _file("added_tokens.json", {"<x>": 9000, "Ferry": 9001}),
        _file("special_tokens_map.json", {"additional_special_tokens": ["night"]}),
    ),
    "only vocab.txt, decoder": _both(only_vocabulary, _config(added_tokens_decoder=_DECODER)),
}
BERT: dict[str, Change] = {
    **COMMON,
    "BertProcessing": _stored(
        post_processor={"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    ),
    "RobertaProcessing": _stored(
        post_processor={
            "type": "RobertaProcessing",
            "sep": ["[SEP]", 3],
            "cls": ["[CLS]", 2],
            "trim_offsets": True,
            "add_prefix_space": True,
        }
    ),
    "the class's tokens in added_tokens.json": _both(
        only_vocabulary, _without("tokenizer_config.json"), _file("added_tokens.json", {"[SEP]": 3})
    ),
    "mask with flags in tokenizer.json": _both(
        _BLANKS_COUNT,
        lambda files: files["tokenizer.json"]["added_tokens"][4].update(lstrip=True),
    ),
    "special token that is not in the vocabulary": _config(cls_token="<x>"),
}
MPNET: dict[str, Change] = {
    **COMMON,
    "BERT's class": _config(tokenizer_class="BertTokenizer"),
    "mask with flags": _both(
        _BLANKS_COUNT,
        _without("tokenizer_config.json"),
        _file(
            "tokenizer_config.json", {"mask_token": {"__type": "AddedToken", **_TOKEN, "content": "<mask>"}}
        ),
    ),
    "mask takes the blanks before it": _both(_BLANKS_COUNT, _without("tokenizer_config.json")),
    "mask as the decoder has it": _both(
        _BLANKS_COUNT,
        _config(
            mask_token="<mask>",
            added_tokens_decoder={"5": {**_TOKEN, "content": "<mask>", "lstrip": False, "special": True}},
        ),
    ),
}
