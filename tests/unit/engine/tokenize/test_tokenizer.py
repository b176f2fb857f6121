"""Token ids: those of transformers' fast tokenizers for every text, and clear words for what is no text."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paritas.engine.tokenize.tokenizer import Text, Tokenizer, Tokens, check_texts
from paritas.errors import BundleError, InputError
from paritas.registry import Role

WORDS = "the ferry leaves the island in the morning and the train leaves the city at night"

TEXTS = {
    "a sentence": "Why is the sky blue?",
    "nothing": "",
    "blanks": " \t \n ",
    "one letter": "a",
    "capitals": "THE FERRY LEAVES",
    "many blanks": "the    ferry \n\n leaves",
    "numbers": "price of 1.5 kg of apples in EUR (incl. 7% VAT)?",
    "code": "def add(a, b):\n    return a + b  # sums two numbers",
    "diacritics": "Zażółć gęślą jaźń; crème brûlée; Straße; İstanbul",
    "combining marks": "re\u0301sume\u0301 a\u0308o\u0308u\u0308 \u0301alone",
    "Chinese": "北京的天气怎么样",
    "Japanese": "東京タワーはどこですか",
    "Arabic": "متى يغادر القطار القادم؟",
    "Hebrew with marks": "בְּרֵאשִׁית בָּרָא",
    "direction marks": "left \u202eright\u202c left",
    "Cyrillic": "Когда отходит следующий поезд?",
    "emoji": "🚀🎉 emoji 👩‍👩‍👧 and more 🇫🇷",
    "control characters": "control\x00chars\x07here\u200bzero\u00adwidth\ufeff\x7f",
    "unusual spaces": "no\u00a0break\u3000wide\u2028line\u2029paragraph\x85next",
    "full width": "\uff26\uff35\uff2c\uff2c \uff57\uff49\uff44\uff54\uff48",
    "replacement character": "what \ufffd is this",
    "beyond the basic plane": "\U0001d571\U0001d58a\U0001d597 𐍈 𠜎",
    "special tokens": "literal [SEP] and <s> and <pad> and </s> and [MASK][CLS] inside<mask> [PAD]",
    "a long word": "x" * 1000,
    "no blank at all": "ferry" * 20_000,
    "punctuation": "(((...!!!???---'''",
    "words": WORDS,
}


@pytest.fixture(params=["tiny-bert", "tiny-mpnet", "minilm"])
def checkpoint(request: pytest.FixtureRequest, tokenizer_files: dict[str, Path]) -> Path:
    return tokenizer_files[request.param]


Load = Callable[[Path], Any]


def load_file(directory: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))


def load_auto(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


@pytest.fixture(params=[load_file, load_auto], ids=["file", "auto"])
def theirs(request: pytest.FixtureRequest, checkpoint: Path) -> Any:
    load: Load = request.param
    return load(checkpoint)


def tokenizer(directory: Path, max_length: int = 512, *, pair: bool = False) -> Tokenizer:
    return Tokenizer(directory / "tokenizer.json", {"text": Role(max_length, pair=pair)})


def ids(tokens: Tokens) -> list[list[int]]:
    """The ids of each text."""
    return [part.tolist() for part in np.split(tokens.input_ids, np.cumsum(tokens.lengths)[:-1])]


def expect(theirs: Any, text: Text, max_length: int) -> list[int]:
    return call(theirs, text, max_length)["input_ids"][0]


def call(theirs: Any, text: Text, max_length: int) -> dict[str, list[list[int]]]:
    # Lists of one: called with two strings, transformers drops a second one that is empty.
    lists = [[part] for part in (text if isinstance(text, tuple) else (text,))]
    return theirs(*lists, truncation=True, max_length=max_length, return_token_type_ids=True)


def test_every_text_has_the_ids_of_transformers(checkpoint: Path, theirs: Any) -> None:
    found = tokenizer(checkpoint).encode(list(TEXTS.values()), "text")
    for (name, text), ours in zip(TEXTS.items(), ids(found), strict=True):
        assert ours == expect(theirs, text, 512), name


def test_every_pair_has_the_ids_and_types_of_transformers(checkpoint: Path, theirs: Any) -> None:
    texts = list(TEXTS.values())
    pairs = [*zip(texts, reversed(texts), strict=True), *(("-", text) for text in texts)]
    tokens = tokenizer(checkpoint, 100, pair=True).encode(pairs, "text")
    types = np.split(tokens.token_type_ids, np.cumsum(tokens.lengths)[:-1])
    for pair, ours, kinds in zip(pairs, ids(tokens), types, strict=True):
        found = call(theirs, pair, 100)
        assert ours == found["input_ids"][0]
        assert kinds.tolist() == found["token_type_ids"][0]


@pytest.mark.parametrize("spare", [-1, 0, 1])
def test_a_text_is_cut_where_transformers_cuts_it(checkpoint: Path, theirs: Any, spare: int) -> None:
    full = len(expect(theirs, WORDS, 512))
    tokens = tokenizer(checkpoint, full + spare).encode([WORDS], "text")
    assert ids(tokens) == [expect(theirs, WORDS, full + spare)]
    assert tokens.lengths.tolist() == [min(full, full + spare)]
    assert tokens.truncated.tolist() == [spare < 0]


@pytest.mark.parametrize("max_length", [5, 9, 10, 17, 30])
def test_a_pair_is_cut_from_its_longer_side_as_transformers_does(
    checkpoint: Path, theirs: Any, max_length: int
) -> None:
    pairs = [(WORDS, "the ferry"), ("the ferry", WORDS), (WORDS, WORDS), ("", WORDS), (WORDS, "")]
    tokens = tokenizer(checkpoint, max_length, pair=True).encode(pairs, "text")
    assert ids(tokens) == [expect(theirs, pair, max_length) for pair in pairs]
    assert (tokens.lengths <= max_length).all()
    assert tokens.truncated.tolist() == [len(expect(theirs, pair, 512)) > max_length for pair in pairs]


def test_a_short_side_keeps_its_tokens(checkpoints: dict[str, Path]) -> None:
    whole = tokenizer(checkpoints["tiny-bert"], 40).encode(["the ferry"], "text").input_ids
    cut = tokenizer(checkpoints["tiny-bert"], 12, pair=True).encode([("the ferry", WORDS)], "text")
    assert cut.input_ids[: len(whole)].tolist() == whole.tolist()
    assert len(cut.input_ids) == 12


def test_the_parts_of_a_pair_have_types_0_and_1(checkpoints: dict[str, Path]) -> None:
    tokens = tokenizer(checkpoints["tiny-bert"], pair=True).encode([("the ferry", "leave")], "text")
    # [CLS] the ferry [SEP] leave [SEP]
    assert tokens.token_type_ids.tolist() == [0, 0, 0, 0, 1, 1]
    assert tokens.input_ids.dtype == tokens.token_type_ids.dtype == np.int32
    assert tokens.lengths.dtype == np.int64


def test_what_a_tokenizer_file_says_of_padding_and_truncation_is_ignored(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    stored = json.loads((checkpoints["tiny-bert"] / "tokenizer.json").read_text(encoding="utf-8"))
    stored["truncation"] = {
        "direction": "Left",
        "max_length": 6,
        "strategy": "OnlyFirst",
        "stride": 2,
    }
    stored["padding"] = {
        "strategy": {"Fixed": 30},
        "direction": "Left",
        "pad_to_multiple_of": 8,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored), encoding="utf-8")
    plain = tokenizer(checkpoints["tiny-bert"], 12).encode(["the ferry", WORDS], "text")
    found = tokenizer(tmp_path, 12).encode(["the ferry", WORDS], "text")
    assert ids(found) == ids(plain)
    assert found.lengths.tolist() == [4, 12]
    assert found.truncated.tolist() == [False, True]


def test_each_role_is_cut_to_its_own_length(checkpoints: dict[str, Path]) -> None:
    roles = {"query": Role(6), "passage": Role(10), "title": Role(6, pair=True)}
    both = Tokenizer(checkpoints["tiny-bert"] / "tokenizer.json", roles)
    found = [len(both.encode([WORDS], role).input_ids) for role in ("query", "passage", "query")]
    assert found == [6, 10, 6]


def test_no_texts_give_no_tokens(checkpoints: dict[str, Path]) -> None:
    tokens = tokenizer(checkpoints["tiny-bert"]).encode([], "text")
    for array in (tokens.input_ids, tokens.token_type_ids, tokens.lengths, tokens.truncated):
        assert array.shape == (0,)
    assert tokens.input_ids.dtype == np.int32
    assert tokens.truncated.dtype == np.bool_


def test_tokens_of_several_calls_join_in_order(checkpoints: dict[str, Path]) -> None:
    ours = tokenizer(checkpoints["tiny-mpnet"], 12)
    texts = list(TEXTS.values())
    joined = Tokens.concatenate([ours.encode(texts[:5], "text"), ours.encode(texts[5:], "text")])
    at_once = ours.encode(texts, "text")
    for field in ("input_ids", "token_type_ids", "lengths", "truncated"):
        np.testing.assert_array_equal(getattr(joined, field), getattr(at_once, field))
    none = Tokens.concatenate([])
    assert (none.input_ids.dtype, none.lengths.dtype) == (np.int32, np.int64)
    assert none.truncated.dtype == np.bool_


def test_many_threads_get_the_same_ids(checkpoints: dict[str, Path]) -> None:
    roles = {"query": Role(6), "passage": Role(24)}
    shared = Tokenizer(checkpoints["tiny-bert"] / "tokenizer.json", roles)
    texts = [text[:200] for text in TEXTS.values()]
    expected = {role: ids(shared.encode(texts, role)) for role in roles}
    tasks = ["query", "passage"] * 40
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda role: ids(shared.encode(texts, role)), tasks)
        for role, found in zip(tasks, results, strict=True):
            assert found == expected[role]


def test_an_unknown_role_is_answered_with_the_nearest(checkpoints: dict[str, Path]) -> None:
    ours = Tokenizer(checkpoints["tiny-bert"] / "tokenizer.json", {"query": Role(8), "passage": Role(8)})
    with pytest.raises(InputError, match="unknown role 'pasage'; did you mean 'passage'"):
        ours.encode(["a"], "pasage")
    with pytest.raises(InputError, match="unknown role ''; known: passage, query"):
        ours.role("")


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"\xff\xfe", b'{"version": "1.0"}'])
def test_a_file_that_is_no_tokenizer_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json: not a tokenizer"):
        Tokenizer(path, {"query": Role(8)})


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"tokenizer\.json: not a tokenizer"):
        Tokenizer(tmp_path / "tokenizer.json", {"query": Role(8)})


# What callers pass.

SINGLE = Role(max_length=8)
PAIR = Role(max_length=8, pair=True, default_title="-")


def test_strings_are_taken_as_they_are() -> None:
    assert check_texts(["a", "", "b\n"], SINGLE) == ["a", "", "b\n"]


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("text", ("-", "text")),
        ("", ("-", "")),
        (("", "text"), ("-", "text")),
        (("title", "text"), ("title", "text")),
        (["title", "text"], ("title", "text")),
        (("title", ""), ("title", "")),
        ((" ", "text"), (" ", "text")),
    ],
)
def test_a_missing_title_becomes_the_default(given: object, taken: tuple[str, str]) -> None:
    assert check_texts([given], PAIR) == [taken]


def test_numpy_strings_become_plain_ones(checkpoints: dict[str, Path]) -> None:
    array = np.array(["the ferry", WORDS])
    taken = check_texts(list(array), SINGLE)
    pairs = check_texts([(array[0], array[1])], PAIR)
    assert {type(text) for text in [*taken, *pairs[0]]} == {str}
    tokens = tokenizer(checkpoints["tiny-bert"]).encode(taken, "text")
    assert ids(tokens) == ids(tokenizer(checkpoints["tiny-bert"]).encode(["the ferry", WORDS], "text"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (None, "NoneType None"),
        (7, "int 7"),
        (1.5, "float 1.5"),
        (b"bytes", "bytes b'bytes'"),
        (("a",), r"tuple \('a',\)"),
        (("a", "b", "c"), "tuple"),
        (("a", None), "tuple"),
        ([], r"list \[\]"),
        ({"text": "a"}, "dict"),
    ],
)
@pytest.mark.parametrize("role", [SINGLE, PAIR], ids=["single", "pair"])
def test_anything_else_is_refused_with_its_place(text: object, shown: str, role: Role) -> None:
    expected = r"a string or a \(title, text\) pair of strings" if role.pair else "a string"
    with pytest.raises(InputError, match=f"^text 2 is {shown}.*; expected {expected}$"):
        check_texts(["a", "b", text], role)


def test_a_pair_is_refused_where_single_texts_are_taken() -> None:
    with pytest.raises(InputError, match=r"^text 1 is a pair, and this role takes single strings"):
        check_texts(["a", ("title", "text")], SINGLE)


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("cut \ud83d", SINGLE),
        ("\ude80", PAIR),
        (("cut \ud83d", "text"), PAIR),
        (("title", "cut \ud83d"), PAIR),
        (np.str_("cut \ud83d"), SINGLE),
    ],
)
def test_half_a_surrogate_pair_is_refused_with_its_place(text: object, role: Role) -> None:
    with pytest.raises(InputError, match="text 1 holds half a surrogate pair"):
        check_texts(["whole 🚀", text], role)


def test_what_is_shown_of_a_wrong_text_is_short() -> None:
    with pytest.raises(InputError, match=r"\.\.\.; expected") as caught:
        check_texts([list(range(10_000))], SINGLE)
    assert len(str(caught.value)) < 150


def test_a_wrong_text_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="text 0"):
        check_texts([None], SINGLE)
