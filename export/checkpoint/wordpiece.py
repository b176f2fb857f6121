"""The tokenizers of BERT and MPNet: WordPiece, made as transformers 4.57 makes them, if 5 makes the same.

4.57 loads tokenizer.json, sets three parts of its normaliser by the class and the other files, and adds
tokens. 5 makes the whole anew, from the vocabulary, the class and the other files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from paritas.errors import ExportError, SourceError
from paritas.export.checkpoint.added_tokens import (
    TokenizerFiles,
    add_declared,
    add_declared_5,
    added_to,
    check_added,
    check_ids,
    named,
)
from paritas.export.checkpoint.files import TOKENIZER, TOKENIZER_CONFIG, VOCABULARY, brief
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
class TokenizerClass:
    """One of transformers' tokenizer classes that paritas knows by itself."""

    defaults: Callable[[], Mapping[str, str | AddedToken]]
    token_types: bool | None
    """A pair's second text has token type 1 by default; None where transformers 4.57 and 5 disagree."""
    wordpiece: bool = True
    """It is BERT's WordPiece, which overrules tokenizer.json; else tokenizer.json alone rules."""
    double_separator: bool = False
    """Two of them stand between the texts of a pair."""


BERT = TokenizerClass(lambda: _BERT_TOKENS, token_types=True)
DISTILBERT = TokenizerClass(lambda: _BERT_TOKENS, token_types=False)
MPNET = TokenizerClass(_mpnet_tokens, token_types=False, double_separator=True)
ALONE = TokenizerClass(dict, token_types=None, wordpiece=False)
ALONE_5 = TokenizerClass(dict, token_types=False, wordpiece=False)


def make_wordpiece(files: TokenizerFiles, known: TokenizerClass, raw: bytes) -> Tokenizer:
    """Return BERT's or MPNet's tokenizer as transformers 4.57 makes it, if 5 makes the same."""
    tokens = named(files, known.defaults())
    unknown = _text(tokens.get("unk_token"))
    if unknown is None:
        raise ExportError(f"{files.place('unk_token')} is null; expected a token of the vocabulary")
    chinese = files.get("tokenize_chinese_chars", True)
    if raw:
        made = parse_tokenizer(files.directory / TOKENIZER, raw)
        _check_wordpiece(files, unknown)
        if known is MPNET:  # whose class of 4.57 takes this one from tokenizer.json
            _agree(files, "normalizer.handle_chinese_chars", chinese)
    else:
        made = Tokenizer(models.WordPiece(read_vocabulary(files.directory), unk_token=unknown))
        made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(prefix="##")
    made.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=chinese,
        strip_accents=files.get("strip_accents"),
        lowercase=files.get("do_lower_case", True),
    )
    if made.token_to_id(unknown) is None:
        raise ExportError(f"{files.place('unk_token')} is {unknown!r}; expected a token of the vocabulary")
    fresh = Tokenizer(models.WordPiece(made.get_vocab(with_added_tokens=False), unk_token=unknown))
    add_declared(made, files, known.defaults())
    add_declared_5(fresh, files, known.defaults())
    check_added(files, added_to(made), added_to(fresh))
    expected = _surroundings(files, known, made, tokens)
    if raw:
        _check_template(files, made, expected)
    else:
        check_ids(files, made)
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
    stated = files.tokenizer.get(part)
    value = stated.get(name) if isinstance(stated, Mapping) else stated
    if value != expected:
        raise ExportError(
            f"{files.directory / TOKENIZER}: {key} is {brief(value)}, which transformers 4.57 takes; 5 makes "
            f"it {expected!r} by the class and {TOKENIZER_CONFIG}; make them agree, or name the "
            f"tokenizer_class PreTrainedTokenizerFast if {TOKENIZER} is right"
        )


def _surroundings(
    files: TokenizerFiles, known: TokenizerClass, made: Tokenizer, tokens: Mapping[str, str | AddedToken]
) -> Template:
    """Return what a WordPiece class puts around texts."""
    first, last = (made.token_to_id(_text(tokens.get(name)) or "") for name in ("cls_token", "sep_token"))
    if first is None or last is None:
        name = "cls_token" if first is None else "sep_token"
        raise ExportError(
            f"{files.place(name)} is {_text(tokens.get(name))!r}; expected a token of the vocabulary"
        )
    single = ((first, 0), ("A", 0), (last, 0))
    between = ((last, 0),) if known.double_separator else ()
    return Template(single, (*single, *between, ("B", 1), (last, 1)))


def _check_template(files: TokenizerFiles, made: Tokenizer, expected: Template) -> None:
    own = Template.of(made)
    if own is None or own.single != expected.single:
        raise ExportError(
            f"{files.directory / TOKENIZER}: post_processor puts {own} around texts, which transformers 4.57 "
            f"takes; 5 puts {expected}, by cls_token and sep_token of {TOKENIZER_CONFIG}; make them agree"
        )


def doubt_pairs(files: TokenizerFiles, known: TokenizerClass, made: Tokenizer) -> str | None:
    """Return why it is not certain what surrounds the texts of a pair, None where it is."""
    own, expected = Template.of(made), _surroundings(files, known, made, named(files, known.defaults()))
    if known.token_types is False:
        own, expected = own and own.without_types(), expected.without_types()
    if own == expected:
        return None
    return (
        f"{files.directory / TOKENIZER}: post_processor puts {own} around pairs, which transformers 4.57 "
        f"takes; 5 puts {expected}; make it so"
    )


def read_vocabulary(directory: Path) -> dict[str, int]:
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


def parse_tokenizer(path: Path, raw: bytes) -> Tokenizer:
    try:
        return Tokenizer.from_str(raw.decode())
    except Exception as error:  # tokenizers raises plain ones
        import tokenizers

        raise SourceError(
            f"{path}: tokenizers {tokenizers.__version__} cannot read it: {error}; it may be of a newer "
            "kind; type: pip install --upgrade tokenizers"
        ) from error


def _text(token: Any) -> str | None:
    return token if token is None or isinstance(token, str) else str(token.content)
