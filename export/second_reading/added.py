"""Added tokens: the words of a tokenizer that are cut out of a text before anything else happens to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from paritas.export.second_reading.characters import SPACES, is_word

Normalize = Callable[[str], str]

_BLANKS = "".join(SPACES)


class UnknownPartError(Exception):
    """A part of a tokenizer that is not known here: its name, what it is, and what is known."""

    def __init__(self, name: str, found: object, known: Sequence[str]) -> None:
        super().__init__(name, found, known)
        self.name, self.found, self.known = name, found, known


@dataclass(frozen=True)
class Token:
    """One added token and where it may stand."""

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    special: bool = False
    normalized: bool | None = None
    """Whether it is looked for in the normalized text; None means where it is not special."""

    def settled(self) -> Token:
        """Return the same token with `normalized` decided."""
        decided = not self.special if self.normalized is None else self.normalized
        return Token(self.content, self.single_word, self.lstrip, self.rstrip, self.special, decided)


class AddedTokens:
    """The added tokens of one tokenizer, in the order in which they came."""

    def __init__(self, vocabulary: Mapping[str, int], *, split_special: bool = False) -> None:
        """Start without any.

        Args:
            vocabulary: the model's own words; an added token that is one of them keeps its id.
            split_special: read special tokens in a text as plain text.
        """
        self._vocabulary = vocabulary
        self._split_special = split_special
        self._ids: dict[str, int] = {}
        self._latest: dict[int, Token] = {}
        self._special: dict[str, Token] = {}
        self._plain: list[Token] = []

    @property
    def contents(self) -> list[str]:
        """The texts of the tokens."""
        return [token.content for token in self._latest.values()]

    def add(self, tokens: Sequence[Token]) -> None:
        """Add tokens; one that is there already takes the flags given last.

        Two facts stay as they were when a content first came: whether it is looked for before or after
        normalization, and whether it is special.
        """
        tokens = [token.settled() for token in tokens if token.content]
        for token in tokens:
            if token.special:
                self._special.setdefault(token.content, token)
        size = len(self._vocabulary)
        fresh = max(size, max(self._latest, default=-1) + 1)
        known = set(self._latest.values())
        for token in tokens:
            if token in known:
                continue
            known.add(token)
            number = self._ids.get(token.content, self._vocabulary.get(token.content))
            if number is None:
                number, fresh = fresh, fresh + 1
            self._ids[token.content] = number
            self._latest[number] = token
            if token.content not in self._special:
                self._plain.append(token)

    def patterns(self, normalize: Normalize) -> tuple[Pattern, Pattern]:
        """Return what finds the tokens, in a text as it is and in a normalized one.

        Raises:
            UnknownPartError: normalization leaves nothing of a token.
        """
        before: dict[str, int] = {}
        after: dict[str, int] = {}
        # Of two tokens that read the same, the first is found.
        for token in [*self._special.values(), *self._plain]:
            number = self._ids[token.content]
            if not token.normalized:
                before.setdefault(token.content, number)
                continue
            content = normalize(token.content)
            if not content:
                known = ["tokens that normalization leaves something of"]
                raise UnknownPartError("added_tokens.content", token.content, known)
            after.setdefault(content, number)
        return self._pattern(before), self._pattern(after)

    def _pattern(self, numbers: dict[str, int]) -> Pattern:
        ignored = set(self._special) if self._split_special else set()
        flags = {number: self._latest[number] for number in numbers.values()}
        return Pattern(
            numbers, flags, {number for number, token in flags.items() if token.content in ignored}
        )


class Pattern:
    """Finds some added tokens: the leftmost first, of those the longest."""

    def __init__(self, numbers: dict[str, int], flags: dict[int, Token], ignored: set[int]) -> None:
        self._numbers, self._flags, self._ignored = numbers, flags, ignored
        words = sorted(numbers, key=len, reverse=True)
        self._expression = re.compile("|".join(map(re.escape, words))) if words else None

    def split(self, text: str) -> Iterator[str | int]:
        """Return a text's parts in order: ids of tokens, and what stands between them."""
        end = 0
        for number, first, last in self._found(text):
            flags = self._flags[number]
            start = len(text[:first].rstrip(_BLANKS)) if flags.lstrip else first
            if end < start:
                yield text[end:start]
            yield number
            end = len(text) - len(text[last:].lstrip(_BLANKS)) if flags.rstrip else last
        if end < len(text):
            yield text[end:]

    def _found(self, text: str) -> Iterator[tuple[int, int, int]]:
        for match in self._expression.finditer(text) if self._expression else ():
            number, (start, stop) = self._numbers[match.group()], match.span()
            if number in self._ignored:
                continue
            if self._flags[number].single_word and (
                (start > 0 and is_word(text[start - 1])) or (stop < len(text) and is_word(text[stop]))
            ):
                continue
            yield number, start, stop
