"""The tokenizer in effect: what transformers makes of a checkpoint's files, as one tokenizer.json.

transformers 4.57 loads tokenizer.json, sets parts of it by its class and the other files, and adds tokens.
transformers 5 makes the WordPiece tokenizers of BERT and MPNet anew, from the vocabulary and the other files.
Here the first is done, with the same library, and held against the second. A checkpoint that the two read
differently has no vectors of its own: it is refused, with the key that makes the difference.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers

from paritas.errors import ExportError, MissingExtraError, SourceError
from paritas.export.checkpoint.added_tokens import (
    NORMALIZED,
    TokenizerFiles,
    add_declared,
    add_declared_5,
    added_to,
    check_added,
    read_tokenizer_files,
    tokens_named,
)
from paritas.export.checkpoint.files import CONFIG, TOKENIZER, TOKENIZER_CONFIG, VOCABULARY, brief, read_json
from paritas.export.checkpoint.template import Template
from paritas.export.checkpoint.wordpiece import (
    ALONE,
    ALONE_5,
    BERT,
    DISTILBERT,
    MPNET,
    TokenizerClass,
    doubt_pairs,
    make_wordpiece,
    parse_tokenizer,
    read_vocabulary,
)
from paritas.export.networks.known import ARCHITECTURES

_CLASSES = {
    "BertTokenizer": BERT,
    "ElectraTokenizer": BERT,
    "DistilBertTokenizer": DISTILBERT,
    "MPNetTokenizer": MPNET,
    "PreTrainedTokenizer": ALONE,
    "TokenizersBackend": ALONE_5,
}
# Keys by which transformers reads other files, or takes special tokens apart.
_ELSEWHERE = (
    "split_special_tokens",
    "from_slow",
    "fast_tokenizer_files",
    "tokenizer_file",
    "tokenizer_object",
    "gguf_file",
    "vocab",
    "merges",
)
_INPUTS = ["input_ids", "attention_mask"]
# A model that any tokenizer.json may have, for the sake of its other parts.
_EMPTY = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
# What transformers takes for no limit.
_UNLIMITED = 1e20
# The class by model_type, where no file names one. A native network's record has its own.
_BY_NETWORK = {"electra": "ElectraTokenizer", "distilbert": "DistilBertTokenizer"}
_BY_NETWORK |= {
    model_type: architecture.tokenizer_class
    for model_type, architecture in ARCHITECTURES.items()
    if architecture.tokenizer_class is not None
}


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """A checkpoint's tokenizer, and what its files say of lengths."""

    content: bytes
    """The tokenizer.json that is the tokenizer in effect."""
    named: list[str]
    """The tokens that any of the files names."""
    kind: str
    """The class, and where it is named."""
    truncation_side: str
    max_length: int | None
    """model_max_length; None where the files set no limit."""
    doubtful_pairs: str | None
    """Why it is not certain which special tokens surround the texts of a pair; None where it is."""
    doubtful_types: str | None
    """Why it is not certain which token types a pair has; None where it is."""


def read_tokenizer(directory: Path, *, lowercase: bool = False) -> TokenizerFacts:
    """Return the tokenizer that is in effect for a checkpoint's directory.

    Args:
        directory: where its files lie.
        lowercase: texts are lowered before anything else, as sentence-transformers' own do_lower_case asks.

    Raises:
        SourceError: a file is missing or cannot be read.
        ExportError: an option cannot be put into a tokenizer.json, or transformers 4.57 and 5 read it
            differently; the message names file and key.
        MissingExtraError: a class that only transformers knows, and it is not installed.
    """
    files = read_tokenizer_files(directory)
    _check_keys(files)
    name, place = _class_name(files)
    known = _CLASSES.get(name)
    if known is not None and known.wordpiece:
        own, files = files, _without_lowercase(files, asked=lowercase)
        lowercase = lowercase or files is not own
    raw = json.dumps(files.tokenizer).encode() if _follows_file(files) else b""
    if known is None:
        made = _by_transformers(directory, name, place)
    elif known.wordpiece:
        made = make_wordpiece(files, known, raw)
    else:
        made = _as_it_stands(files, known, raw, place)
    if lowercase:
        _lower_first(made)
    if raw:
        _check_normalized(files, made)
    doubtful_pairs = doubt_pairs(files, known, made) if known is not None and known.wordpiece else None
    doubtful_types = _set_types(made, files, known)
    _check_distinct(files, made)
    return TokenizerFacts(
        content=_content(directory / TOKENIZER, made) if raw else _written(made),
        named=tokens_named(files),
        kind=f"{name} ({place})",
        truncation_side=_side(files),
        max_length=_max_length(files),
        doubtful_pairs=doubtful_pairs,
        doubtful_types=doubtful_types,
    )


def _class_name(files: TokenizerFiles) -> tuple[str, str]:
    """Return the name of the class in effect, without "Fast", and where it is named."""
    config_path = files.directory / CONFIG
    config = read_json(config_path) if config_path.is_file() else {}
    classes = files.config.get("tokenizer_class"), config.get("tokenizer_class")
    for name, path in zip(classes, (files.directory / TOKENIZER_CONFIG, config_path), strict=True):
        if name is not None:
            return str(name).removesuffix("Fast"), f"{path}: tokenizer_class"
    network = config.get("model_type")
    place = f"{config_path}: model_type"
    if not isinstance(network, str) or network not in _BY_NETWORK:
        return f"the tokenizer of {network!r}", place
    return _BY_NETWORK[network], place


def _follows_file(files: TokenizerFiles) -> bool:
    """Say whether tokenizer.json is read. With the key tokenizer_file, null, 4.57 takes vocab.txt instead."""
    if not files.tokenizer or "tokenizer_file" not in files.config:
        return bool(files.tokenizer)
    if not (files.directory / VOCABULARY).is_file():
        raise ExportError(
            f"{files.place('tokenizer_file')} is null, and there is no {VOCABULARY}; remove the key"
        )
    if read_vocabulary(files.directory) != files.tokenizer.get("model", {}).get("vocab"):
        raise ExportError(
            f"{files.place('tokenizer_file')} is null, so that transformers 4.57 takes {VOCABULARY}, 5 takes "
            f"{TOKENIZER}, and they hold other tokens; remove the key"
        )
    return False


def _check_keys(files: TokenizerFiles) -> None:
    """Refuse keys that cannot be put into a tokenizer.json, and values that are none."""
    for key, may_be_null in (
        ("do_lower_case", False),
        ("strip_accents", True),
        ("tokenize_chinese_chars", False),
    ):
        value = files.get(key, True)
        if not isinstance(value, bool) and not (may_be_null and value is None):
            expected = "true, false or null" if may_be_null else "true or false"
            raise ExportError(f"{files.place(key)} is {brief(value)}; expected {expected}")
    for key in _ELSEWHERE:
        if files.get(key) and not (key == "fast_tokenizer_files" and files.get(key) == [TOKENIZER]):
            raise ExportError(
                f"{files.place(key)} is {brief(files.get(key))}; expected no such key: what it does cannot "
                f"be put into a {TOKENIZER}; remove it, or save the tokenizer again with transformers"
            )
    names = files.get("model_input_names", _INPUTS)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ExportError(f"{files.place('model_input_names')} is {names}; expected a list of names")
    if not set(_INPUTS) <= set(names):
        raise ExportError(
            f"{files.place('model_input_names')} is {names}; expected input_ids and attention_mask among them"
        )


# Classes that follow tokenizer.json, and those that only transformers knows.


def _as_it_stands(files: TokenizerFiles, known: TokenizerClass, raw: bytes, place: str) -> Tokenizer:
    path = files.directory / TOKENIZER
    if not raw:
        raise SourceError(f"{path}: missing from the checkpoint; {place} names a class that follows it alone")
    made, fresh = (parse_tokenizer(path, raw) for _ in range(2))
    stated = (files.tokenizer.get("pre_tokenizer") or {}).get("add_prefix_space")
    if stated is not None and stated != files.get("add_prefix_space", False):
        raise ExportError(
            f"{path}: pre_tokenizer.add_prefix_space is {stated}, which transformers 5 takes; 4.57 takes "
            f"{files.get('add_prefix_space', False)}, by {TOKENIZER_CONFIG}; make them agree"
        )
    padding = files.tokenizer.get("padding") or {}
    defaults = {"pad_token": padding["pad_token"]} if "pad_token" in padding else {}
    add_declared(made, files, defaults)
    add_declared_5(fresh, files, defaults)
    if known is ALONE_5:  # which 4.57 cannot load
        return fresh
    check_added(files, added_to(made), added_to(fresh))
    return made


def _by_transformers(directory: Path, name: str, place: str) -> Tokenizer:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingExtraError(
            f"{place} names {name}; paritas knows {', '.join(_CLASSES)}, and transformers knows others; "
            "type: pip install 'transformers<4.58'"
        ) from error
    try:
        loaded = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        return Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    except Exception as error:  # of many kinds
        reason = " ".join(str(error).split())[:300]
        raise SourceError(f"{directory}: transformers cannot load the tokenizer: {reason}") from error


def _check_normalized(files: TokenizerFiles, made: Tokenizer) -> None:
    """Refuse tokens that match normalised texts where their own form depends on when the normaliser was set.

    transformers 4.57 sets it after the tokens were added, and they keep the form of tokenizer.json's own.
    5, and the engine, give them that of the one in effect.
    """
    path = files.directory / TOKENIZER
    own = Tokenizer.from_str(json.dumps({**files.tokenizer, "model": _EMPTY})).normalizer
    stated = {entry["content"]: entry.get("normalized") for entry in files.tokenizer.get("added_tokens", ())}
    for content, (_, flags) in added_to(made).items():
        normalized = bool(flags[NORMALIZED])
        if content in stated and stated[content] is not normalized:
            raise ExportError(
                f"{path}: added_tokens: normalized of {content!r} is {stated[content]}, {TOKENIZER_CONFIG} "
                f"says {normalized}; make them agree"
            )
        forms = [part.normalize_str(content) if part else content for part in (own, made.normalizer)]
        if normalized and forms[0] != forms[1]:
            raise ExportError(
                f"{path}: the added token {content!r} is {forms[0]!r} by its normalizer, which transformers "
                f"4.57 matches, and {forms[1]!r} by the one in effect, which 5 matches; do not let it be "
                "normalized"
            )


def _without_lowercase(files: TokenizerFiles, *, asked: bool) -> TokenizerFiles:
    """Return files without the `Lowercase` that sentence-transformers puts first and saves.

    transformers 4.57 then takes what follows it from tokenizer.json, 5 makes it anew: the two must be alike.
    5 also leaves `Lowercase` out where no file asks for it: no change where what follows lowers too.
    """
    stated = files.tokenizer.get("normalizer")
    stated = stated if isinstance(stated, dict) else {}
    parts = stated.get("normalizers", [])
    if stated.get("type") != "Sequence" or [part.get("type") for part in parts] != [
        "Lowercase",
        "BertNormalizer",
    ]:
        return files
    if not asked and parts[1].get("lowercase") is not True:
        return files
    path = files.directory / TOKENIZER
    for key, ours, default in (
        ("do_lower_case", "lowercase", True),
        ("strip_accents", "strip_accents", None),
        ("tokenize_chinese_chars", "handle_chinese_chars", True),
    ):
        if files.get(key, default) != parts[1].get(ours):
            raise ExportError(
                f"{path}: normalizer.normalizers[1].{ours} is {parts[1].get(ours)!r}, which transformers "
                f"4.57 takes; 5 makes it {files.get(key, default)!r}, by {key} of {TOKENIZER_CONFIG}; make "
                "them agree"
            )
    return replace(files, tokenizer={**files.tokenizer, "normalizer": parts[1]})


def _lower_first(made: Tokenizer) -> None:
    """Let `Lowercase`, by which accents stay, come first, unless it is there already."""
    stated = made.normalizer
    parts = list(stated) if isinstance(stated, normalizers.Sequence) else [] if stated is None else [stated]
    if not any(isinstance(part, normalizers.Lowercase) for part in parts):
        made.normalizer = normalizers.Sequence([normalizers.Lowercase(), *parts])


# What the files say of types and lengths.


def _set_types(made: Tokenizer, files: TokenizerFiles, known: TokenizerClass | None) -> str | None:
    """Give all tokens type 0 where the model is given no types; return why that is in doubt for pairs."""
    names = files.get("model_input_names")
    typed = "token_type_ids" in names if names is not None else known.token_types if known else True
    template = Template.of(made)
    if typed is True or template is None or template == template.without_types():
        return None
    if typed is None:
        doubt = (
            f"{files.place('model_input_names')} is missing, for which transformers 4.57 gives tokens "
            f"the types of {TOKENIZER}, and 5 gives them 0; name the inputs there"
        )
        if template.single != template.without_types().single:
            raise ExportError(doubt)
        return doubt
    made.post_processor = template.without_types().processor(made)
    return None


def _side(files: TokenizerFiles) -> str:
    truncation = files.tokenizer.get("truncation") or {}
    side = files.get("truncation_side", str(truncation.get("direction", "Right")).lower())
    if side not in ("left", "right"):
        raise ExportError(f"{files.place('truncation_side')} is {brief(side)}; expected left or right")
    return str(side)


def _max_length(files: TokenizerFiles) -> int | None:
    key = "model_max_length" if files.get("model_max_length") is not None else "max_len"
    stated = files.get(key)
    if stated is None or (isinstance(stated, int | float) and stated > _UNLIMITED):
        return None
    if not isinstance(stated, int) or isinstance(stated, bool) or stated < 1:
        raise ExportError(f"{files.place(key)} is {brief(stated)}; expected a positive number of tokens")
    return stated


def _check_distinct(files: TokenizerFiles, made: Tokenizer) -> None:
    """Refuse two tokens of one id: which of them a file keeps is left to chance."""
    seen: dict[int, str] = {}
    for token, number in made.get_vocab(with_added_tokens=True).items():
        other = seen.setdefault(number, token)
        if other != token:
            raise ExportError(
                f"{files.directory}: the tokens {min(token, other)!r} and {max(token, other)!r} have "
                f"one id, {number}; expected ids that differ"
            )


# One tokenizer against another.


def _content(path: Path, made: Tokenizer) -> bytes:
    """Return the checkpoint's own tokenizer.json where it is the one in effect, else that written down."""
    own = path.read_bytes()
    return own if _same(parse_tokenizer(path, own), made) else _written(made)


def _same(one: Tokenizer, other: Tokenizer) -> bool:
    """Say whether two tokenizers give every text the same ids."""
    return added_to(one) == added_to(other) and _core(one) == _core(other)


def _core(tokenizer: Tokenizer) -> list[Any]:
    parts = (tokenizer.model, tokenizer.normalizer, tokenizer.pre_tokenizer)
    states = [part if part is None else json.loads(part.__getstate__()) for part in parts]
    return [*states, Template.of(tokenizer) or json.loads(tokenizer.post_processor.__getstate__())]


def _written(made: Tokenizer) -> bytes:
    # Length and padding are the engine's to set.
    made.no_truncation()
    made.no_padding()
    return str(made.to_str(pretty=True)).encode()
