"""The tokenizer in effect: what transformers makes of a checkpoint's files, as one tokenizer.json.

transformers 4.57 loads tokenizer.json, sets parts of it by its class and the other files, and adds tokens.
transformers 5 makes the WordPiece tokenizers of BERT and MPNet anew, from the vocabulary and the other files.
Here the first is done, with the same library, and held against the second. A checkpoint that the two read
differently has no vectors of its own: it is refused, with the key that makes the difference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from paritas.errors import ExportError, MissingExtraError, SourceError
from paritas.export.checkpoint.added_tokens import (
    NORMALIZED,
    Added,
    TokenizerFiles,
    add_declared,
    add_declared_5,
    added_to,
    named,
    read_tokenizer_files,
    shown,
)
from paritas.export.checkpoint.files import CONFIG, TOKENIZER, TOKENIZER_CONFIG, VOCABULARY, read_json
from paritas.export.checkpoint.template import Template

_BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


def _mpnet_tokens() -> dict[str, str | AddedToken]:
    contents = {"bos": "<s>", "eos": "</s>", "unk": "[UNK]", "sep": "</s>", "pad": "<pad>", "cls": "<s>"}
    tokens = {
        f"{name}_token": AddedToken(text, lstrip=False, rstrip=False) for name, text in contents.items()
    }
    return {**tokens, "mask_token": AddedToken("<mask>", lstrip=True, rstrip=False)}


@dataclass(frozen=True, slots=True)
class _Class:
    """One of transformers' tokenizer classes that paritas knows by itself."""

    defaults: Callable[[], Mapping[str, str | AddedToken]]
    token_types: bool | None
    """A pair's second text has token type 1 by default; None where transformers 4.57 and 5 disagree."""
    wordpiece: bool = True
    """It is BERT's WordPiece, which overrules tokenizer.json; else tokenizer.json alone rules."""
    double_separator: bool = False
    """Two of them stand between the texts of a pair."""


_BERT = _Class(lambda: _BERT_TOKENS, token_types=True)
_DISTILBERT = _Class(lambda: _BERT_TOKENS, token_types=False)
_MPNET = _Class(_mpnet_tokens, token_types=False, double_separator=True)
_ALONE = _Class(dict, token_types=None, wordpiece=False)
_ALONE_5 = _Class(dict, token_types=False, wordpiece=False)

_CLASSES = {
    "BertTokenizer": _BERT,
    "ElectraTokenizer": _BERT,
    "DistilBertTokenizer": _DISTILBERT,
    "MPNetTokenizer": _MPNET,
    "PreTrainedTokenizer": _ALONE,
    "TokenizersBackend": _ALONE_5,
}
# A model that any tokenizer.json may have, for the sake of its other parts.
_EMPTY = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
_BY_NETWORK = {
    "bert": "BertTokenizer",
    "electra": "ElectraTokenizer",
    "distilbert": "DistilBertTokenizer",
    "mpnet": "MPNetTokenizer",
}


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """A checkpoint's tokenizer, and what its files say of lengths."""

    content: bytes
    """The tokenizer.json that is the tokenizer in effect."""
    kind: str
    """The class, and where it is named."""
    truncation_side: str
    max_length: int | None
    """model_max_length; None where the files set no limit."""
    doubtful_pairs: str | None
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
    raw = (directory / TOKENIZER).read_bytes() if _follows_file(files) else b""
    if known is None:
        made = _by_transformers(directory, name, place)
    elif known.wordpiece:
        made = _wordpiece(files, known, raw)
    else:
        made = _as_it_stands(files, known, raw, place)
    if lowercase:
        _lower_first(made)
    if raw:
        _check_normalized(files, made)
    doubt = _set_types(made, files, known)
    return TokenizerFacts(
        content=raw if raw and _same(Tokenizer.from_str(raw.decode()), made) else _written(made),
        kind=f"{name} ({place})",
        truncation_side=_side(files),
        max_length=_max_length(files),
        doubtful_pairs=doubt,
    )


def _class_name(files: TokenizerFiles) -> tuple[str, str]:
    """Return the name of the class in effect, without "Fast", and where it is named."""
    config_path = files.directory / CONFIG
    config = read_json(config_path) if config_path.is_file() else {}
    found = files.config.get("tokenizer_class"), config.get("tokenizer_class")
    for name, path in zip(found, (files.directory / TOKENIZER_CONFIG, config_path), strict=True):
        if name is not None:
            return str(name).removesuffix("Fast"), f"{path}: tokenizer_class"
    network = config.get("model_type")
    place = f"{config_path}: model_type"
    if network not in _BY_NETWORK:
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
    if _vocabulary(files.directory) != files.tokenizer.get("model", {}).get("vocab"):
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
            raise ExportError(f"{files.place(key)} is {value!r}; expected {expected}")
    for key in ("split_special_tokens", "from_slow", "fast_tokenizer_files", "tokenizer_file"):
        if files.get(key):
            raise ExportError(
                f"{files.place(key)} is {files.get(key)!r}; expected no such key: what it does cannot be "
                f"put into a {TOKENIZER}; remove it, or save the tokenizer again with transformers"
            )
    names = files.get("model_input_names")
    if names is not None and not {"input_ids", "attention_mask"} <= set(names):
        raise ExportError(
            f"{files.place('model_input_names')} is {names}; expected input_ids and attention_mask among them"
        )


# The WordPiece classes.


def _wordpiece(files: TokenizerFiles, known: _Class, raw: bytes) -> Tokenizer:
    """Return BERT's or MPNet's tokenizer as transformers 4.57 makes it, if 5 makes the same."""
    tokens = named(files, known.defaults())
    unknown = _text(tokens.get("unk_token")) or "[UNK]"
    chinese = files.get("tokenize_chinese_chars", True)
    if raw:
        made = _parsed(files.directory / TOKENIZER, raw)
        _check_wordpiece(files, unknown)
        if known is _MPNET:  # whose class of 4.57 takes this one from tokenizer.json
            _agree(files, "normalizer.handle_chinese_chars", chinese)
    else:
        made = Tokenizer(models.WordPiece(_vocabulary(files.directory), unk_token=unknown))
        made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(prefix="##")
    made.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=chinese,
        strip_accents=files.get("strip_accents"),
        lowercase=files.get("do_lower_case", True),
    )
    fresh = Tokenizer(models.WordPiece(made.get_vocab(with_added_tokens=False), unk_token=unknown))
    add_declared(made, files, known.defaults())
    add_declared_5(fresh, files, known.defaults())
    _check_added(files, added_to(made), added_to(fresh))
    expected = _surroundings(files, known, made, tokens)
    if raw:
        _check_template(files, known, made, expected)
    else:
        made.post_processor = expected.processor(made)
    return made


def _check_wordpiece(files: TokenizerFiles, unknown: str) -> None:
    """Refuse what 4.57 takes from tokenizer.json and 5 makes anew."""
    for key, expected in (
        ("model.type", "WordPiece"),
        ("model.unk_token", unknown),
        ("model.continuing_subword_prefix", "##"),
        ("model.max_input_chars_per_word", 100),
        ("normalizer.type", "BertNormalizer"),
        ("normalizer.clean_text", True),
        ("pre_tokenizer.type", "BertPreTokenizer"),
    ):
        _agree(files, key, expected)


def _agree(files: TokenizerFiles, key: str, expected: Any) -> None:
    part, _, name = key.partition(".")
    found = (files.tokenizer.get(part) or {}).get(name)
    if found != expected:
        raise ExportError(
            f"{files.directory / TOKENIZER}: {key} is {found!r}, which transformers 4.57 takes; 5 makes it "
            f"{expected!r} by the class and {TOKENIZER_CONFIG}; make them agree, or name the tokenizer_class "
            f"PreTrainedTokenizerFast if {TOKENIZER} is right"
        )


def _check_added(files: TokenizerFiles, ours: Mapping[str, Added], theirs: Mapping[str, Added]) -> None:
    for content in [*ours, *theirs]:
        one, other = ours.get(content), theirs.get(content)
        if one != other:
            raise ExportError(
                f"{files.directory}: the added token {content!r} is {shown(one)} to transformers 4.57, and "
                f"{shown(other)} to 5; name it with the same flags in {TOKENIZER} (added_tokens) and "
                f"{TOKENIZER_CONFIG} (added_tokens_decoder)"
            )


def _surroundings(
    files: TokenizerFiles, known: _Class, made: Tokenizer, tokens: Mapping[str, str | AddedToken]
) -> Template:
    """Return what a WordPiece class puts around texts."""
    first, last = (made.token_to_id(_text(tokens.get(name)) or "") for name in ("cls_token", "sep_token"))
    if first is None or last is None:
        raise ExportError(f"{files.directory}: cls_token or sep_token is no token of the vocabulary")
    single = ((first, 0), ("A", 0), (last, 0))
    between = ((last, 0),) if known.double_separator else ()
    return Template(single, (*single, *between, ("B", 1), (last, 1)))


def _check_template(files: TokenizerFiles, known: _Class, made: Tokenizer, expected: Template) -> None:
    own = Template.of(made)
    if own is not None and known.token_types is False:
        own, expected = own.without_types(), expected.without_types()
    if own != expected:
        raise ExportError(
            f"{files.directory / TOKENIZER}: post_processor puts {own} around texts, which transformers 4.57 "
            f"takes; 5 puts {expected}, by cls_token and sep_token of {TOKENIZER_CONFIG}; make them agree"
        )


def _vocabulary(directory: Path) -> dict[str, int]:
    """Read vocab.txt: a token a line, its id the line's number; the last of several equal ones counts."""
    path = directory / VOCABULARY
    try:
        with path.open(encoding="utf-8", newline="") as file:
            text = file.read()
    except FileNotFoundError:
        raise SourceError(
            f"{directory}: {TOKENIZER} is missing from the checkpoint, and {VOCABULARY} too"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if line != line.rstrip() or "\r" in line:
            raise ExportError(
                f"{path}:{number}: {line!r} ends in white space, which transformers 4.57 keeps and 5 cuts "
                "off; remove it"
            )
    return {line: number for number, line in enumerate(lines)}


# Classes that follow tokenizer.json, and those that only transformers knows.


def _as_it_stands(files: TokenizerFiles, known: _Class, raw: bytes, place: str) -> Tokenizer:
    path = files.directory / TOKENIZER
    if not raw:
        raise SourceError(f"{path}: missing from the checkpoint; {place} names a class that follows it alone")
    made, fresh = (_parsed(path, raw) for _ in range(2))
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
    if known is _ALONE_5:  # which 4.57 cannot load
        return fresh
    _check_added(files, added_to(made), added_to(fresh))
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
        raise SourceError(f"{directory}: transformers cannot load the tokenizer: {error}") from error


def _parsed(path: Path, raw: bytes) -> Tokenizer:
    try:
        return Tokenizer.from_str(raw.decode())
    except Exception as error:  # tokenizers raises plain ones
        import tokenizers

        raise SourceError(
            f"{path}: tokenizers {tokenizers.__version__} cannot read it: {error}; it may be of a newer "
            "kind; type: pip install --upgrade tokenizers"
        ) from error


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


def _lower_first(made: Tokenizer) -> None:
    """Let `Lowercase`, by which accents stay, come first, unless it is there already."""
    stated = made.normalizer
    parts = list(stated) if isinstance(stated, normalizers.Sequence) else [] if stated is None else [stated]
    if not any(isinstance(part, normalizers.Lowercase) for part in parts):
        made.normalizer = normalizers.Sequence([normalizers.Lowercase(), *parts])


# What the files say of types and lengths.


def _set_types(made: Tokenizer, files: TokenizerFiles, known: _Class | None) -> str | None:
    """Give all tokens type 0 where the model is given no types; return why that is in doubt for pairs."""
    names = files.get("model_input_names")
    typed = "token_type_ids" in names if names is not None else known.token_types if known else True
    template = Template.of(made)
    if typed is True or template is None or template == template.without_types():
        return None
    if typed is None and template.single == template.without_types().single:
        return (
            f"{files.place('model_input_names')} is missing, for which transformers 4.57 gives a pair's "
            "second text token type 1, and 5 gives it 0; name the inputs there"
        )
    made.post_processor = template.without_types().processor(made)
    return None


def _side(files: TokenizerFiles) -> str:
    truncation = files.tokenizer.get("truncation") or {}
    side = files.get("truncation_side", str(truncation.get("direction", "Right")).lower())
    if side not in ("left", "right"):
        raise ExportError(f"{files.place('truncation_side')} is {side!r}; expected left or right")
    return str(side)


def _max_length(files: TokenizerFiles) -> int | None:
    stated = files.get("model_max_length", files.get("max_len"))
    return int(stated) if stated is not None and stated < 1e20 else None


# One tokenizer against another.


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


def _text(token: Any) -> str | None:
    return token if token is None or isinstance(token, str) else str(token.content)
