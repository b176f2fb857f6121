"""Where a text may be cut so that its two parts, tokenised apart, give the tokens of the whole.

A tokenizer finds added tokens in the text, normalises what lies between them, and finds added tokens in that.
Then it splits the rest into words and gives each word its tokens. Words know nothing of each other, so a cut
changes nothing where none of the steps looks across it:

- No added token lies at the cut: that is looked for.
- Normalisers look at one character, at one and the marks after it, or at a grapheme. A cut between a letter
  and a single blank, with a letter after it, parts none of them.
- The word before a single blank ends there, whichever of the known kinds splits the text. These are the kinds
  that drop blanks (BERT's), byte-level BPE's expression, and metaspace, whose words begin at the blank.

BERT's words end at punctuation and Chinese characters too. Where any step is of another kind there is no cut.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import tokenizers

PUNCTUATION = r"!-/:-@\[-`{-~"
"""What BERT makes words of their own, as the inside of an expression's brackets; so are the others here."""
CHINESE = "\u3400-\u4db5\u4e00-\u9fcc\U00020000-\U0002a6d6"
"""So it does these, unless it is told not to."""
LETTERS = (
    "0-9A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0391-\u03a1\u03a3-\u03ce\u0400-\u0481\u048a-\u0527"
    "\u05d0-\u05ea\u0620-\u063f\u0641-\u064a\u0904-\u0939\u0e01-\u0e30\u3041-\u3096\u30a1-\u30fa\uac00-\ud7a3"
)
"""Letters that stand for themselves: none is a mark, and none is part of the grapheme before or after it."""

_SPLITTERS = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "ByteLevel", "Metaspace")
_DROPPING = _SPLITTERS[:3]
_NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer", "Precompiled")
# Vowels of Thai and Lao, which some releases of Unicode put into one grapheme with what follows.
_ONCE_PREPENDED = "\u0e40\u0e41\u0e42\u0e43\u0e44\u0ec0\u0ec1\u0ec2\u0ec3\u0ec4"
_LETTERLIKE = ("Lu", "Ll", "Lt", "Lo", "Nd")
# Characters that are searched for a cut first, and how much wider each further search is.
_NEAR, _WIDER = 256, 16


@dataclass(frozen=True)
class Parts:
    """What a tokenizer is made of, as tokenizer.json has it."""

    normalizers: list[dict[str, Any]]
    """The one there is, or a sequence's."""
    splitters: list[dict[str, Any]]
    """Pre-tokenizers, likewise."""
    model: Any
    added: list[tokenizers.AddedToken]

    @classmethod
    def of(cls, tokenizer: tokenizers.Tokenizer) -> Parts:
        """Read them."""
        return cls(
            list(_flat(_state(tokenizer.normalizer), "normalizers")),
            list(_flat(_state(tokenizer.pre_tokenizer), "pretokenizers")),
            tokenizer.model,
            list(tokenizer.get_added_tokens_decoder().values()),
        )

    @property
    def is_bert(self) -> bool:
        """Whether it is BERT's, perhaps lowered first, and no added token is normalised."""
        kinds = [part["type"] for part in self.normalizers]
        return (
            [part["type"] for part in self.splitters] == ["BertPreTokenizer"]
            and kinds in (["BertNormalizer"], ["Lowercase", "BertNormalizer"])
            and not any(token.normalized for token in self.added)
        )


class Breaks:
    """Where a tokenizer's texts may be cut."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        """Find out from the tokenizer's parts."""
        parts = Parts.of(tokenizer)
        self._normalize = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
        self._raw_tokens = [token.content for token in parts.added if not token.normalized]
        self._longest = max(map(len, self._raw_tokens), default=1)
        patterns = []
        blanks = "".join(blank for blank in " \n\t" if self._parts_words(blank, parts))
        if blanks and _is_known(parts) and all(self._keeps_to_words(token, parts) for token in parts.added):
            plain = LETTERS + PUNCTUATION + CHINESE
            patterns.append(rf"(?<=[\w{plain}])[{blanks}](?=[\w{plain}])")
            if parts.is_bert:
                own = PUNCTUATION + CHINESE * bool(parts.normalizers[-1]["handle_chinese_chars"])
                patterns.append(f"(?<=[{own}])(?=[{plain}])|(?<=[{plain}])(?=[{own}])")
        self._pattern = re.compile("|".join(patterns)) if patterns else None
        self._plain = re.compile(f"[{LETTERS}{PUNCTUATION}{CHINESE}]")

    def __bool__(self) -> bool:
        """Whether there are any: the tokenizer is of a known kind."""
        return self._pattern is not None

    def first(self, text: str) -> int | None:
        """Return the first place where a text may be cut, whatever is before it; None if there is none."""
        return next(self.all(text), None)

    def last(self, text: str) -> int | None:
        """Return the last such place, whatever is after the text."""
        width = _NEAR
        while True:
            start = max(0, len(text) - width)
            places = list(self.all(text, start))
            if places or start == 0:
                return places[-1] if places else None
            width *= _WIDER

    def all(self, text: str, start: int = 0) -> Iterator[int]:
        """Yield all places where a text may be cut, from a character on."""
        assert self._pattern is not None
        # Nearer to the ends, an added token may lie there that begins or ends beyond them.
        start = max(start, self._longest)
        for match in self._pattern.finditer(text, start, max(start, len(text) - self._longest)):
            place = match.start()
            if self._is_free(text, place) and (not match[0] or self._is_solid(text, place)):
                yield place

    def _is_free(self, text: str, place: int) -> bool:
        """Say that no added token is found across the place, beside it or beside the blank there."""
        return not any(
            token in text[max(0, place - len(token)) : place + 1 + len(token)] for token in self._raw_tokens
        )

    def _is_solid(self, text: str, place: int) -> bool:
        """Say that the characters around a blank are still there, and no blanks, when they are normalised."""
        neighbours = (text[place - 1], text[place + 1])
        inner = [self._inside(character) for character in neighbours]
        return all(map(self._is_plain, neighbours)) and all(form and form.strip() == form for form in inner)

    def _is_plain(self, character: str) -> bool:
        return self._plain.fullmatch(character) is not None or _is_letter(character)

    def _parts_words(self, blank: str, parts: Parts) -> bool:
        """Say whether words end at a single blank, by what it becomes."""
        form = self._inside(blank)
        first = next((part for part in parts.splitters if part["type"] in _SPLITTERS), None)
        if first is None or len(form) != 1 or not form.isspace():
            return False
        return first["type"] in _DROPPING or form == " " or _keeps_beginning(first)

    def _inside(self, character: str) -> str:
        """Return what a character becomes within a word; at its ends it might be stripped."""
        around = self._normalize("a")
        return str(self._normalize(f"a{character}a")).removeprefix(around).removesuffix(around)

    def _keeps_to_words(self, token: tokenizers.AddedToken, parts: Parts) -> bool:
        """Say that an added token that is looked for in normalised text takes no single blank."""
        if not token.normalized:
            # A token that is searched for in the raw text is looked for at each place; see `_is_free`.
            return True
        form = self._normalize(token.content)
        if token.rstrip and parts.splitters[0]["type"] not in _DROPPING:
            return False
        if form.isspace():
            return len(form) > 1
        return bool(form) and not any(character.isspace() for character in form + token.content)


def _is_letter(character: str) -> bool:
    """Say whether a character of any script stands for itself, as `LETTERS` do.

    Letters and digits since Unicode 3.2, on which all tables agree. None is a mark when it is taken apart
    (Thai's SARA AM is), nor a part of a syllable that is put together (Hangul's).
    """
    if character > "\uffff" or "\u1100" <= character < "\u1200" or character in _ONCE_PREPENDED:
        return False
    table = unicodedata.ucd_3_2_0
    first = table.normalize("NFKD", character)[0]
    return all(table.category(one) in _LETTERLIKE for one in (character, first))


def _is_known(parts: Parts) -> bool:
    kinds = [part["type"] for part in parts.splitters]
    first = next((place for place, kind in enumerate(kinds) if kind in _SPLITTERS), None)
    if first is None or not all(_is_local(part, parts.splitters) for part in parts.normalizers):
        return False
    splitter = parts.splitters[first]
    return (
        splitter.get("use_regex", True)
        and splitter.get("split", True)
        and all(_is_by_character(part) for part in parts.splitters[:first])
        and all(part["type"] in _SPLITTERS or _is_by_character(part) for part in parts.splitters[first + 1 :])
    )


def _is_local(normalizer: dict[str, Any], splitters: list[dict[str, Any]]) -> bool:
    """Say whether a normaliser does the same on both sides of a cut at a single blank between letters."""
    kind = normalizer["type"]
    if kind == "Strip":
        # The blank before the second part goes: that is nothing where it is dropped, or put back at once.
        restored = splitters[0]["type"] in _DROPPING or splitters[0].get("prepend_scheme") == "always"
        return restored or not normalizer["strip_left"]
    if kind == "Replace":
        return _replaces_within_words(normalizer)
    return kind in _NORMALIZERS


def _replaces_within_words(normalizer: dict[str, Any]) -> bool:
    pattern, content = normalizer["pattern"], normalizer["content"]
    if "Regex" in pattern:
        return bool(pattern["Regex"] == " {2,}")
    return bool(content) and not any(character.isspace() for character in pattern["String"] + content)


def _is_by_character(splitter: dict[str, Any]) -> bool:
    """Say whether a pre-tokenizer splits by what each character is."""
    return splitter["type"] == "Digits" or (
        splitter["type"] == "Punctuation" and splitter["behavior"] in ("Isolated", "Contiguous")
    )


def _keeps_beginning(splitter: dict[str, Any]) -> bool:
    """Say whether it is byte-level, and puts no space in front of a text that begins with another blank."""
    return splitter["type"] == "ByteLevel" and not splitter["add_prefix_space"]


def _state(part: Any) -> dict[str, Any] | None:
    return None if part is None else json.loads(part.__getstate__())


def _flat(part: dict[str, Any] | None, members: str) -> Iterable[dict[str, Any]]:
    if part is None:
        return
    if part["type"] != "Sequence":
        yield part
        return
    for member in part[members]:
        yield from _flat(member, members)
