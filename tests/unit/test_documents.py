"""Files of documents: what is read from them, and where a fault is said to be."""

from __future__ import annotations

import gzip
import io
import json
import random
import sys
from pathlib import Path

import pytest

from paritas.documents import Document, read_documents
from paritas.errors import InputError, MissingExtraError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def write(directory: Path, content: bytes | str, name: str = "corpus.jsonl") -> str:
    path = directory / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def lines(*documents: object) -> str:
    return "".join(json.dumps(document, ensure_ascii=False) + "\n" for document in documents)


def read(path: str) -> list[Document]:
    return list(read_documents(path))


def test_beir_lines_are_read_in_order(tmp_path: Path) -> None:
    content = lines(
        {"_id": "b", "title": "Ferries", "text": "They leave at six."},
        {"_id": "a", "title": "", "text": "Zażółć 北京 🚀", "metadata": {"url": "x"}},
        {"_id": "c", "text": ""},
    )
    assert read(write(tmp_path, content)) == [
        Document("b", "Ferries", "They leave at six."),
        Document("a", "", "Zażółć 北京 🚀"),
        Document("c", "", ""),
    ]


def test_plain_lines_are_texts_with_their_line_number_as_id(tmp_path: Path) -> None:
    assert read(write(tmp_path, "first\n\n  \nfourth {} \nlast", "corpus.txt")) == [
        Document("1", "", "first"),
        Document("4", "", "fourth {} "),
        Document("5", "", "last"),
    ]


@pytest.mark.parametrize("name", ["corpus.txt", "corpus", "corpus.tsv"])
def test_a_brace_at_the_first_line_makes_json_of_any_name(tmp_path: Path, name: str) -> None:
    content = "\n  " + lines({"_id": "1", "text": "a"}, {"_id": "2", "text": "b"})
    assert [document.text for document in read(write(tmp_path, content, name))] == ["a", "b"]


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.json"])
def test_a_name_of_json_makes_json_of_any_first_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}:1: not JSON"):
        read(write(tmp_path, "plain\n", name))


def test_a_brace_later_on_does_not_make_json(tmp_path: Path) -> None:
    assert [document.text for document in read(write(tmp_path, 'a\n{"_id": 1\n', "x.txt"))] == [
        "a",
        '{"_id": 1',
    ]


def test_standard_input_is_read_as_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    content = lines({"_id": "1", "text": "a"}).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert read("-") == [Document("1", "", "a")]


def test_a_fault_in_standard_input_is_named_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"_id": "1", "text": "a"}\n{\n')))
    with pytest.raises(InputError, match=r"^<stdin>:2: not JSON"):
        read("-")


def test_plain_lines_of_standard_input_are_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("caf\xe9\nb".encode())))
    assert [document.text for document in read("-")] == ["caf\xe9", "b"]


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.txt"])
def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path: Path, name: str) -> None:
    content = b"\xef\xbb\xbf" + lines({"_id": "1", "text": "a"}).encode()
    assert read(write(tmp_path, content, name)) == [Document("1", "", "a")]
    assert read(write(tmp_path, b"\xef\xbb\xbfa\n", "plain.txt")) == [Document("1", "", "a")]


def test_windows_line_ends_are_not_part_of_the_text(tmp_path: Path) -> None:
    assert read(write(tmp_path, b"a\r\n\r\nb\r\n", "corpus.txt")) == [
        Document("1", "", "a"),
        Document("3", "", "b"),
    ]
    content = lines({"_id": "1", "text": "a"}).replace("\n", "\r\n")
    assert read(write(tmp_path, content)) == [Document("1", "", "a")]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1e", "\r"])
def test_only_a_line_feed_ends_a_line(tmp_path: Path, separator: str) -> None:
    text = f"before{separator}after"
    assert read(write(tmp_path, text + "\n", "corpus.txt")) == [Document("1", "", text)]
    if separator >= "\x20":  # JSON takes the others only as escapes
        assert read(write(tmp_path, lines({"_id": "1", "text": text})))[0].text == text


def test_empty_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    content = "\n" + lines({"_id": "1", "text": "a"}) + "\n   \n" + "{"
    with pytest.raises(InputError, match=r"corpus\.jsonl:5: not JSON"):
        read(write(tmp_path, content))


@pytest.mark.parametrize("content", ["", "\n", " \n\t\n"])
@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.txt"])
def test_an_empty_file_holds_no_documents(tmp_path: Path, content: str, name: str) -> None:
    assert read(write(tmp_path, content, name)) == []


@pytest.mark.parametrize(
    "line", ['{"_id": "2", "text": "b"', "{'_id': 2}", '{"_id": "2"} {}', "plain", "[" * 100_000]
)
def test_a_line_that_is_not_json_is_named(tmp_path: Path, line: str) -> None:
    content = lines({"_id": "1", "text": "a"}) + line + "\n"
    with pytest.raises(InputError, match=r"corpus\.jsonl:2: not JSON: "):
        read(write(tmp_path, content))


@pytest.mark.parametrize("value", [[], ["a"], "a", 7, None, True])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, value: object) -> None:
    with pytest.raises(InputError, match=r'corpus\.jsonl:1: expected an object such as \{"_id"'):
        read(write(tmp_path, lines(value)))


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ({"text": "a"}, '"_id" is missing'),
        ({"_id": "1"}, '"text" is missing'),
        ({"_id": "1", "contents": "a"}, '"text" is missing'),
        ({"_id": None, "text": "a"}, '"_id" is NoneType'),
        ({"_id": 1.5, "text": "a"}, '"_id" is float'),
        ({"_id": True, "text": "a"}, '"_id" is bool'),
        ({"_id": "1", "text": None}, '"text" is NoneType'),
        ({"_id": "1", "text": 7}, '"text" is int'),
        ({"_id": "1", "text": ["a"]}, '"text" is list'),
        ({"_id": "1", "text": "a", "title": 7}, '"title" is int'),
    ],
)
def test_a_field_that_is_no_string_is_named(tmp_path: Path, document: object, fault: str) -> None:
    path = write(tmp_path, lines({"_id": "0", "text": "a"}, document))
    with pytest.raises(InputError, match=rf"corpus\.jsonl:2: {fault}; expected a string"):
        read(path)


@pytest.mark.parametrize("field", ["_id", "title", "text"])
def test_half_a_surrogate_pair_is_refused(tmp_path: Path, field: str) -> None:
    document = {"_id": "1", "title": "t", "text": "a", field: "cut \ud83d"}
    with pytest.raises(InputError, match=rf'corpus\.jsonl:1: "{field}" holds half a surrogate pair'):
        read(write(tmp_path, json.dumps(document)))
    whole = json.dumps({"_id": "1", "text": "whole 🚀"}, ensure_ascii=True)
    assert read(write(tmp_path, whole))[0].text == "whole 🚀"


def test_a_whole_number_is_an_id(tmp_path: Path) -> None:
    assert read(write(tmp_path, lines({"_id": 7, "text": "a"})))[0].id == "7"


def test_a_title_of_null_is_none(tmp_path: Path) -> None:
    assert read(write(tmp_path, lines({"_id": "1", "title": None, "text": "a"})))[0].title == ""


@pytest.mark.parametrize("second", ["7", 7])
def test_an_id_given_twice_is_named_with_both_lines(tmp_path: Path, second: object) -> None:
    content = (
        lines({"_id": "7", "text": "a"}, {"_id": "8", "text": "b"})
        + "\n"
        + lines({"_id": second, "text": "c"})
    )
    with pytest.raises(InputError, match=r"corpus\.jsonl:4: id '7' was given before, in line 1$"):
        read(write(tmp_path, content))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_file_that_is_not_utf8_is_named_with_its_line(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(InputError, match=r"corpus\.txt:1: not UTF-8"):
        read(write(tmp_path, "café\n".encode(encoding), "corpus.txt"))
    with pytest.raises(InputError, match=r"corpus\.txt:3: not UTF-8"):
        read(write(tmp_path, b"a\nb\nc\xff\nd\n", "corpus.txt"))


def packed(kind: str, content: bytes) -> bytes:
    return gzip.compress(content) if kind == "gz" else zstd.compress(content)


@pytest.mark.parametrize("kind", ["gz", "zst"])
@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.txt", "corpus"])
def test_a_packed_file_is_unpacked(tmp_path: Path, kind: str, name: str) -> None:
    content = lines({"_id": "a", "text": "1"}, {"_id": "b", "text": "2"}).encode()
    path = write(tmp_path, packed(kind, content), f"{name}.{kind}")
    assert [document.id for document in read(path)] == ["a", "b"]
    assert read(write(tmp_path, packed(kind, b""), f"{name}.{kind}")) == []


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_packed_file_of_several_parts_is_one(tmp_path: Path, kind: str) -> None:
    content = packed(kind, b"first\nsec") + packed(kind, b"ond\n")
    assert [document.text for document in read(write(tmp_path, content, "x.txt"))] == ["first", "second"]


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_packed_standard_input_is_unpacked(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(packed(kind, b"a\nb\n"))))
    assert [document.text for document in read("-")] == ["a", "b"]


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_packed_file_that_ends_early_or_was_changed_is_named_with_its_place(
    tmp_path: Path, kind: str
) -> None:
    numbers = random.Random(0)
    whole = packed(kind, b"".join(b"%d\n" % numbers.getrandbits(60) for _ in range(50_000)))
    middle = len(whole) // 2
    changed = (
        whole[:middle] + bytes(byte ^ 0x55 for byte in whole[middle : middle + 64]) + whole[middle + 64 :]
    )
    for content in (whole[:-1], whole[:middle], bytes(changed), whole + b"more"):
        with pytest.raises(InputError, match=rf"corpus\.txt\.{kind}: damaged after line \d+: "):
            read(write(tmp_path, content, f"corpus.txt.{kind}"))


def test_a_name_that_promises_a_packed_file_is_not_believed(tmp_path: Path) -> None:
    assert read(write(tmp_path, lines({"_id": "a", "text": "1"}), "corpus.jsonl.gz"))[0].id == "a"


def test_zstd_that_cannot_be_unpacked_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("backports.zstd", "compression.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    path = write(tmp_path, b"\x28\xb5\x2f\xfd more", "my corpus.zst")
    with pytest.raises(
        MissingExtraError, match=r"corpus\.zst: packed by zstd; type: pip install 'paritas\[zstd]'"
    ):
        read(path)


@pytest.mark.parametrize(
    "content", ['[{"_id": "1", "text": "a"},\n', '[\n  {"_id": "1"}\n]\n', "\n [ {\n", "[", "[{}]"]
)
@pytest.mark.parametrize("name", ["corpus.json", "corpus.txt"])
def test_an_array_is_told_how_to_be_given(tmp_path: Path, content: str, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}:\d: .*; an array is taken apart by: jq -c '\.\[\]' FILE"):
        read(write(tmp_path, content, name))


def test_a_text_may_begin_with_a_bracket(tmp_path: Path) -> None:
    found = read(write(tmp_path, "[1] a note\n[{\n", "x.txt"))
    assert [document.text for document in found] == ["[1] a note", "[{"]


@pytest.mark.parametrize(
    "content", ["first\rsecond", '{"_id": "1", "text": "a"}\r{"_id": "2", "text": "b"}\r']
)
@pytest.mark.parametrize("name", ["my corpus.txt", "corpus.jsonl"])
def test_lines_that_end_in_cr_alone_are_told_how_to_be_given(tmp_path: Path, content: str, name: str) -> None:
    with pytest.raises(InputError, match=r":1: lines end in CR alone.*; type: tr '\\r' '\\n' < .*corpus"):
        read(write(tmp_path, content, name))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32"])
def test_utf_16_is_told_how_to_be_given(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(InputError, match=r":1: not UTF-8 but UTF-16; type: iconv -f UTF-16 -t UTF-8 /"):
        read(write(tmp_path, "a text\n".encode(encoding)))


def test_a_path_may_be_a_path(tmp_path: Path) -> None:
    path = Path(write(tmp_path, lines({"_id": "a", "text": "1"})))
    assert next(read_documents(path)).id == "a"
    for wrong in (None, 5, b"corpus", ["corpus"], "cor\0pus"):
        with pytest.raises(InputError, match=r"^path is .*; expected a file's path"):
            read(wrong)  # type: ignore[arg-type]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.jsonl: cannot be read: No such file"):
        read(str(tmp_path / "absent.jsonl"))


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: "):
        read(str(tmp_path))


def test_documents_come_one_at_a_time(tmp_path: Path) -> None:
    path = write(tmp_path, lines({"_id": "1", "text": "a"}) + "{\n")
    documents = read_documents(path)
    assert next(documents).id == "1"
    with pytest.raises(InputError, match=":2:"):
        next(documents)


def test_a_document_becomes_a_pair_or_one_text() -> None:
    titled, plain = Document("1", "Ferries", "They leave."), Document("2", "", "They leave.")
    assert titled.as_text(pair=True) == ("Ferries", "They leave.")
    assert titled.as_text(pair=False) == "Ferries They leave."
    assert plain.as_text(pair=True) == ("", "They leave.")
    assert plain.as_text(pair=False) == "They leave."
