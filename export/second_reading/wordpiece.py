"""WordPiece in Python: a text's token ids as transformers' fast tokenizers give them.

It has nothing from the library that runs in the engine, so that the two can be held against each other.
What the files of a checkpoint mean stands in `export/checkpoint/wordpiece.py`; what is then done to a text
stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

from paritas.export.second_reading.added import Normalize, Pattern, UnknownPartError
from paritas.export.second_reading.characters import (
    SPACES,
    Each,
    cleaned,
    is_chinese,
    is_mark,
    is_nonspacing,
    is_punctuation,
    is_word,
    lowercase,
    normal_form,
)

Words = Callable[[str], list[str]]


# Normalizers: what is done to a text's characters.


def normalizer(settings: dict[str, Any] | None) -> Normalize:
    """Return the normalizer that an entry of tokenizer.json describes.

    Raises:
        UnknownPartError: one that is not known here.
    """
    if settings is None:
        return str
    known: dict[str, Callable[[dict[str, Any]], Normalize]] = {
        "BertNormalizer": _bert_normalizer,
        "Lowercase": lambda _: _each(lowercase),
        "NFC": lambda _: lambda text: normal_form("NFC", text),
        "NFD": lambda _: lambda text: normal_form("NFD", text),
        "NFKC": lambda _: lambda text: normal_form("NFKC", text),
        "NFKD": lambda _: lambda text: normal_form("NFKD", text),
        "Replace": _replace,
        "Sequence": lambda settings: _in_turn([normalizer(part) for part in settings["normalizers"]]),
        "Strip": _strip,
        "StripAccents": lambda _: _each(lambda character: "" if is_mark(character) else character),
    }
    if settings.get("type") not in known:
        raise UnknownPartError("normalizer.type", settings.get("type"), sorted(known))
    return known[settings["type"]](settings)


def _each(change: Callable[[str], str]) -> Normalize:
    table = Each(change)
    return lambda text: text.translate(table)


def _in_turn(steps: Sequence[Normalize]) -> Normalize:
    def normalize(text: str) -> str:
        for step in steps:
            text = step(text)
        return text

    return normalize


def _bert_normalizer(settings: dict[str, Any]) -> Normalize:
    clean, chinese = settings["clean_text"], settings["handle_chinese_chars"]
    lower, strip = settings["lowercase"], settings.get("strip_accents")

    def first(character: str) -> str:
        if chinese and is_chinese(character):
            return f" {character} "
        return cleaned(character) if clean else character

    def last(character: str) -> str:
        if strip and is_nonspacing(character):
            return ""
        return lowercase(character) if lower else character

    strip = lower if strip is None else strip
    steps = [_each(first)]
    if strip:
        steps.append(lambda text: normal_form("NFD", text))
    if strip or lower:
        steps.append(_each(last))
    return _in_turn(steps)


def _replace(settings: dict[str, Any]) -> Normalize:
    pattern = settings["pattern"]
    if not pattern.get("String"):
        raise UnknownPartError("normalizer.pattern", pattern, ["a String"])
    return lambda text: text.replace(pattern["String"], settings["content"])


def _strip(settings: dict[str, Any]) -> Normalize:
    blanks = "".join(SPACES)

    def strip(text: str) -> str:
        text = text.lstrip(blanks) if settings["strip_left"] else text
        return text.rstrip(blanks) if settings["strip_right"] else text

    return strip


# Pre-tokenizers: where a text is cut into words.


def pre_tokenizer(settings: dict[str, Any] | None) -> Words:
    """Return the pre-tokenizer that an entry of tokenizer.json describes.

    Raises:
        UnknownPartError: one that is not known here.
    """
    if settings is None:
        return lambda text: [text] if text else []
    known: dict[str, Callable[[], Words]] = {
        "BertPreTokenizer": lambda: _split_after(
            lambda character: f" {character} " if is_punctuation(character) else _blank(character)
        ),
        "Sequence": lambda: _one_by_one([pre_tokenizer(part) for part in settings["pretokenizers"]]),
        "Whitespace": lambda: _runs,
        "WhitespaceSplit": lambda: _split_after(_blank),
    }
    if settings.get("type") not in known:
        raise UnknownPartError("pre_tokenizer.type", settings.get("type"), sorted(known))
    return known[settings["type"]]()


def _blank(character: str) -> str:
    return " " if character in SPACES else character


def _split_after(change: Callable[[str], str]) -> Words:
    table = Each(change)
    return lambda text: [word for word in text.translate(table).split(" ") if word]


def _one_by_one(steps: Sequence[Words]) -> Words:
    def split(text: str) -> list[str]:
        words = [text]
        for step in steps:
            words = [part for word in words for part in step(word)]
        return words

    return split


def _runs(text: str) -> list[str]:
    """Return the runs of word characters, and those of other characters, that white space leaves."""
    runs = groupby(text, lambda character: character in SPACES or (is_word(character), "run"))
    return ["".join(run) for kind, run in runs if kind is not True]


# The model, and what is put around its tokens.


@dataclass(frozen=True)
class Model:
    """A vocabulary, and how words are cut into its pieces."""

    vocabulary: dict[str, int]
    unknown: int
    prefix: str = "##"
    longest_word: int = 100
    """In characters; a longer word is unknown as a whole."""
    _pieces: dict[str, list[int]] = field(default_factory=dict)

    def pieces(self, word: str) -> list[int]:
        """Return the ids of a word's pieces: the longest that fits, again and again."""
        if word not in self._pieces:
            self._pieces[word] = self._cut(word)
        return self._pieces[word]

    def _cut(self, word: str) -> list[int]:
        numbers: list[int] = []
        start = 0 if len(word) <= self.longest_word else len(word) + 1
        while start < len(word):
            prefix = self.prefix if start else ""
            for end in range(len(word), start, -1):
                number = self.vocabulary.get(prefix + word[start:end])
                if number is not None:
                    numbers.append(number)
                    start = end
                    break
            else:
                start = len(word) + 1
        return numbers if start == len(word) else [self.unknown]


@dataclass(frozen=True)
class Piece:
    """One place of a template: a text, or tokens that are always there."""

    of: Literal["A", "B"] | tuple[int, ...]
    type_id: int


Template = tuple[Piece, ...]


def templates(settings: dict[str, Any] | None) -> tuple[Template, Template]:
    """Return what stands around one text, and around a pair, from an entry of tokenizer.json.

    Raises:
        UnknownPartError: a post-processor that is not known here.
    """
    if settings is None:
        return (Piece("A", 0),), (Piece("A", 0), Piece("B", 1))
    kind = settings.get("type")
    if kind == "TemplateProcessing":
        special = settings["special_tokens"]
        return _template(settings["single"], special), _template(settings["pair"], special)
    if kind not in ("BertProcessing", "RobertaProcessing"):
        known = ["BertProcessing", "RobertaProcessing", "TemplateProcessing"]
        raise UnknownPartError("post_processor.type", kind, known)
    first, separator = ((int(settings[name][1]),) for name in ("cls", "sep"))
    single = (Piece(first, 0), Piece("A", 0), Piece(separator, 0))
    if kind == "BertProcessing":
        return single, (*single, Piece("B", 1), Piece(separator, 1))
    return single, (*single, Piece(separator, 0), Piece("B", 0), Piece(separator, 0))


def _template(pieces: list[dict[str, Any]], special: dict[str, Any]) -> Template:
    found = []
    for piece in pieces:
        ((kind, entry),) = piece.items()
        of = entry["id"] if kind == "Sequence" else tuple(special[entry["id"]]["ids"])
        found.append(Piece(of, entry["type_id"]))
    return tuple(found)


@dataclass(frozen=True)
class WordPiece:
    """A tokenizer, ready to encode."""

    name: str
    model: Model
    normalize: Normalize
    words: Words
    added: tuple[Pattern, Pattern]
    """Of a text as it is, and of a normalized one."""
    single: Template
    pair: Template
    cut_left: bool = False
    """Whether a text that is too long loses its beginning."""
    types: bool = True
    """Whether the model is given token types; without, they are all 0."""

    def encode(self, text: str | tuple[str, str], max_length: int) -> tuple[list[int], list[int]]:
        """Return input_ids and token_type_ids, special tokens added, cut to max_length.

        A max_length with no room for the special tokens cuts nothing, as in transformers.
        """
        texts = [text] if isinstance(text, str) else list(text)
        template = self.single if len(texts) == 1 else self.pair
        room = max_length - sum(len(piece.of) for piece in template if isinstance(piece.of, tuple))
        numbers = [self._numbers(part) for part in texts]
        if room >= 0:
            lengths = _lengths([len(part) for part in numbers], room)
            numbers = [self._cut(part, length) for part, length in zip(numbers, lengths, strict=True)]
        places = {"A": numbers[0], "B": numbers[-1]}
        input_ids: list[int] = []
        type_ids: list[int] = []
        for piece in template:
            part = list(piece.of) if isinstance(piece.of, tuple) else places[piece.of]
            input_ids += part
            type_ids += [piece.type_id if self.types else 0] * len(part)
        return input_ids, type_ids

    def _numbers(self, text: str) -> list[int]:
        numbers: list[int] = []
        before, after = self.added
        for part in before.split(text):
            for rest in [part] if isinstance(part, int) else after.split(self.normalize(part)):
                if isinstance(rest, int):
                    numbers.append(rest)
                else:
                    numbers += [piece for word in self.words(rest) for piece in self.model.pieces(word)]
        return numbers

    def _cut(self, numbers: list[int], length: int) -> list[int]:
        return numbers[max(len(numbers) - length, 0) :] if self.cut_left else numbers[:length]


def _lengths(counts: list[int], room: int) -> list[int]:
    """Return how many tokens each text keeps: the longer one gives first, then both alike."""
    if sum(counts) <= room:
        return counts
    if len(counts) == 1:
        return [room]
    short = min(counts)
    half = room // 2
    low, high = (short, room - short) if short <= half else (half, room - half)
    # Of two equally long texts, the second keeps the odd token.
    return [high, low] if counts[0] > counts[1] else [low, high]
