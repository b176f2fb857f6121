"""Texts far longer than a role's max_length: no more of them is tokenised than can reach their first tokens.

A text is read from the side that is kept, as far as a place where it may be cut (breaks.py). If that part is
cut to max_length, the whole text is cut to the same tokens. Otherwise twice as much is read. Characters that
give no tokens are removed meanwhile (ignored.py), so megabytes of them are not held.

A pair is cut by the lengths of both sides: the shorter one is kept as far as it fits. Once both have more
tokens than max_length, only which of them has more matters: it gets the odd token. That is counted piece
by piece, until the shorter one ends.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Literal

import tokenizers

from paritas.engine.tokenize.breaks import Breaks
from paritas.engine.tokenize.ignored import RemoveIgnored, ignored_remover

# Characters for each token of max_length: texts of more are cut. Prose has 4 to 5.
LONG = 16
# As many of them are read first; of each side of a pair fewer, for what is cut off both comes in all
# combinations: 1,000 tokens too many on both sides take 40 times as long as on one.
_FIRST = 8
_FIRST_OF_PAIR = 2
# Characters read at a time, at most.
_BLOCK = 1 << 18

_Text = str | tuple[str, str]


class LongTexts:
    """A tokenizer that cuts to one length, made to take texts of any size. May be used by many threads."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, side: Literal["right", "left"]) -> None:
        """Take a tokenizer, which is only read.

        Args:
            tokenizer: its truncation is set, its padding is not.
            side: where tokens are cut off.
        """
        self._tokenizer = tokenizer
        self._from_end = side == "left"
        self._max_length = int(tokenizer.truncation["max_length"])
        # With less room than special tokens take, the tokenizer cuts nothing off.
        cuts = tokenizer.num_special_tokens_to_add(True) <= self._max_length
        self._long = LONG * self._max_length if cuts else sys.maxsize

    def encode(self, texts: Sequence[_Text], prompt: str = "") -> list[tokenizers.Encoding]:
        """Tokenise texts as the tokenizer does.

        Args:
            texts: all single, or all pairs.
            prompt: stands in front of each single text.

        Returns:
            for each text: its ids, type ids, and whether anything was cut off, are those that the whole text
            gives. What was cut off is not all of it.
        """
        if not any(map(self._is_long, texts)):
            return self._encode([_prompted(text, prompt) for text in texts])
        more = [self._tries(text, prompt) for text in texts]
        encodings = self._encode([next(tries) for tries in more])
        for place, tries in enumerate(more):
            for longer in tries if not encodings[place].overflowing else ():
                encodings[place] = self._encode([longer])[0]
                if encodings[place].overflowing:
                    break
        return encodings

    def _encode(self, texts: list[Any]) -> list[tokenizers.Encoding]:
        if len(texts) != 1:
            return list(self._tokenizer.encode_batch(texts))
        # A batch goes through threads that all callers share, where one query would wait behind bulk.
        text = texts[0]
        return [self._tokenizer.encode(text) if isinstance(text, str) else self._tokenizer.encode(*text)]

    def _is_long(self, text: _Text) -> bool:
        if isinstance(text, str):
            return len(text) > self._long and bool(self._breaks)
        shorter, longer = sorted(map(len, text))
        return (longer > self._long or shorter > self._long // LONG) and bool(self._breaks)

    def _tries(self, text: _Text, prompt: str) -> Iterator[_Text]:
        """Yield what to tokenise for a text: enough if it is cut to max_length, else take the next."""
        if not self._is_long(text):
            return iter([_prompted(text, prompt)])
        return self._parts(text, prompt, _FIRST) if isinstance(text, str) else iter([self._pair(*text)])

    def _parts(self, text: str, prompt: str, first: int) -> Iterator[str]:
        """Yield longer and longer parts of a text, from the side that is kept; at last the whole.

        Each but the last ends where it may be cut. The first has so many characters for each token.
        """
        wanted = size = first * self._max_length
        held = self._taken(prompt, text, 0, size)
        read = size
        while True:
            while len(held) < wanted and read < len(text):
                block = self._taken(prompt, text, read, read + size)
                held = self._remove_ignored(block + held if self._from_end else held + block)
                read += size
                size = min(2 * size, _BLOCK)
            if read >= len(text) and len(held) <= wanted:
                yield held
                return
            part = self._cut(held[-wanted:] if self._from_end else held[:wanted])
            if part:
                yield part
            wanted *= 2

    def _taken(self, prompt: str, text: str, start: int, stop: int) -> str:
        """Return characters of a text, counted from the side that is kept; the prompt comes with them."""
        if not self._from_end:
            return (prompt if start == 0 else "") + text[start:stop]
        return (prompt if stop >= len(text) else "") + text[max(0, len(text) - stop) : len(text) - start]

    def _cut(self, text: str) -> str:
        place = self._breaks.first(text) if self._from_end else self._breaks.last(text)
        if place is None:
            return ""
        return text[place:] if self._from_end else text[:place]

    # Pairs.

    def _pair(self, *pair: str) -> tuple[str, str]:
        """Return parts of a pair's sides that are cut as the whole pair is."""
        more = [self._parts(side, "", _FIRST_OF_PAIR) for side in pair]
        first, second = ([*self._until_full(parts)][-1] for parts in more)
        odd = (self._max_length - self._tokenizer.num_special_tokens_to_add(True)) % 2
        if odd and self._is_full(first) and self._is_full(second):
            # They are cut to halves, and the odd token goes to the second side unless the first has more.
            if self._has_more(*pair):
                while self._count(first) <= self._count(second):
                    first = next(more[0])
            else:
                while self._count(first) > self._count(second):
                    second = next(more[1])
        return first, second

    def _until_full(self, parts: Iterator[str]) -> Iterator[str]:
        for part in parts:
            yield part
            if self._is_full(part):
                return

    def _is_full(self, side: str) -> bool:
        """Say whether a side by itself has more tokens than max_length."""
        return bool(self._tokenizer.encode(side, add_special_tokens=False).overflowing)

    def _has_more(self, first: str, second: str) -> bool:
        """Say whether the first of two texts has more tokens."""
        totals = self._totals(first), self._totals(second)
        counted = [0, 0]
        while True:
            behind = int(counted[0] > counted[1])
            total = next(totals[behind], None)
            if total is None:
                return bool(behind)
            counted[behind] = total

    def _totals(self, text: str) -> Iterator[int]:
        """Yield how many tokens a text has up to one place, and another, and at last in all."""
        total, held, size = 0, "", _FIRST * self._max_length
        for start in range(0, len(text), size):
            held = self._remove_ignored(held + text[start : start + size])
            place = self._breaks.last(held)
            if place is not None:
                total += self._count(held[:place])
                held = held[place:]
                yield total
        yield total + self._count(held)

    def _count(self, text: str) -> int:
        return len(self._unlimited.encode(text, add_special_tokens=False).ids)

    # What texts of ordinary length never need.

    @cached_property
    def _breaks(self) -> Breaks:
        return Breaks(self._tokenizer)

    @cached_property
    def _remove_ignored(self) -> RemoveIgnored:
        return ignored_remover(self._tokenizer)

    @cached_property
    def _unlimited(self) -> tokenizers.Tokenizer:
        unlimited = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        unlimited.no_truncation()
        return unlimited


def _prompted(text: _Text, prompt: str) -> _Text:
    """Return a text with the prompt in front; pairs have none."""
    return prompt + text if prompt and isinstance(text, str) else text
