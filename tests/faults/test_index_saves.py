"""An index saved by a program that is killed, or by two at once: on disk is always one of them, whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from paritas.engine.encoder import Encoder
from paritas.engine.index import VectorIndex
from tests.faults.indexes import add, check_whole
from tests.faults.steps import Program, some

SAVE = """
import sys
from paritas.engine.index import VectorIndex
with VectorIndex.load(sys.argv[1], mmap=False) as index:
    index.save(sys.argv[2])
"""
LOAD = """
import sys
from paritas.engine.index import VectorIndex
from tests.faults.indexes import check_whole
with VectorIndex.load(sys.argv[1], mmap=sys.argv[2] == "mmap") as index:
    print(len(check_whole(index)))
"""
OLD, NEW, LATER = set(range(40)), set(range(100, 190)), set(range(300, 320))


def saved(encoder: Encoder, numbers: set[int], directory: Path) -> Path:
    with VectorIndex(encoder) as index:
        add(index, sorted(numbers))
        index.save(directory)
    return directory


@pytest.fixture
def new(bert: Encoder, tmp_path: Path) -> Path:
    return saved(bert, NEW, tmp_path / "new")


@pytest.mark.parametrize("first", [True, False], ids=["first save", "over another"])
def test_a_save_killed_at_any_step_leaves_one_whole_index(
    bert: Encoder, new: Path, tmp_path: Path, first: bool, whole: bool
) -> None:
    target = tmp_path / "target"
    program = Program(SAVE, new, target, watched=target)
    steps = len(program.steps())
    for step in some(steps, None if whole else 6):
        if not first:
            saved(bert, OLD, target)
        elif target.exists():
            for path in target.iterdir():
                path.unlink()
        assert program.killed_at(step)
        if first and not (target / "index.json").exists():
            continue
        with VectorIndex.load(target) as index:
            assert check_whole(index) in (OLD, NEW)
    saved(bert, LATER, target)
    assert len(list(target.iterdir())) == 3, "what the killed ones left is cleared away"


@pytest.mark.parametrize("mmap", [True, False])
def test_a_load_sees_a_whole_index_at_any_step_of_a_save(
    bert: Encoder, new: Path, tmp_path: Path, mmap: bool, whole: bool
) -> None:
    target = saved(bert, OLD, tmp_path / "target")
    program = Program(SAVE, new, target, watched=target)
    for step in some(len(program.steps()), None if whole else 6):
        saved(bert, OLD, target)

        def look() -> None:
            with VectorIndex.load(target, mmap=mmap) as index:
                assert check_whole(index) in (OLD, NEW)

        assert program.stopped_at(step, look)


@pytest.mark.parametrize("mmap", ["mmap", "memory"])
def test_a_save_at_any_step_of_a_load_changes_nothing_for_it(
    bert: Encoder, new: Path, tmp_path: Path, mmap: str, whole: bool
) -> None:
    target = saved(bert, OLD, tmp_path / "target")
    program = Program(LOAD, target, mmap, watched=target)
    with VectorIndex.load(new) as other, VectorIndex.load(target, mmap=False) as old:
        for step in some(len(program.steps()), None if whole else 6):
            for index in (other, old):
                # The program ends well only if what it loaded was whole.
                assert program.stopped_at(step, lambda index=index: index.save(target))
            assert {path.suffix for path in target.iterdir()} == {".json", ".usearch", ".sqlite"}
            assert len(list(target.iterdir())) == 3


def test_a_second_save_waits_for_one_that_is_stopped_and_both_end(
    bert: Encoder, new: Path, tmp_path: Path, whole: bool
) -> None:
    target = saved(bert, OLD, tmp_path / "target")
    program = Program(SAVE, new, target, watched=target)
    later = Program(SAVE, saved(bert, LATER, tmp_path / "later"), target, watched=target)
    for step in some(len(program.steps()), None if whole else 4):
        second = []

        assert program.stopped_at(step, lambda second=second: second.append(later._start(at=0, number=0)))
        process, log = second[0]
        assert process.wait() == 0, log.read()
        with VectorIndex.load(target) as index:
            assert check_whole(index) in (NEW, LATER)
        assert len(list(target.iterdir())) == 3
