"""Files of an index with changed bytes: refused by name, never a crash, never a wrong answer."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from paritas.engine.encoder import Encoder
from paritas.engine.index import INDEX, VectorIndex
from paritas.errors import VectorIndexError
from tests.faults.indexes import add

# In a process of its own: a crash of it is seen, and changes nothing here.
MUTATE = """
import os, random, shutil, sys
from pathlib import Path
import numpy as np
from paritas.engine.index import VectorIndex
from paritas.errors import VectorIndexError

directory, name, count, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
dice = random.Random(seed)
path = directory / name
whole = path.read_bytes()
queries = np.eye(6, 16, dtype=np.float32)

def answers(mmap):
    with VectorIndex.load(directory, mmap=mmap) as index:
        return index.search(queries, 9), index.search(queries, 9, exact=True), len(index), index.info.model

def mutated():
    data = bytearray(whole)
    kind = dice.choice(["bit", "byte", "zeros", "ones", "swap", "cut", "longer", "copy"])
    at = dice.randrange(min(len(data), dice.choice([100, len(data)])))
    length = dice.choice([1, 2, 4, 8, 64, 512])
    if kind == "bit":
        data[at] ^= 1 << dice.randrange(8)
    elif kind == "byte":
        data[at] = dice.randrange(256)
    elif kind in ("zeros", "ones"):
        data[at : at + length] = (b"\\0" if kind == "zeros" else b"\\xff") * len(data[at : at + length])
    elif kind == "swap":
        other = dice.randrange(len(data))
        data[at], data[other] = data[other], data[at]
    elif kind == "cut":
        del data[at:]
    elif kind == "longer":
        data[at:at] = dice.randbytes(length)
    else:
        other = dice.randrange(len(data))
        data[at : at + length] = data[other : other + len(data[at : at + length])]
    return bytes(data)

expected = answers(True)
refused = same = 0
for number in range(count):
    data = mutated()
    path.write_bytes(data)
    print(number, file=sys.stderr, flush=True)
    for mmap in (True, False):
        try:
            assert answers(mmap) == expected, "a wrong answer"
            assert data == whole or name == "index.json", "changed bytes were not seen"
            same += 1
        except VectorIndexError as error:
            assert data != whole, error
            assert str(path) in str(error) or str(directory) in str(error), error
            refused += 1
path.write_bytes(whole)
assert answers(False) == expected
print(refused, same)
"""


@pytest.fixture
def index(bert: Encoder, tmp_path: Path) -> Path:
    with VectorIndex(bert) as made:
        add(made, list(range(70)))
        made.add(["copy", "other copy"], made.sample(1).repeat(2, axis=0), texts=["text copy"] * 2)
        made.save(tmp_path / "index")
    return tmp_path / "index"


@pytest.mark.parametrize("kind", ["vectors-*.usearch", "texts-*.sqlite", INDEX])
def test_changed_files_are_refused_or_read_the_same(index: Path, kind: str, whole: bool) -> None:
    (path,) = index.glob(kind)
    arguments = [str(index), path.name, "2000" if whole else "150", "7"]
    run = subprocess.run(
        [sys.executable, "-c", MUTATE, *arguments], check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    refused, same = map(int, run.stdout.split())
    print(f"{kind}: {refused} loads refused, {same} of files that mean the same (most of them equal)")
    assert refused > 1.5 * int(arguments[2])


def as_format_1(index: Path) -> None:
    """Take the digests away, as if an older version had written it."""
    path = index / INDEX
    info = json.loads(path.read_text(encoding="utf-8"))
    for name in ("sha256", "checksum", "distinct"):
        del info[name]
    path.write_text(json.dumps(info | {"format": 1}), encoding="utf-8")


def damaged_table(path: Path) -> None:
    data = bytearray(path.read_bytes())
    dice = random.Random(0)
    for _ in range(40):
        data[dice.randrange(4096, len(data))] ^= 0xFF
    path.write_bytes(bytes(data))


def not_utf8(path: Path) -> None:
    data = path.read_bytes()
    assert b"is the sky" in data
    path.write_bytes(data.replace(b"is the sky", b"is the \xff\xfe\xff"))


@pytest.mark.parametrize("change", [damaged_table, not_utf8])
def test_a_damaged_table_without_a_digest_is_refused(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """Format 1 has sizes alone. Its table is checked when it is opened, its characters when they are read."""
    directory = tmp_path / "index"
    shutil.copytree(Path(__file__).parents[1] / "unit" / "format3" / "index", directory)
    (path,) = directory.glob("texts-*")
    change(path)
    with pytest.raises(VectorIndexError, match="texts"), VectorIndex.load(directory) as loaded:
        loaded.search(np.eye(1, 16, dtype=np.float32), 2)


@pytest.mark.parametrize("field", ["sha256", "checksum", "distinct"])
def test_an_index_that_lost_a_digest_is_not_taken_for_an_older_one(index: Path, field: str) -> None:
    path = index / INDEX
    info = json.loads(path.read_text(encoding="utf-8"))
    del info[field]
    for format_ in (1, 2):
        path.write_text(json.dumps(info | {"format": format_}), encoding="utf-8")
        with pytest.raises(VectorIndexError, match=INDEX):
            VectorIndex.load(index)


def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(index: Path) -> None:
    import os

    for path in index.iterdir():
        aside = path.rename(path.with_name("aside"))
        os.mkfifo(path)
        with pytest.raises(VectorIndexError, match="is no regular file"):
            VectorIndex.load(index)
        aside.replace(path)
