"""An index that was damaged is refused and left as it is."""

from __future__ import annotations

import json
import shlex
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.runs import Run, refused, said, write_jsonl
from tests.unit.files import contents


def truncate(pattern: str) -> Callable[[Path], None]:
    def damage(index: Path) -> None:
        (path,) = index.glob(pattern)
        path.write_bytes(path.read_bytes()[:-100])

    return damage


def remove(pattern: str) -> Callable[[Path], None]:
    def damage(index: Path) -> None:
        (path,) = index.glob(pattern)
        path.unlink()

    return damage


def info(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(index: Path) -> None:
        found = json.loads((index / "index.json").read_text(encoding="utf-8"))
        change(found)
        (index / "index.json").write_text(json.dumps(found), encoding="utf-8")

    return damage


def scribble(index: Path) -> None:
    """Overwrite all of the table but its first page; the size stays."""
    (path,) = index.glob("texts-*.sqlite")
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))


def forget_a_text(index: Path) -> None:
    """Delete a row; the size stays."""
    (path,) = index.glob("texts-*.sqlite")
    size = path.stat().st_size
    database = sqlite3.connect(path)
    database.execute("DELETE FROM documents WHERE id = 'sky'")
    database.commit()
    database.close()
    assert path.stat().st_size == size


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "vectors truncated": (truncate("vectors-*"), ".usearch: "),
    "texts truncated": (truncate("texts-*"), ".sqlite: "),
    "vectors gone": (remove("vectors-*"), ".usearch: missing; the index is damaged, index anew"),
    "texts gone": (remove("texts-*"), ".sqlite: missing; the index is damaged, index anew"),
    "texts overwritten": (scribble, ".sqlite: changed since it was saved (sha256 "),
    "a text deleted": (forget_a_text, "; restore the file or index anew"),
    "index.json garbage": (
        lambda index: (index / "index.json").write_bytes(b"\x00garbage"),
        "index.json: JSON is malformed",
    ),
    "index.json empty": (
        lambda index: (index / "index.json").write_bytes(b""),
        "index.json: Input data was truncated; index anew",
    ),
    "index.json gone": (remove("index.json"), "corpus.index: no index there; type: paritas index"),
    "newer format": (
        info(lambda found: found.update(format=3)),
        "index.json: format 3, this paritas reads up to 2; upgrade it",
    ),
    "a generation that climbs": (
        info(lambda found: found.update(generation="../../x")),
        "index.json: '../../x' is no generation; index anew",
    ),
    "another count": (info(lambda found: found.update(count=5)), "changed since the index was saved"),
    "another dim": (info(lambda found: found.update(dim=8)), "changed since the index was saved"),
    "format 1 again": (info(lambda found: found.update(format=1)), "changed since the index was saved"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_index_is_refused_and_left_as_it_is(folder: Path, run: Run, case: str) -> None:
    damage, message = DAMAGES[case]
    damage(folder / "corpus.index")
    before = contents(folder)
    refused(run("search", "corpus.index", "why is the sky blue"), message)
    assert contents(folder) == before


def test_a_table_damaged_in_its_middle_is_refused(folder: Path, run: Run) -> None:
    write_jsonl(
        folder / "long.jsonl",
        [{"_id": str(number), "text": f"the river {number} " * 200} for number in range(40)],
    )
    said(run(*shlex.split("index long.jsonl --model mpnet.bundle --out long.index")))
    (path,) = (folder / "long.index").glob("texts-*.sqlite")
    data = bytearray(path.read_bytes())
    data[8 * 4096 : -8 * 4096] = bytes(len(data) - 16 * 4096)
    path.write_bytes(data)
    result = run("search", "long.index", "river", "-k", "40")
    refused(result, ".sqlite: changed since it was saved (sha256 ")
