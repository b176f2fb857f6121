"""Texts of any size: the tokens of the whole, though most of it is never tokenised."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from tokenizers import Encoding, Tokenizer

from paritas.engine.tokenize import ignored, long_texts
from paritas.engine.tokenize import tokenizer as tokenizer_module
from paritas.engine.tokenize.breaks import CHINESE, PUNCTUATION, Breaks
from paritas.engine.tokenize.long_texts import LongTexts
from paritas.engine.tokenize.tokenizer import Text, check_texts
from paritas.errors import InputError
from paritas.registry import Role
from tests.parity.tiny_networks import NETWORKS
from tests.unit.engine.tokenize.odd_tokenizers import KINDS, UNKNOWN, bert, odd_text

SIDES: tuple[Literal["right", "left"], ...] = ("right", "left")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly every text is long, and read a few characters at a time."""
    monkeypatch.setattr(long_texts, "LONG", 1)
    monkeypatch.setattr(long_texts, "_FIRST", 1)
    monkeypatch.setattr(long_texts, "_FIRST_OF_PAIR", 1)
    monkeypatch.setattr(long_texts, "_BLOCK", 16)


def cutting(tokenizer: Tokenizer, max_length: int, side: Literal["right", "left"] = "right") -> Tokenizer:
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length, strategy="longest_first", direction=side)
    return tokenizer


def told(encoding: Encoding) -> tuple[list[int], list[int], bool]:
    """What the engine reads of it."""
    return encoding.ids, encoding.type_ids, bool(encoding.overflowing)


def expect_the_whole(
    tokenizer: Tokenizer, ours: LongTexts, text: Text, prompt: str = ""
) -> tuple[Encoding, Encoding]:
    whole = tokenizer.encode(*text) if isinstance(text, tuple) else tokenizer.encode(prompt + text)
    found = ours.encode([text], prompt)[0]
    assert told(found) == told(whole), (text, prompt)
    return found, whole


def expect_odd_texts(tokenizer: Tokenizer, seed: str, count: int) -> int:
    """Hold odd texts, alone and in pairs, against the whole ones; return of how many most was left out."""
    chance = random.Random(seed)
    left_out = 0
    for side in SIDES:
        # Room for 1 to 11 tokens beside the special ones; in pairs odd and even.
        for max_length in (4, 5, 8, 13, 14):
            ours = LongTexts(cutting(tokenizer, max_length, side), side)
            for _ in range(count):
                text = odd_text(chance, chance.choice((8, 30, 90)))
                prompt = chance.choice(("", "", "query: ", "a", "\u0301", " "))
                found, whole = expect_the_whole(tokenizer, ours, text, prompt)
                left_out += len(found.overflowing) < len(whole.overflowing)
                # All that is cut off one side comes with all that is cut off the other: not too much.
                if max_length > 4:
                    first, second = (odd_text(chance, chance.choice((1, 8, 25))) for _ in range(2))
                    expect_the_whole(tokenizer, ours, (first, second))
    return left_out


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("kind", KINDS)
def test_odd_texts_have_the_tokens_of_the_whole(kind: str) -> None:
    left_out = expect_odd_texts(KINDS[kind](), kind, 12)
    assert left_out > 10 if kind not in UNKNOWN else left_out == 0


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("network", ["albert", "camembert", "distilbert", "modernbert", "roberta"])
def test_tokenizers_of_other_networks_give_odd_texts_the_tokens_of_the_whole(
    network: str, tmp_path: Path
) -> None:
    tmp_path.joinpath("config.json").write_text("{}")
    NETWORKS[network].tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert expect_odd_texts(tokenizer, network, 12) > 10


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("name", ["tiny-bert", "tiny-mpnet", "minilm"])
def test_wordpiece_checkpoints_give_odd_texts_the_tokens_of_the_whole(
    name: str, tokenizer_files: dict[str, Path]
) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_files[name] / "tokenizer.json"))
    assert expect_odd_texts(tokenizer, name, 12) > 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_is_not_known_is_never_cut(kind: str) -> None:
    assert bool(Breaks(KINDS[kind]())) is (kind not in UNKNOWN)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - UNKNOWN))
def test_both_parts_of_a_text_have_its_tokens_wherever_it_may_be_cut(kind: str) -> None:
    expect_parts_of_odd_texts(KINDS[kind](), kind, 40)


def expect_parts_of_odd_texts(tokenizer: Tokenizer, seed: str, count: int) -> int:
    """Hold the tokens of both parts against those of the whole; return how often."""
    chance = random.Random(seed)
    places = [
        (text, place)
        for text in (odd_text(chance, 30) for _ in range(count))
        for place in Breaks(tokenizer).all(text)
    ]
    for text, place in places:
        ids = [
            tokenizer.encode(part, add_special_tokens=False).ids
            for part in (text, text[:place], text[place:])
        ]
        assert ids[0] == ids[1] + ids[2], (text, place)
    return len(places)


# Characters, each of them, as the table says.


@pytest.fixture(scope="session")
def minilm(tokenizer_files: dict[str, Path]) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(tokenizer_files["minilm"] / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def characters(inside: str) -> list[str]:
    every = (chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)
    return re.findall(f"[{inside}]", "".join(every))


@pytest.mark.parametrize(
    ("inside", "shape", "expected"),
    [
        (ignored.VANISHING, "fer{}ry", ["ferry"]),
        (ignored.MARKS, "fer{}ry", ["ferry"]),
        (ignored.BLANKS, "the{}ferry", ["the", "ferry"]),
    ],
)
def test_what_is_left_out_gives_no_tokens(
    minilm: Tokenizer, inside: str, shape: str, expected: list[str]
) -> None:
    texts = [shape.format(character) for character in characters(inside)]
    found = minilm.encode_batch(texts, add_special_tokens=False)
    assert [text for text, one in zip(texts, found, strict=True) if one.tokens != expected] == []


def test_a_long_word_of_any_of_the_characters_is_one_unknown_token(minilm: Tokenizer) -> None:
    found = {
        letter: minilm.encode(letter * 101, add_special_tokens=False) for letter in characters(ignored.WORDS)
    }
    assert [letter for letter, one in found.items() if one.tokens != ["[UNK]"]] == []


@pytest.mark.parametrize("between", ["", "\u200b", "\u200b\x00\u0301", "\u200b" * 9])
def test_what_stays_of_a_long_word_is_as_unknown(minilm: Tokenizer, between: str) -> None:
    remove_ignored = ignored.ignored_remover(minilm)
    for letters in (99, 100, 101, 102, 400, 2000):
        text = f"the f{between}" + f"e{between}" * letters + "ry [MASK]"
        left = remove_ignored(text)
        assert len(left) < 1000
        assert minilm.encode(left).ids == minilm.encode(text).ids


def test_punctuation_and_chinese_characters_are_words_of_their_own(minilm: Tokenizer) -> None:
    some = characters(PUNCTUATION) + characters(CHINESE)[::50]
    found = {one: minilm.encode(f"the{one}ferry", add_special_tokens=False).tokens for one in some}
    for tokens in found.values():
        assert (len(tokens), tokens[0], tokens[2]) == (3, "the", "ferry")


# How much is tokenised.


class Recording:
    """A tokenizer that counts the characters it is given, and how."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.characters = 0
        self.largest = 0
        self.batches = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def _note(self, text: Text) -> None:
        size = len(text) if isinstance(text, str) else sum(map(len, text))
        self.characters += size
        self.largest = max(self.largest, size)

    def encode(self, *texts: str, **options: bool) -> Encoding:
        for text in texts:
            self._note(text)
        return self._tokenizer.encode(*texts, **options)

    def encode_batch(self, texts: list[Text]) -> list[Encoding]:
        self.batches += 1
        for text in texts:
            self._note(text)
        return self._tokenizer.encode_batch(texts)


def recorded(tokenizer: Tokenizer, side: Literal["right", "left"] = "right") -> tuple[Recording, LongTexts]:
    recording = Recording(cutting(tokenizer, 64, side))
    return recording, LongTexts(recording, side)


MUCH = {
    "prose": "the ferry leaves the island, ",
    "punctuation": "(!?)",
    "Chinese": "北京的天气怎么样",
    "one word": "ferry",
    "a word of an alphabet": "паром",
    "emoji": "🚀",
    "blanks": " \t \n",
    "controls": "\x00\x07",
    "zero width": "\u200b\u200d",
    "marks": "\u0301\u0327",
    "a word between controls": "a\u200b",
    "blanks between controls": " \x00",
    "long words": "x" * 3000 + " ",
    "long words and blanks": "x" * 2000 + " " * 2000,
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", MUCH)
def test_of_much_text_little_is_tokenised(name: str, side: Literal["right", "left"]) -> None:
    piece = MUCH[name]
    text = "the ferry" + piece * (300_000 // len(piece)) + "leaves"
    recording, ours = recorded(bert(), side)
    expect_the_whole(recording._tokenizer, ours, text, "query: ")
    # Every word of 6 letters or more is one token, of which 30 characters or so are read.
    assert recording.characters < 400_000 if name.startswith("long") else recording.characters < 30_000
    assert recording.largest < 300_000


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", ["RoBERTa", "ModernBERT", "XLM-R", "DeBERTa", "ALBERT"])
def test_of_much_prose_other_tokenizers_read_little(kind: str, side: Literal["right", "left"]) -> None:
    recording, ours = recorded(KINDS[kind](), side)
    expect_the_whole(recording._tokenizer, ours, MUCH["prose"] * 10_000)
    assert recording.characters < 2_000


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("sizes", [(3, 3000), (3000, 3), (3000, 2900), (2900, 3000), (400, 400)])
@pytest.mark.parametrize("room", [60, 61])
def test_a_pair_is_cut_by_which_side_is_longer(
    sizes: tuple[int, int], room: int, side: Literal["right", "left"]
) -> None:
    tokenizer = cutting(bert(), room + 3, side)
    first, second = ("a ! " * (size // 4) for size in sizes)
    expect_the_whole(tokenizer, LongTexts(tokenizer, side), (first, second))


def test_of_a_pair_with_a_huge_title_little_is_tokenised() -> None:
    recording, ours = recorded(bert())
    pair = (MUCH["prose"] * 10_000, MUCH["prose"] * 10_000)
    found = ours.encode([pair])[0]
    assert recording.largest < 2_000
    assert len(found.overflowing) < 100


def test_an_ordinary_text_is_given_as_it_is() -> None:
    recording, ours = recorded(bert())
    text = "the ferry " * 100
    ours.encode([text] * 2)
    assert (recording.characters, recording.batches) == (2 * len(text), 1)


def test_one_text_does_not_wait_for_the_threads_that_bulk_is_in() -> None:
    recording, ours = recorded(bert())
    for text in ("the ferry", ("the", "ferry")):
        expect_the_whole(recording._tokenizer, ours, text)
    assert recording.batches == 0


@pytest.mark.parametrize("side", SIDES)
def test_a_tokenizer_with_less_room_than_special_tokens_cuts_nothing(side: Literal["right", "left"]) -> None:
    tokenizer = cutting(bert(), 2, side)
    expect_the_whole(tokenizer, LongTexts(tokenizer, side), ("the ferry " * 20, "a"))


@pytest.mark.usefixtures("soon")
def test_long_and_short_texts_keep_their_places() -> None:
    tokenizer = cutting(bert(), 8)
    texts = ["the", "the ferry " * 30, "", "\x00" * 300, "a b", "foo! " * 50]
    found = LongTexts(tokenizer, "right").encode(texts)
    assert [told(one) for one in found] == [told(tokenizer.encode(text)) for text in texts]


# The steps before and after.


def test_texts_are_tokenised_in_chunks_of_bounded_size() -> None:
    sizes = [100, 5000, 20_000, 7] * 200
    texts: list[Text] = ["x" * size for size in sizes]
    chunks = list(tokenizer_module._chunks(texts, 64))
    assert [text for chunk in chunks for text in chunk] == texts
    assert max(map(len, chunks)) <= 128
    assert max(sum(min(len(text), 1024) for text in chunk) for chunk in chunks) <= 3 * 128 * 64


def test_ordinary_texts_are_tokenised_128_at_a_time() -> None:
    chunks = tokenizer_module._chunks(["the ferry leaves " * 7] * 300, 64)
    assert [len(chunk) for chunk in chunks] == [128, 128, 44]


def test_pairs_whose_sides_are_both_cut_are_tokenised_few_at_a_time() -> None:
    chunks = list(tokenizer_module._chunks([("x" * 200, "y" * 2000)] * 40, 64))
    assert max(map(len, chunks)) <= 8


@pytest.mark.parametrize("place", [0, 65_535, 65_536, 200_000])
def test_half_a_surrogate_pair_is_found_anywhere(place: int) -> None:
    text = "é" * place + "\ud83d" + "é" * 10
    with pytest.raises(
        InputError, match=f"text 0 holds half a surrogate pair, .*D83D, its character {place}$"
    ):
        check_texts([text], Role(8))


def test_a_pair_is_taken_without_a_copy() -> None:
    pair = ("title", "text")
    assert check_texts([pair], Role(8, pair=True))[0] is pair
