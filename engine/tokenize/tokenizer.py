"""From texts to token ids: those of transformers' fast tokenizer, truncation included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import tokenizers
from numpy.typing import NDArray

from paritas import files
from paritas.arguments import plain
from paritas.engine.bundle.manifest import TOKENIZER, Contract
from paritas.engine.tokenize.long_texts import LONG, LongTexts
from paritas.errors import BundleError, InputError, did_you_mean
from paritas.registry import Role

# Texts tokenised at a time: enough to keep every CPU of the tokenizer busy. What it returns weighs 150 bytes
# a token, with words and offsets that nobody reads: 8,192 paragraphs at once took 200 MB, 256 at once 30.
_CHUNK = 128
# Their characters, for each token of max_length: prose has more, but each may be a token (Chinese ones are).
_CHUNK_CHARACTERS = 3 * _CHUNK
# For each token of the longest text: what those characters take at most, one token each.
CHUNK_BYTES = _CHUNK_CHARACTERS * 165

# Characters of a text that are checked at a time.
_ENCODED = 1 << 16

Text = str | tuple[str, str]
"""A text, or for a role with pairs (title, text)."""


class TokenArrays(NamedTuple):
    """Tokens of texts side by side, as a graph takes them: int64, (batch, length)."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    """1 for tokens, 0 for padding."""
    token_type_ids: NDArray[np.int64]


@dataclass(frozen=True)
class Tokens:
    """The tokens of many texts, end to end."""

    input_ids: NDArray[np.int32]
    """(tokens,)"""
    token_type_ids: NDArray[np.int32]
    """(tokens,); 0 for the first of a pair and for single texts, 1 for the second."""
    lengths: NDArray[np.int64]
    """(texts,)"""
    truncated: NDArray[np.bool_]
    """(texts,); True where tokens were cut off."""

    @classmethod
    def concatenate(cls, parts: Sequence[Tokens]) -> Tokens:
        """Join the tokens of several calls, in order."""
        if not parts:
            none = np.zeros(0, np.int32)
            return cls(none, none, none.astype(np.int64), none.astype(np.bool_))
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([part.input_ids for part in parts]),
            np.concatenate([part.token_type_ids for part in parts]),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.truncated for part in parts]),
        )

    def arrays(self, rows: NDArray[np.int64], length: int) -> TokenArrays:
        """Lay some texts' tokens out side by side.

        Args:
            rows: the texts, (batch,).
            length: of the longest of them, or more.
        """
        columns = np.arange(length)
        mask = columns < self.lengths[rows][:, None]
        starts = self._starts[rows][:, None]
        # Padding reads some other text's tokens; the mask takes them out again.
        places = np.minimum(starts + columns, len(self.input_ids) - 1)
        input_ids = np.where(mask, self.input_ids[places], 0)
        type_ids = np.where(mask, self.token_type_ids[places], 0)
        return TokenArrays(input_ids.astype(np.int64), mask.astype(np.int64), type_ids.astype(np.int64))

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum(self.lengths) - self.lengths


class Piece(NamedTuple):
    """A token and its place in a text."""

    id: int
    text: str
    """What of the text it stands for; a special token's own name."""
    special: bool
    """The tokenizer added it."""
    start: int
    stop: int
    """Characters of the text, or of its side of a pair; both 0 for a special token."""


class Tokenizer:
    """A bundle's tokenizer. May be used by many threads at once."""

    @cached_property
    def vocabulary(self) -> int:
        """The number of tokens there are, those added after training included."""
        return max(int(tokenizer.get_vocab_size()) for tokenizer in self._by_length.values())

    def __init__(
        self,
        path: Path,
        roles: Mapping[str, Role],
        *,
        truncation_side: Literal["right", "left"] = "right",
    ) -> None:
        """Read a tokenizer.json.

        Args:
            path: the file.
            roles: how texts of each role are tokenised.
            truncation_side: where tokens beyond a role's max_length are cut off.

        Raises:
            BundleError: the file is no tokenizer.
        """
        self._roles = dict(roles)
        try:
            text = files.read(path).decode()
            # A tokenizer holds its truncation as state, so each length has one of its own: nothing is
            # switched between calls, and threads need no lock.
            lengths = {role.max_length for role in roles.values()}
            self._by_length = {length: _tokenizer(text, length, truncation_side) for length in lengths}
            self._long_texts = {
                length: LongTexts(tokenizer, truncation_side) for length, tokenizer in self._by_length.items()
            }
        except Exception as error:
            raise BundleError(f"{path}: not a tokenizer: {error}") from error

    @classmethod
    def of(cls, directory: Path, contract: Contract) -> Tokenizer:
        """Read the tokenizer of a bundle's directory as its contract says; errors as above."""
        return cls(directory / TOKENIZER, contract.roles, truncation_side=contract.truncation_side)

    @property
    def tokens(self) -> dict[str, int]:
        """The id of each token, those added after training included."""
        return dict(next(iter(self._by_length.values())).get_vocab(with_added_tokens=True))

    @cached_property
    def _special(self) -> set[int]:
        added = next(iter(self._by_length.values())).get_added_tokens_decoder()
        return {number for number, token in added.items() if token.special}

    @property
    def added(self) -> list[str]:
        """The tokens that are found in a text as they stand: special ones, and those added after training."""
        added = next(iter(self._by_length.values())).get_added_tokens_decoder()
        return [added[number].content for number in sorted(added)]

    def role(self, name: str) -> Role:
        """Return a role.

        Raises:
            InputError: the model has none of that name.
        """
        if not isinstance(name, str):
            raise InputError(f"role is {name!r}; expected one of {', '.join(self._roles)}")
        if name not in self._roles:
            raise InputError(f"unknown role {name!r}{did_you_mean(name, self._roles)}")
        return self._roles[name]

    def encode(self, texts: Sequence[Text], role: str) -> Tokens:
        """Tokenise texts, prompt and special tokens added, cut to the role's max_length.

        Pairs are cut from the longer side first. Texts are taken as checked by `check_texts`. Of those longer
        than 16 characters a token, only what can reach the first max_length tokens is tokenised.
        """
        rule = self.role(role)
        encode = self._long_texts[rule.max_length].encode
        return Tokens.concatenate(
            [_tokens(encode(part, rule.prompt)) for part in _chunks(texts, rule.max_length)]
        )

    def pieces(self, texts: Sequence[object], role: str, *, special: bool = True) -> list[list[Piece]]:
        """Return the tokens of texts with their places, the prompt in front, nothing cut off.

        Args:
            texts: as `check_texts` takes them; of any length, so their tokens may take any memory.
            role: how they are tokenised.
            special: with the tokens that the tokenizer adds.

        Raises:
            InputError: unknown role, or as `check_texts`.
        """
        rule = self.role(role)
        checked = check_texts(texts, rule)
        whole = [rule.prompt + text if isinstance(text, str) else text for text in checked]
        encodings = self._uncut.encode_batch(whole, add_special_tokens=special)
        return [_pieces(text, encoding) for text, encoding in zip(whole, encodings, strict=True)]

    @cached_property
    def _uncut(self) -> tokenizers.Tokenizer:
        uncut = tokenizers.Tokenizer.from_str(next(iter(self._by_length.values())).to_str())
        uncut.no_truncation()
        return uncut

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens left out; tokenised again it has the same, as a rule.

        Raises:
            InputError: an id that no token has.
        """
        unknown = [number for number in ids if not 0 <= number < self.vocabulary]
        if unknown:
            raise InputError(f"token id {unknown[0]}; the model has 0 to {self.vocabulary - 1}")
        return str(next(iter(self._by_length.values())).decode(list(ids), skip_special_tokens=True))

    def prompt_tokens(self, role: str) -> int:
        """Return how many tokens a role's prompt takes at the beginning of each text, special ones included.

        As sentence-transformers counts them: those of the prompt by itself, but for a special one at its end.
        """
        rule = self.role(role)
        if not rule.prompt:
            return 0
        ids = self.encode([""], role).input_ids
        return len(ids) - int(int(ids[-1]) in self._special)


def _pieces(text: Text, encoding: tokenizers.Encoding) -> list[Piece]:
    sides = (text,) if isinstance(text, str) else text
    tokens = zip(encoding.ids, encoding.tokens, encoding.sequence_ids, encoding.offsets, strict=True)
    return [
        Piece(number, name, special=True, start=0, stop=0)
        if side is None
        else Piece(number, sides[side][start:stop], special=False, start=start, stop=stop)
        for number, name, side, (start, stop) in tokens
    ]


def _chunks(texts: Sequence[Text], max_length: int) -> Iterator[Sequence[Text]]:
    """Yield texts in turn, as many as are tokenised at a time."""
    start, characters = 0, 0
    for place, text in enumerate(texts):
        size = _size(text, max_length)
        if place - start == _CHUNK or (start < place and characters + size > _CHUNK_CHARACTERS * max_length):
            yield texts[start:place]
            start, characters = place, 0
        characters += size
    if start < len(texts):
        yield texts[start:]


def _size(text: Text, max_length: int) -> int:
    """Return a text's characters, as far as they are tokenised at once.

    What is cut off both sides of a pair comes in all combinations.
    """
    if isinstance(text, str):
        return min(len(text), LONG * max_length)
    shorter = min(len(text[0]), len(text[1]), max_length)
    return min(len(text[0]) + len(text[1]), LONG * max_length) * (1 + 2 * shorter // max_length)


def check_texts(texts: Sequence[object], role: Role) -> list[Text]:
    """Return texts as the tokenizer takes them, or say which one is wrong and why.

    Args:
        texts: strings or, where the role takes pairs, also (title, text) of two strings; a missing or
            empty title becomes the role's default title.
        role: the role's rule.

    Raises:
        InputError: something else.
    """
    return list(checked_texts(texts, role))


def checked_texts(texts: Iterable[object], role: Role) -> Iterator[Text]:
    """Yield texts as `check_texts` returns them, one by one: a pair that is made here need not be kept."""
    return (_check(text, role, place) for place, text in enumerate(texts))


def _check(text: object, role: Role, place: int) -> Text:
    if isinstance(text, str):
        text = _whole(text, place)
        return (role.default_title, text) if role.pair else text
    if isinstance(text, (tuple, list)) and len(text) == 2 and all(isinstance(part, str) for part in text):
        if not role.pair:
            raise InputError(f"text {place} is a pair, and this role takes single strings; join the two")
        taken = (_whole(text[0], place) or role.default_title, _whole(text[1], place))
        # The caller's own pair takes no memory.
        return text if taken[0] is text[0] and taken[1] is text[1] and type(text) is tuple else taken
    expected = "a string or a (title, text) pair of strings" if role.pair else "a string"
    shown = repr(text)
    raise InputError(
        f"text {place} is {type(text).__name__} {shown[:60]}{'...' if len(shown) > 60 else ''}; "
        f"expected {expected}"
    )


def _whole(text: str, place: int) -> str:
    """Return a text as a plain str (np.str_ is none to the tokenizer), or refuse half a character.

    A subclass may say something else of itself: an enumeration's str() is its member's name.
    """
    text = plain(text)
    if text.isascii():
        return text
    # All at once, a long text would be held twice.
    for start in range(0, len(text), _ENCODED):
        try:
            text[start : start + _ENCODED].encode()
        except UnicodeEncodeError as error:
            at = start + error.start
            raise InputError(
                f"text {place} holds half a surrogate pair, which is no character: U+{ord(text[at]):04X}, "
                f"its character {at}"
            ) from error
    return text


def _tokenizer(text: str, max_length: int, side: str) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_str(text)
    # A published tokenizer.json may carry its training's padding and truncation.
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length, strategy="longest_first", direction=side)
    return tokenizer


def _tokens(encodings: Sequence[tokenizers.Encoding]) -> Tokens:
    return Tokens(
        np.concatenate([np.array(encoding.ids, np.int32) for encoding in encodings]),
        np.concatenate([np.array(encoding.type_ids, np.int32) for encoding in encodings]),
        np.fromiter((len(encoding) for encoding in encodings), np.int64, len(encodings)),
        np.fromiter((bool(encoding.overflowing) for encoding in encodings), np.bool_, len(encodings)),
    )
