"""Files in every form people keep documents in, read from their beginning and from any record on."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paritas.bulk import lines
from paritas.bulk.readers import Cursor, Reading, read
from paritas.bulk.records import BEGINNING, Columns, Record
from paritas.bulk.sources import find_sources
from paritas.errors import InputError
from tests.unit.bulk.corpora import documents, write_jsonl

SPARK = Path(__file__).parent / "spark"
zstd: Any = pytest.importorskip("backports.zstd", reason="the standard library's own from 3.14 on")


def records(path: Path, **options: Any) -> list[Record]:
    (source,) = find_sources([str(path)], path.parent / "spool")
    return list(read(source, Reading(**options)))


def read_back(path: Path, **options: Any) -> list[tuple[str, str, str]]:
    found = records(path, **options)
    assert [record.fault for record in found if record.document is None] == []
    return [(d.id, d.title, d.text) for record in found if (d := record.document)]


def faults(path: Path, **options: Any) -> list[tuple[int, str]]:
    return [(record.mark.number, record.fault) for record in records(path, **options) if not record.document]


ROWS = [
    {"_id": "a", "title": "", "text": 'quoted "twice", and a comma'},
    {"_id": "b", "title": "Zürich", "text": "日本の川 🚆"},
    {"_id": "c", "title": "T", "text": "U+2028 \u2028 and U+0085 \x85 end no line"},
    {"_id": "d", "title": "", "text": ""},
]
EXPECTED = [(row["_id"], row["title"], row["text"]) for row in ROWS]


def as_csv(rows: list[dict[str, Any]], **options: Any) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["_id", "title", "text"], **options)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows: list[dict[str, Any]], **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, **options)
    return sink.getvalue().to_pybytes()


def as_arrow(rows: list[dict[str, Any]], new: Callable[..., Any]) -> bytes:
    sink = pa.BufferOutputStream()
    held = pa.Table.from_pylist(rows)
    with new(sink, held.schema) as writer:
        writer.write_table(held, max_chunksize=7)
    return sink.getvalue().to_pybytes()


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


FORMS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "c.jsonl": as_jsonl,
    "c.json.gz": lambda rows: gzip.compress(as_jsonl(rows)),
    "c.jsonl.zst": lambda rows: zstd.compress(as_jsonl(rows)),
    "c.csv": as_csv,
    "c.csv.gz": lambda rows: gzip.compress(as_csv(rows)),
    "c.parquet": lambda rows: as_parquet(rows, row_group_size=9),
    "pages.parquet": lambda rows: as_parquet(rows, data_page_size=64, write_batch_size=3),
    "file.arrow": lambda rows: as_arrow(rows, pa.ipc.new_file),
    "stream.arrow": lambda rows: as_arrow(rows, pa.ipc.new_stream),
}


@pytest.mark.parametrize("name", FORMS)
def test_documents_come_as_they_were_written(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMS[name](ROWS))
    assert read_back(tmp_path / name) == EXPECTED


@pytest.mark.parametrize("name", FORMS)
def test_any_record_is_a_place_to_begin(tmp_path: Path, name: str) -> None:
    rows = documents(40)
    rows[7]["text"] = "over\r\ntwo lines" if ".csv" in name else rows[7]["text"]
    (tmp_path / name).write_bytes(FORMS[name](rows))
    (source,) = find_sources([str(tmp_path / name)], tmp_path / "spool")
    whole = list(read(source, Reading()))
    assert len(whole) == 40
    for place, record in enumerate(whole):
        assert list(read(source, Reading(), record.mark)) == whole[place:]


@pytest.mark.parametrize("name", FORMS)
def test_a_cursor_reads_runs_in_any_order(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(FORMS[name](documents(40)))
    (source,) = find_sources([str(tmp_path / name)], tmp_path / "spool")
    whole = list(read(source, Reading()))
    cursor = Cursor(Reading())
    opened: list[int] = []
    real = type(source).open

    def counted(self: Any) -> Any:
        opened.append(1)
        return real(self)

    monkeypatch.setattr(type(source), "open", counted)
    for start in (0, 10, 20, 30):
        assert list(cursor.take(source, whole[start].mark, 10)) == whole[start : start + 10]
    assert len(opened) == 1  # a packed file would be unpacked from its beginning each time
    for start in (30, 0, 25, 5):
        assert list(cursor.take(source, whole[start].mark, 10)) == whole[start : start + 10]
    cursor.close()


def test_ids_that_are_missing_are_file_and_number(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"text": "a"}\n\n{"text": "b", "_id": null}\n{"id": 7, "text": "c"}\n')
    assert read_back(tmp_path / "c.jsonl") == [("c.jsonl:1", "", "a"), ("c.jsonl:3", "", "b"), ("7", "", "c")]
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "c.parquet")
    assert [row[0] for row in read_back(tmp_path / "c.parquet")] == ["c.parquet:1", "c.parquet:2"]


def test_columns_by_name_and_by_number(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("url;headline;body\nu1;h;b\n")
    columns = Columns(id="url", title="headline", text="body")
    assert read_back(tmp_path / "c.csv", columns=columns, delimiter=";") == [("u1", "h", "b")]
    # MS MARCO's own form: no header, and quotes that are nothing but quotes.
    (tmp_path / "collection.tsv").write_text('0\tThe "Manhattan Project" was "\n1\t"one\n')
    assert read_back(tmp_path / "collection.tsv", columns=Columns(id="1", text="2")) == [
        ("0", "", 'The "Manhattan Project" was "'),
        ("1", "", '"one'),
    ]
    rows = [{"doc": {"key": "k1", "body": "b1"}}, {"doc": {"key": "k2", "body": "b2"}}]
    deep = Columns(id="doc.key", text="doc.body")
    write_jsonl(tmp_path / "deep.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "deep.parquet")
    for name in ("deep.jsonl", "deep.parquet"):
        assert read_back(tmp_path / name, columns=deep) == [("k1", "", "b1"), ("k2", "", "b2")]
    # A name that holds a dot is itself.
    pq.write_table(pa.table({"a.b": ["x"]}), tmp_path / "dot.parquet")
    write_jsonl(tmp_path / "dot.jsonl", [{"a.b": "x"}])
    for name in ("dot.parquet", "dot.jsonl"):
        assert [row[2] for row in read_back(tmp_path / name, columns=Columns(text="a.b"))] == ["x"]


def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("id,txt\n1,a\n")
    with pytest.raises(
        InputError, match=r"c\.csv: no column 'text'; did you mean 'txt'\?; its columns are 'id'"
    ):
        records(tmp_path / "c.csv")
    with pytest.raises(InputError, match=r"no column 'url'.*type: --id COLUMN"):
        records(tmp_path / "c.csv", columns=Columns(id="url", text="txt"))
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "c.parquet")
    with pytest.raises(InputError, match=r"no column 'text'.*its columns are 'body'"):
        records(tmp_path / "c.parquet")


def test_what_is_no_document_is_told_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_bytes(
        b'{"text": "ok"}\n[1]\n{"text": null}\n{"text": 7}\n{"text": "a"\n{"text": "\xff"}\n'
        b'{"text": "\\ud83d"}\n{"id": true, "text": "b"}\n{"id": 1.5, "text": "b"}\n'
        b'{"title": [], "text": "b"}\n'
    )
    told = dict(faults(tmp_path / "c.jsonl"))
    assert sorted(told) == list(range(2, 11))
    assert told[3] == "has no text"
    assert told[4] == "its text is int, expected a string"
    assert told[8] == "its id is bool, expected a string"
    assert told[10] == "its title is list, expected a string"
    (tmp_path / "c.csv").write_bytes(b"id,text\n1,a\n2\n3,b,c\n4,\xff\n5,d\n")
    assert faults(tmp_path / "c.csv") == [
        (3, "has 1 values, expected 2"),
        (4, "has 3 values, expected 2"),
        (5, "its text is not UTF-8, or holds half a surrogate pair"),
    ]


def test_a_quote_that_is_never_closed_costs_its_own_rows_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MOST_BYTES", 200)
    text = 'id,text\n1,a\n2,"never closed\n' + "".join(f"{n},word\n" for n in range(3, 100))
    (tmp_path / "c.csv").write_text(text)
    found = records(tmp_path / "c.csv")
    assert found[1].mark.number == 3
    assert "field larger than field limit (200)" in found[1].fault
    assert len([record for record in found if record.document]) > 50


def test_a_line_that_is_too_long_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MOST_BYTES", 1000)
    rows = [{"text": "a"}, {"text": "x" * 5000}, {"text": "b"}]
    for name in ("c.jsonl", "c.jsonl.gz"):
        path = write_jsonl(tmp_path / name, rows)
        found = records(path)
        assert [record.document is not None for record in found] == [True, False, True]
        assert found[1].fault.startswith("is longer than")
        (source,) = find_sources([str(path)], tmp_path / "spool")
        assert list(read(source, Reading(), found[2].mark)) == found[2:]


def test_a_file_says_what_it_is_where_its_name_does_not(tmp_path: Path) -> None:
    (tmp_path / "one").write_text('\n {"text": "a"}\n')
    (tmp_path / "two.log").write_text("a line\n\nanother\r\n")
    assert read_back(tmp_path / "one") == [("one:2", "", "a")]
    assert read_back(tmp_path / "two.log") == [("two.log:1", "", "a line"), ("two.log:3", "", "another")]
    (tmp_path / "three.txt").write_bytes(b"id,text\n1,a\n")
    assert read_back(tmp_path / "three.txt", kind="csv") == [("1", "", "a")]


def test_byte_order_marks_and_files_of_other_systems(tmp_path: Path) -> None:
    for name, content in (("c.jsonl", as_jsonl(ROWS)), ("c.csv", as_csv(ROWS))):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content)
        assert read_back(tmp_path / name) == EXPECTED
    (tmp_path / "c.csv").write_bytes(as_csv(ROWS).decode().encode("utf-16"))
    with pytest.raises(InputError, match=r"not UTF-8 but UTF-16; type: iconv .* \| paritas encode - "):
        records(tmp_path / "c.csv")
    (tmp_path / "c.jsonl").write_bytes(as_jsonl(ROWS).replace(b"\n", b"\r"))
    with pytest.raises(InputError, match="lines end in CR alone"):
        records(tmp_path / "c.jsonl")


@pytest.mark.parametrize("name", ["c.json.gz", "c.jsonl.zst", "c.parquet", "file.arrow", "stream.arrow"])
def test_half_a_file_is_an_error(tmp_path: Path, name: str) -> None:
    content = FORMS[name](documents(400))
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=f"{name}: .*expected a whole file"):
        records(tmp_path / name)


def test_columns_of_every_kind_of_string(tmp_path: Path) -> None:
    texts = ["a", None, "b", "日本"]
    kinds = {
        "large": pa.array(texts, pa.large_string()),
        "view": pa.array(texts, pa.string_view()),
        "dictionary": pa.array(texts).dictionary_encode(),
        "binary": pa.array([t and t.encode() for t in texts], pa.binary()),
    }
    for name, column in kinds.items():
        held = pa.table({"text": column, "id": pa.array([1, 2, 3, 4], pa.int32())})
        with pa.ipc.new_file(tmp_path / f"{name}.arrow", held.schema) as writer:
            writer.write_table(held)
        if name != "view":
            pq.write_table(held, tmp_path / f"{name}.parquet")
        for path in tmp_path.glob(f"{name}.*"):
            found = records(path)
            assert [record.document and record.document.text for record in found] == texts
            assert [record.document.id for record in found if record.document] == ["1", "3", "4"]
            assert found[1].fault == "has no text"


def test_bytes_that_are_not_utf8_cost_their_own_row(tmp_path: Path) -> None:
    column = pa.array([b"a", b"\xff\xfe", b"b"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": column}), tmp_path / "c.parquet")
    assert [number for number, _ in faults(tmp_path / "c.parquet")] == [2]


def test_lists_and_structs_are_no_texts(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [["a", "b"]], "n": [1]}), tmp_path / "c.parquet")
    assert faults(tmp_path / "c.parquet") == [(1, "its text is list, expected a string")]


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_long_texts_that_come_again_are_held_a_few_at_a_time(tmp_path: Path, form: str) -> None:
    """A dictionary has each once: 4,096 rows of a file of some KB would be a gigabyte."""
    column = pa.DictionaryArray.from_arrays(pa.array([n % 3 for n in range(4096)]), ["a" * 300_000, "b", "c"])
    held, path = pa.table({"text": column}), tmp_path / f"c.{form}"
    if form == "parquet":
        pq.write_table(held, path)
    else:
        with pa.ipc.new_file(path, held.schema) as writer:
            writer.write_table(held)
    code = (
        "import sys; from pathlib import Path\n"
        "from paritas.bulk.readers import Reading, read\n"
        "from paritas.bulk.sources import find_sources\n"
        "(source,) = find_sources([sys.argv[1]], Path('spool'))\n"
        "assert sum(len(r.document.text) for r in read(source, Reading())) == 1366 * 300_000 + 2730\n"
        "peak = next(l for l in open('/proc/self/status') if l.startswith('VmHWM'))\n"
        "print(int(peak.split()[1]) // 1024)\n"
    )
    told = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert int(told.stdout) < 300


def test_a_blank_line_before_the_first_row(tmp_path: Path) -> None:
    (tmp_path / "c.tsv").write_text("\n1\ta\n2\tb\n")
    columns = Columns(id="1", text="2")
    found = records(tmp_path / "c.tsv", columns=columns)
    (source,) = find_sources([str(tmp_path / "c.tsv")], tmp_path / "spool")
    assert [r.document.id for r in found if r.document] == ["1", "2"]
    assert list(read(source, Reading(columns=columns), found[0].mark)) == found


def test_a_quote_that_is_open_at_the_end_is_told(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text('id,text\n1,ok\n2,"never closed\n3,three\n4,four\n')
    assert faults(tmp_path / "c.csv") == [
        (3, "is no row of CSV: unexpected end of data, in 3 lines: a quote in it is not closed")
    ]


def test_a_line_of_csv_that_is_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MOST_BYTES", 1000)
    (tmp_path / "c.csv").write_text(f"id,text\n1,a\n2,{'x' * 5000}\n3,b\n")
    found = records(tmp_path / "c.csv")
    assert [record.document is not None for record in found] == [True, False, True]
    assert "is longer than" in found[1].fault


def test_files_that_are_not_what_they_seem(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What has no name says by its first bytes what it is; what has one must be that."""
    (tmp_path / "table").write_bytes(as_parquet(ROWS))
    (tmp_path / "arrow").write_bytes(as_arrow(ROWS, pa.ipc.new_file))
    for name in ("table", "arrow"):
        assert read_back(tmp_path / name) == EXPECTED
    (tmp_path / "c.jsonl").write_text('[\n{"text": "a"},\n{"text": "b"}\n]\n')
    with pytest.raises(InputError, match=r"c\.jsonl:1: begins an array; .* type: jq -c '\.\[\]' FILE"):
        records(tmp_path / "c.jsonl")
    (tmp_path / "p.parquet.gz").write_bytes(gzip.compress(as_parquet(ROWS)))
    with pytest.raises(InputError, match=r"p\.parquet\.gz: is packed; expected parquet itself"):
        records(tmp_path / "p.parquet.gz")
    (tmp_path / "c.jsonl.zst").write_bytes(b"(\xb5/")
    with pytest.raises(InputError, match=r"c\.jsonl\.zst: is not packed, or damaged"):
        records(tmp_path / "c.jsonl.zst")
    (tmp_path / "unnamed").write_text("id,text\n1,a\n")
    records(tmp_path / "unnamed")
    assert "unnamed: is read as plain text, a text a line; --format says otherwise" in caplog.text


def test_a_column_that_no_line_has(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", documents(5))
    with pytest.raises(InputError, match="no line has the key 'titel' of --title"):
        records(path, columns=Columns(title="titel"))
    assert {fault for _, fault in faults(path, columns=Columns(id="url"))} == {"has no id"}
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, ["text", "text"]), tmp_path / "c.parquet")
    with pytest.raises(InputError, match="has 2 columns 'text'; expected one"):
        records(tmp_path / "c.parquet")


def test_runs_of_a_packed_file_that_others_share_are_read_in_one_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(tmp_path / "c.jsonl.gz", documents(40))
    (source,) = find_sources([str(path)], tmp_path / "spool")
    whole = list(read(source, Reading()))
    opened: list[int] = []
    real = type(source).open

    def counted(self: Any) -> Any:
        opened.append(1)
        return real(self)

    monkeypatch.setattr(type(source), "open", counted)
    cursor = Cursor(Reading())
    for start in (0, 10, 30):
        assert list(cursor.take(source, whole[start].mark, 5)) == whole[start : start + 5]
    cursor.close()
    assert len(opened) == 1


def test_files_that_others_write(tmp_path: Path) -> None:
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    write_jsonl(tmp_path / "c.jsonl", ROWS)
    duckdb.sql(f"COPY (FROM '{tmp_path}/c.jsonl') TO '{tmp_path}/duck.parquet' (FORMAT parquet)")
    duckdb.sql(f"COPY (FROM '{tmp_path}/c.jsonl') TO '{tmp_path}/duck.csv' (HEADER)")
    frame = polars.DataFrame(ROWS)
    frame.write_parquet(tmp_path / "polars.parquet")
    frame.with_columns(polars.col("title").cast(polars.Categorical)).write_parquet(
        tmp_path / "category.parquet"
    )
    frame.write_csv(tmp_path / "polars.csv")
    frame.write_ndjson(tmp_path / "polars.jsonl")
    frame.write_ipc(tmp_path / "polars.arrow")
    for name in (
        "duck.parquet",
        "duck.csv",
        "polars.parquet",
        "category.parquet",
        "polars.csv",
        "polars.jsonl",
    ):
        assert read_back(tmp_path / name) == EXPECTED, name
    assert read_back(tmp_path / "polars.arrow") == EXPECTED


@pytest.mark.parametrize(
    ("name", "text"), [("nested.snappy.parquet", "passage.text"), ("rows.json.gz", None), ("rows.csv", None)]
)
def test_files_that_spark_writes(name: str, text: str | None) -> None:
    """Spark 4.3.0 wrote them: titles with nulls in a dictionary, nested texts, and quotes doubled in CSV."""
    found = read_back(SPARK / name, columns=Columns(None, None, text))
    titles = ["" if n % 4 == 0 else "Island" if n % 2 else "Straße" for n in range(40)]
    assert found == [
        (f"{n}", titles[n], f'the ferry leaves at {n}, "in the\nmorning" 日本') for n in range(40)
    ]


def test_quotes_that_a_backslash_escapes_are_told() -> None:
    """As Spark writes CSV unless it is told otherwise: no text is read in another way than it was written."""
    found = faults(SPARK / "backslashes.csv")
    assert len(found) == 80
    assert 'doubled: "", and not \\" (in Spark: .option("escape", "\\""))' in found[0][1]


def test_the_beginning_is_where_a_file_begins() -> None:
    assert BEGINNING == (1, 0)
