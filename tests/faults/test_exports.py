"""Exports that are killed, stopped or run two at a time: a whole bundle stays, the rest is cleared."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from paritas import files, workplace
from paritas.engine.bundle.directory import Bundle
from paritas.export import export_model
from paritas.registry import Registry
from tests.faults.steps import Program, some

EXPORT = """
import sys
from paritas.export import export_model
from paritas.registry import load_registry
registry = load_registry(sys.argv[3])
export_model("tiny-bert", source=sys.argv[1], out=sys.argv[2], registry=registry)
"""
# The same steps without the graphs: what is written last, and the exchange.
PUT = """
import sys
from pathlib import Path
from paritas import workplace
if sys.argv[2] == "renames":
    workplace.exchange = lambda _first, _second: False
target = Path(sys.argv[1])
with workplace.workplace(target) as work:
    for name in ("tokenizer.json", "model.fp32.onnx", "manifest.json"):
        (work / name).write_text(sys.argv[3])
    workplace.put(work, target)
"""
WAYS = ["exchange", "renames"]
# Where the short trials begin: a step while the graphs are written.
_MIDDLE = 30


def generation(target: Path) -> str:
    """Which put a directory is from; all its files are from one."""
    (found,) = {path.read_text() for path in target.iterdir()}
    assert {path.name for path in target.iterdir()} == {"tokenizer.json", "model.fp32.onnx", "manifest.json"}
    return found


def started_again(target: Path) -> None:
    """What any export does first in the same parent."""
    with workplace.workplace(target.with_name("another")):
        pass


@pytest.mark.parametrize("way", WAYS)
def test_killed_at_every_step_of_the_exchange(tmp_path: Path, way: str) -> None:
    target = tmp_path / "out"
    steps = Program(PUT, target, way, "0", watched=tmp_path).steps()
    steps = Program(PUT, target, way, "1", watched=tmp_path).steps()
    assert generation(target) == "1"
    missing = 0
    for step in some(len(steps), None):
        Program(PUT, target, way, str(step + 1), watched=tmp_path).killed_at(step)
        missing += not target.exists()
        assert missing <= (way == "renames")
        started_again(target)
        assert generation(target) in {str(step), str(step + 1)}
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        (target / "manifest.json").write_text(str(step + 1))
        (target / "tokenizer.json").write_text(str(step + 1))
        (target / "model.fp32.onnx").write_text(str(step + 1))


@pytest.mark.parametrize("way", WAYS)
def test_a_second_one_at_every_step_of_a_first(tmp_path: Path, way: str) -> None:
    target = tmp_path / "out"
    Program(PUT, target, way, "0", watched=tmp_path).steps()
    count = len(Program(PUT, target, way, "0", watched=tmp_path).steps())

    def second() -> None:
        if lock_is_free(tmp_path):
            started_again(target)
            assert Program(PUT, target, way, "second", watched=tmp_path).steps()
            assert generation(target) == "second"

    for step in some(count, None):
        assert Program(PUT, target, way, "first", watched=tmp_path).stopped_at(step, second)
        assert generation(target) in {"first", "second"}
        started_again(target)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


def lock_is_free(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return files.lock_free(descriptor)
    finally:
        os.close(descriptor)


@pytest.fixture
def place(tmp_path: Path, bundles: dict[str, Bundle]) -> Path:
    """Where the trials export to; a bundle of another model is there."""
    (tmp_path / "bundles").mkdir()
    return Path(shutil.copytree(bundles["tiny-mpnet"].directory, tmp_path / "bundles" / "out"))


@pytest.fixture
def export(place: Path, checkpoints: dict[str, Path], tiny_registry_path: Path) -> Program:
    return Program(EXPORT, checkpoints["tiny-bert"], place, tiny_registry_path, watched=place.parent)


def is_whole(place: Path) -> None:
    bundle = Bundle(place)
    bundle.verify()
    assert set(bundle.manifest.files) | {"manifest.json"} == {path.name for path in place.iterdir()}


def test_killed_at_steps_of_an_export(place: Path, export: Program, whole: bool) -> None:
    # The first and the last of its 60 steps cost nobody anything.
    for step in some(len(export.steps()), None) if whole else (_MIDDLE - 8, _MIDDLE, _MIDDLE + 8):
        assert export.killed_at(step)
        is_whole(place)
        assert len(list(place.parent.iterdir())) <= 2  # the next one clears what this one left
    started_again(place)
    assert [path.name for path in place.parent.iterdir()] == ["out"]


def test_killed_anywhere(place: Path, export: Program, whole: bool) -> None:
    moments = random.Random(0)
    for _ in range(50 if whole else 1):
        export.kill_after(moments.uniform(0.2, 3.0))
        is_whole(place)
    started_again(place)
    assert [path.name for path in place.parent.iterdir()] == ["out"]


def test_a_second_export_at_steps_of_a_first(
    place: Path,
    export: Program,
    whole: bool,
    checkpoints: dict[str, Path],
    tiny_registry: Registry,
    tiny_registry_path: Path,
) -> None:
    arguments = [str(checkpoints["tiny-bert"]), str(place), str(tiny_registry_path)]
    waiting: list[subprocess.Popen[bytes]] = []

    def second() -> None:
        if lock_is_free(place.parent):
            export_model("tiny-bert", source=arguments[0], out=place, registry=tiny_registry)
            is_whole(place)
        else:  # it waits for the first one
            waiting.append(subprocess.Popen([sys.executable, "-c", EXPORT, *arguments]))

    for step in some(len(export.steps()), None) if whole else [_MIDDLE]:
        assert export.stopped_at(step, second)
        assert [process.wait() for process in waiting] == [0] * len(waiting)
        is_whole(place)
        started_again(place)
        assert [path.name for path in place.parent.iterdir()] == ["out"]


# What is left over, and what is not.


def test_what_others_made_is_not_cleared(tmp_path: Path) -> None:
    kept = {
        ".out.partial-0123456789ab/thesis.txt": "not ours",
        ".out.partial-0123456789ac/model.files/thesis.txt": "a folder",
        ".out.former-backup12/model.notes": "another end",
        ".out.partial-0123456789ab.d/manifest.json": "not our name",
        "out.partial-0123456789ab/manifest.json": "not hidden",
        ".partial-0123456789ab/manifest.json": "of nothing",
    }
    for name, content in kept.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(content)
    (tmp_path / ".link.partial-0123456789ab").symlink_to(tmp_path / "out.partial-0123456789ab")
    (tmp_path / ".out.partial-abcdefgh").mkdir()
    assert workplace.leftovers(tmp_path) == [tmp_path / ".out.partial-abcdefgh"]
    started_again(tmp_path / "out")
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} >= set(kept)
    assert len(list(tmp_path.iterdir())) == 7


def test_what_a_living_process_makes_is_not_cleared(tmp_path: Path) -> None:
    with workplace.workplace(tmp_path / "one") as work:
        assert workplace.leftovers(tmp_path) == []
        with workplace.workplace(tmp_path / "other"):
            assert work.is_dir()
        started_again(tmp_path / "one")
        assert work.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_former_bundle_is_given_its_name_back_unless_it_is_taken(tmp_path: Path) -> None:
    for name in (".lost.former-0123456789ab", ".taken.former-0123456789ab", "taken"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(name)
    started_again(tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lost", "taken"]
    assert (tmp_path / "taken" / "manifest.json").read_text() == "taken"
