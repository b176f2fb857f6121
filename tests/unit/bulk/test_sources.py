"""What inputs stand for: files, directories, patterns and standard input."""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from paritas.bulk.sources import find_sources, kind_of
from paritas.errors import InputError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "in/a.jsonl",
        "in/b.csv.gz",
        "in/deep/c.parquet",
        "in/deep/notes.md",
        "in/_hidden/d.jsonl",
        "in/.e.jsonl",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path / "in"


def labels(*inputs: object, spool: Path) -> list[str]:
    return [source.label for source in find_sources([str(given) for given in inputs], spool)]


def test_a_directory_gives_its_data_files_by_name(tree: Path, tmp_path: Path) -> None:
    assert labels(tree, spool=tmp_path / "s") == ["a.jsonl", "b.csv.gz", "deep/c.parquet"]


def test_a_pattern_gives_what_it_matches(tree: Path, tmp_path: Path) -> None:
    assert labels(tree / "**/*.md", spool=tmp_path / "s") == ["notes.md"]
    assert labels(tree / "*.jsonl", tree / "deep/c.parquet", spool=tmp_path / "s") == [
        "a.jsonl",
        "deep/c.parquet",
    ]
    with pytest.raises(InputError, match=r"\*\.xml: no file matches"):
        labels(tree / "*.xml", spool=tmp_path / "s")


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tmp_path: Path) -> None:
    (tmp_path / "a[1].jsonl").write_text("x")
    assert labels(tmp_path / "a[1].jsonl", spool=tmp_path / "s") == ["a[1].jsonl"]


def test_labels_are_the_same_wherever_the_files_lie(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree / "deep")
    assert labels("../a.jsonl", "c.parquet", spool=tmp_path / "s") == ["a.jsonl", "deep/c.parquet"]


def test_what_is_not_there(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="nowhere: no such file; expected a file, a directory, a pattern"):
        labels(tmp_path / "nowhere", spool=tmp_path / "s")
    with pytest.raises(InputError, match=r"no file in it ends in \.jsonl"):
        labels(tree / ".." / "empty", spool=tmp_path / "s")
    with pytest.raises(InputError, match=r"a\.jsonl: is named twice"):
        labels(tree, tree / "a.jsonl", spool=tmp_path / "s")


def test_a_file_by_two_names_is_one(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to(tree / "a.jsonl")
    for other in (tree / "deep" / ".." / "a.jsonl", tmp_path / "link.jsonl"):
        with pytest.raises(InputError, match="is named twice"):
            labels(tree / "a.jsonl", other, spool=tmp_path / "s")


def test_standard_input_that_a_plan_goes_by_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stdin").write_bytes(b"planned")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"another")))
    (source,) = find_sources(["-"], tmp_path / "stdin", planned=True)
    assert (tmp_path / "stdin").read_bytes() == b"planned"
    assert source.version == hashlib.sha256(b"another").hexdigest()


def test_standard_input_is_kept_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b'{"text": "a"}\n')))
    (source,) = find_sources(["-"], tmp_path / "job" / "stdin")
    with source.open() as file:
        assert file.read() == b'{"text": "a"}\n'
    assert source.version == source.digest()
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["stdin"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jsonl", "jsonl"),
        ("a.JSON.gz", "jsonl"),
        ("b.tsv.zst", "tsv"),
        ("s3://bucket/x/c.parquet", "parquet"),
        ("d", None),
        ("e.gz", None),
    ],
)
def test_kinds_by_name(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind
