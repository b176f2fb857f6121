"""Tokens read without the bundle's tokenizer: WordPiece in Python gives what transformers gives."""

from __future__ import annotations

import ast
import json
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from paritas.errors import MissingExtraError, SourceError
from paritas.export.checkpoint.sources import open_checkpoint
from paritas.export.second_reading import reading as second_reading
from paritas.export.second_reading.reading import SecondReading, open_second_reading, open_wordpiece
from paritas.registry import load_registry
from tests.unit.export.checkpoint import tokenizer_files as made

Text = str | tuple[str, str]

TEXTS = [
    "",
    " \t\n ",
    "a",
    "The ferry leaves the island at night, newnewing.",
    "(((...!!!???---'''$+<=>^`|~",
    "Zażółć gęślą jaźń; crème brûlée; Straße; STRASSE; İstanbul ıI; ÅÉÎ",
    "ΟΔΟΣ ὈΔΥΣΣΕΎΣ Σ ΑΣ' ᾼ ǅ ǈ ǲ ﬁ ẞ Ǆ K Å Ω \ua7cb \u1c89 \U00010d50",
    "re\u0301sume\u0301 a\u0308\u0323o\u0323\u0308 \u0301alone \u0345\u0334 q\u0307\u0323",
    "북경 각 힣 \u1112\u1161\u11ab 北京的天气 東京タワー がガ ｶﾞ 㐀 豈 \U00020000 \U0002b830 \U0002b920",
    "متى يغادر القِطار؟ בְּרֵאשִׁית 123 ٣٤ नमस्ते ไทย ស្រី",
    "🚀🎉 👩\u200d👩\u200d👧 🇫🇷 ✈️ ①② ⒶⒷ ²½ _ ‿ ·",
    "control\x00chars\x07\x0b\x0c\x1c\x1f\x7f\x85 zero\u200bwidth\u00ad\ufeff",
    "\u2060\u180e \ue000 \ufffd \ufffe \U0010ffff \u0378",
    "no\u00a0break\u3000wide\u2028line\u2029paragraph\u1680ogham\u2009thin",
    "\u202eleft\u202c \ufe0f \u034f \U000e0101 \U0001e94a \u0c84 \u1715 \u08d3 \U00011938",
    "[SEP] and <s> and <pad></s>[MASK][CLS] inside<mask>x <mask>  [PAD]\u3000[UNK] a  [MASK]  [sep] <MASK>",
    "<x>a <x> b  <x>\u2009\t<x>c <X> Ferry ferry FERRYferry ferry-ferry ferry\u0301 _ferry ferry\u200d",
    "Été e\u0301te\u0301 ÉTÉ ete, newnew new n ew NEW night island at the",
    "x" * 100 + " " + "x" * 101 + " " + "ß" * 1000,
    "ferry" * 300,
    "İ" * 40 + "北" * 40,
]
PAIRS = [*zip(TEXTS, reversed(TEXTS), strict=True), ("", ""), ("the", "")]

MODELS = {
    "bert": (made.BERT_SPECIAL, made.bert, made.BERT),
    "mpnet": (made.MPNET_SPECIAL, made.mpnet, made.MPNET),
}
ROWS = [(model, row) for model, (_, _, rows) in MODELS.items() for row in rows]


def write(directory: Path, model: str, row: str = "as published", texts: list[str] = TEXTS) -> Path:
    """Write one row of the table."""
    special, files_of, rows = MODELS[model]
    files = files_of(made.vocabulary(special, texts))
    rows[row](files)
    return made.write(directory, files)


def differences(directory: Path, texts: list[Text], max_length: int = 4096) -> list[object]:
    """Return the texts that the two readings disagree on."""
    return different(open_wordpiece(directory), open_second_reading(directory), texts, max_length)


def different(ours: SecondReading, theirs: SecondReading, texts: list[Text], max_length: int) -> list[object]:
    found = [(text, ours.encode(text, max_length), theirs.encode(text, max_length)) for text in texts]
    return [entry for entry in found if entry[1] != entry[2]]


@pytest.mark.parametrize(("model", "row"), ROWS)
def test_files_are_put_together_as_transformers_does(tmp_path: Path, model: str, row: str) -> None:
    directory = write(tmp_path, model, row)
    assert differences(directory, [*TEXTS, *PAIRS]) == []


@pytest.mark.parametrize("row", ["as published", "cut on the left", "no post-processor"])
@pytest.mark.parametrize("model", MODELS)
def test_every_length_is_cut_where_transformers_cuts_it(tmp_path: Path, model: str, row: str) -> None:
    directory = write(tmp_path, model, row)
    ours, theirs = open_wordpiece(directory), open_second_reading(directory)
    words = ["the", "ferry", "leaves", "island", "at", "night"]
    for length in range(20):
        texts: list[Text] = [" ".join(words[:count]) for count in range(7)]
        texts += [(first, second) for first in texts[:] for second in texts[:7]]  # type: ignore[misc]
        assert different(ours, theirs, texts, length) == [], length


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "row", ["as published", "cased", "accents kept", "NFKC", "Whitespace", "single word"]
)
def test_any_characters_are_read_as_transformers_does(tmp_path: Path, model: str, row: str) -> None:
    texts = random_texts(random.Random(20261125), 100)
    directory = write(tmp_path, model, row, texts)
    assert differences(directory, texts) == []


def random_texts(source: random.Random, count: int) -> list[str]:
    """Return strings of random code points, half of them from the planes' crowded beginnings."""
    ends = (0x250, 0x3000, 0x11000, 0x20000, 0x110000)
    choices = [
        [
            code
            for code in (source.randrange(source.choice(ends)) for _ in range(40))
            if not is_surrogate(code)
        ]
        for _ in range(count)
    ]
    return ["".join(map(chr, codes)) for codes in choices]


def is_surrogate(code: int) -> bool:
    return 0xD800 <= code < 0xE000


# Published vocabularies.


@pytest.fixture(scope="module")
def published() -> Iterator[Path]:
    model = load_registry()["all-MiniLM-L6-v2"]
    with ExitStack() as stack:
        yield stack.enter_context(open_checkpoint("all-MiniLM-L6-v2", model, "package")).directory


def test_a_published_vocabulary_gives_the_tokens_of_transformers(published: Path) -> None:
    texts: list[Text] = [*TEXTS, *PAIRS, *random_texts(random.Random(7), 200)]
    assert differences(published, texts) == []
    assert differences(published, texts, 17) == []


@pytest.mark.parametrize("kept", ["vocab.txt", "tokenizer.json"])
def test_one_file_of_a_published_tokenizer_is_enough(tmp_path: Path, published: Path, kept: str) -> None:
    for name in ("config.json", kept):
        (tmp_path / name).write_bytes((published / name).read_bytes())
    assert differences(tmp_path, [*TEXTS, *PAIRS]) == []


# Which of the two reads, and what it says.


def test_transformers_reads_where_it_is_installed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = open_second_reading(write(tmp_path, "bert", "class by config.json"))
    assert found.name.startswith("transformers 4.")
    assert found.encode("the ferry", 9)[1] == [0, 0, 0, 0]
    assert capfd.readouterr() == ("", "")


def test_python_reads_where_transformers_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write(tmp_path, "bert")
    monkeypatch.setitem(sys.modules, "transformers", None)
    found = open_second_reading(directory)
    assert found.name == "WordPiece in Python"
    vocabulary = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = ["[CLS]", "the", "[SEP]", "ferry", "##s", "[SEP]"]
    expected = [vocabulary[token] for token in tokens]
    assert found.encode(("the", "ferrys"), 9) == (expected, [0, 0, 0, 1, 1, 1])


def test_a_tokenizer_that_transformers_cannot_load_is_refused(tmp_path: Path) -> None:
    directory = write(tmp_path, "bert")
    (directory / "tokenizer.json").write_text("{}")
    with pytest.raises(SourceError, match=r"transformers 4\.\S+ cannot load its tokenizer"):
        open_second_reading(directory)


def test_the_second_reading_shares_nothing_with_the_first() -> None:
    folder = Path(second_reading.__file__).parent
    names = ["wordpiece.py", "added.py", "characters.py", "files.py"]
    for name in names:
        for node in ast.walk(ast.parse((folder / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                own = (node.module or "").startswith(("paritas.export.second_reading", "paritas.errors"))
                assert own or (node.module or "").partition(".")[0] in sys.stdlib_module_names, node.module
            if isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= sys.stdlib_module_names


# What only transformers knows.

UNKNOWN = {
    "model.type is 'BPE'": {"model": {"type": "BPE", "vocab": {}, "merges": []}},
    "model.type is 'Unigram'": {"model": {"type": "Unigram", "vocab": []}},
    "normalizer.type is 'Precompiled'": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
    "normalizer.pattern is": {"normalizer": {"type": "Replace", "pattern": {"Regex": "a"}, "content": ""}},
    "normalizer is None": {"normalizer": None},
    "pre_tokenizer.type is 'ByteLevel'": {"pre_tokenizer": {"type": "ByteLevel"}},
    "post_processor.type is 'Sequence'": {"post_processor": {"type": "Sequence", "processors": []}},
    "added_tokens.content is": {"added_tokens": [made.added("\u200b", 9000, normalized=True)]},
}


@pytest.mark.parametrize("message", UNKNOWN)
def test_an_unknown_part_is_named_with_what_to_type(tmp_path: Path, message: str) -> None:
    files = made.bert(made.vocabulary(made.BERT_SPECIAL, TEXTS))
    files["tokenizer.json"].update(UNKNOWN[message])
    with pytest.raises(
        MissingExtraError, match=rf"tokenizer\.json: {message}.*type: pip install 'transformers<4"
    ):
        open_wordpiece(made.write(tmp_path, files))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", {"tokenizer_class": "T5Tokenizer"}, "tokenizer_class is 'T5Tokenizer'"),
        ("tokenizer_config.json", {"tokenizer_file": "elsewhere"}, "tokenizer_file is 'elsewhere'"),
        ("tokenizer_config.json", {"tokenizer_file": None}, "tokenizer_file is None"),
        ("config.json", {"model_type": "t5"}, "model_type is 't5'"),
        ("config.json", {}, "model_type is None"),
    ],
)
def test_what_decides_elsewhere_is_named(
    tmp_path: Path, name: str, content: dict[str, object], message: str
) -> None:
    files = made.bert(made.vocabulary(made.BERT_SPECIAL, TEXTS))
    files["tokenizer_config.json"] = {}
    files[name] = content
    with pytest.raises(MissingExtraError, match=rf"{name}: {message}; .*pip install 'transformers<4.58'"):
        open_wordpiece(made.write(tmp_path, files))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", r"tokenizer\.json: cannot be read as JSON"),
        ("tokenizer.json", "[]", r"tokenizer\.json: holds list; expected an object"),
        ("tokenizer.json", '{"model": {}}', "not in the form that transformers writes: KeyError"),
        ("tokenizer_config.json", '{"do_lower_case": 1}', "the setting for lowercase is 1; expected true or"),
        ("tokenizer_config.json", '{"truncation_side": "up"}', "truncation_side is 'up'; expected 'left' or"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    directory = write(tmp_path, "bert")
    (directory / name).write_text(content)
    with pytest.raises(SourceError, match=message):
        open_wordpiece(directory)


def test_a_vocabulary_without_its_unknown_token_is_refused(tmp_path: Path) -> None:
    files = made.bert(made.vocabulary(made.BERT_SPECIAL, TEXTS))
    files["tokenizer.json"]["model"]["unk_token"] = "[nothing]"
    with pytest.raises(SourceError, match=r"the vocabulary lacks '\[nothing\]', its token for unknown words"):
        open_wordpiece(made.write(tmp_path, files))


def test_a_directory_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(SourceError, match=r"no tokenizer\.json, and no vocab\.txt that its class reads"):
        open_wordpiece(tmp_path)
