"""The store as the doctor sees it: every state that it or a bundle may be in."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from paritas import workplace
from paritas.doctor import BundleState, Findings, Problem, examine
from paritas.doctor import store as doctor_store
from paritas.engine.bundle.directory import MANIFEST, Bundle
from paritas.engine.encoder import Encoder
from paritas.engine.runtime import cpus
from paritas.engine.settings import Settings
from paritas.engine.tuned import Tuned, keep_tuned
from tests.unit.files import change_byte

VNNI = ["avx2", "avx512f", "avx512_vnni"]
AVX2 = ["avx2", "avx512f"]


@pytest.fixture
def placed(bundles: dict[str, Bundle], home: Path) -> Path:
    """A bundle in the store that the test may break."""
    return Path(shutil.copytree(bundles["tiny-bert"].directory, home / "bundles" / "tiny-bert"))


def only(found: Findings) -> BundleState:
    (bundle,) = found.bundles
    return bundle


def edit(bundle: Path, **changes: Any) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    manifest.pop("manifest_sha256")
    (bundle / MANIFEST).write_text(json.dumps(manifest | changes), encoding="utf-8")


def with_int8(bundle: Path, instructions: list[str]) -> None:
    """Let a manifest call its FP16 form INT8, certified on a CPU with these instructions."""
    precisions = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))["precisions"]
    precisions["int8"] = precisions.pop("fp16")
    precisions["int8"]["certificate"]["instructions"] = instructions
    edit(bundle, precisions=precisions)


def having(monkeypatch: pytest.MonkeyPatch, instructions: list[str]) -> None:
    """Let this CPU have these instructions."""
    for module in ("doctor.machine", "engine.runtime.precision"):
        monkeypatch.setattr(f"paritas.{module}.instructions", lambda: instructions)


def test_a_store_that_cannot_be_written_to_is_a_warning(
    placed: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access

    def denied(path: Path, mode: int) -> bool:
        return access(path, mode) and not (path == home and mode & os.W_OK)

    monkeypatch.setattr(os, "access", denied)
    found = examine()
    assert (found.ok, found.store.writable) == (True, False)
    assert f"{home} cannot be written to" in found.problems[0].what


def test_exports_under_way_and_stray_files_are_no_bundles(placed: Path) -> None:
    shutil.copytree(placed, placed.with_name(".tiny-bert.partial-x"))
    (placed.parent / "notes.txt").touch()
    assert only(examine()).model == "tiny-bert"


def test_a_whole_bundle_is_shown_with_what_it_runs_with(placed: Path, home: Path) -> None:
    Encoder(placed).close()
    (home / "cache" / "of another kind").write_bytes(bytes(100))
    found = examine()
    bundle = only(found)
    assert (found.ok, bundle.error, bundle.unread_bytes) == (True, None, 0)
    assert (bundle.precision, bundle.reason) == ("fp32", "the bundle has no INT8")
    assert {name: graph.prepared for name, graph in bundle.graphs.items()} == {"fp32": True, "fp16": False}
    names = ("model.fp32.equal_length.onnx", "model.fp32.onnx.data")
    assert bundle.graphs["fp32"].size_bytes == sum((placed / name).stat().st_size for name in names)
    assert found.store.cache_bytes == found.store.prepared_bytes + 100
    assert found.store.prepared_bytes > 0


def test_what_was_tuned_is_shown_and_for_other_cpus_warned_of(placed: Path) -> None:
    cpus_now = cpus.available_cpus()
    tuned = Tuned("tiny-bert", "fp32", cpus_now, "a CPU", "1.31.1", "2026-01-01", 1, 256, 1.25, [])
    keep_tuned(Bundle(placed), tuned)
    graph = only(examine()).graphs["fp32"]
    assert (graph.settings, graph.gain) == (Settings(cpus_now, 1, 256, "tuned"), 1.25)
    keep_tuned(Bundle(placed), Tuned("", "fp32", cpus_now + 1, "", "", "", 1, 256, 1.25, []))
    found = examine()
    graph = only(found).graphs["fp32"]
    assert graph.settings == Settings(cpus_now, cpus_now, 512, "default")
    assert graph.gain is None
    what = f"tiny-bert: fp32 was tuned with {cpus_now + 1} CPUs, now {cpus_now}"
    assert found.problems == [Problem("warning", what, "paritas tune tiny-bert --precision fp32")]


@pytest.mark.parametrize(
    ("here", "certified", "precision", "warned"),
    [(VNNI, VNNI, "int8", False), (AVX2, AVX2, "fp32", False), (AVX2, VNNI, "fp32", True)],
)
def test_int8_is_for_cpus_that_multiply_bytes_fast(
    placed: Path,
    monkeypatch: pytest.MonkeyPatch,
    here: list[str],
    certified: list[str],
    precision: str,
    warned: bool,
) -> None:
    with_int8(placed, certified)
    having(monkeypatch, here)
    found = examine()
    assert only(found).precision == precision
    assert [problem.mend for problem in found.problems] == ["paritas verify tiny-bert"] * warned


def remove_graph(bundle: Path) -> None:
    (bundle / "model.fp32.onnx").unlink()


def cut_weights(bundle: Path) -> None:
    with (bundle / "model.fp16.onnx.data").open("r+b") as file:
        file.truncate(10)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_weights, "model.fp16.onnx.data: changed since the export (10 bytes, expected"),
        (remove_graph, "model.fp32.onnx: missing from the bundle"),
        (lambda bundle: (bundle / MANIFEST).unlink(), "not a bundle: cannot read manifest.json"),
        (lambda bundle: (bundle / MANIFEST).write_bytes(b"\xff"), "not JSON"),
        (lambda bundle: (bundle / MANIFEST).write_text("[]"), "Expected `object`, got `array`"),
        (lambda bundle: edit(bundle, precisions={}), "length >= 1"),
        (lambda bundle: edit(bundle, format=99), "pip install 'paritas>="),
        (lambda bundle: [path.unlink() for path in bundle.iterdir()], "not a bundle"),
    ],
)
@pytest.mark.parametrize("room_bytes", [10**9, 0])
def test_a_damaged_bundle_is_an_error_and_the_next_one_is_looked_at(
    placed: Path, monkeypatch: pytest.MonkeyPatch, damage, message: str, room_bytes: int
) -> None:
    monkeypatch.setattr(doctor_store, "_READ_AT_MOST_BYTES", room_bytes)
    shutil.copytree(placed, placed.with_name("untouched"))
    damage(placed)
    found = examine()
    damaged, whole = found.bundles
    assert message in (damaged.error or "")
    assert whole.error is None
    (problem,) = found.problems
    assert (problem.severity, problem.what, found.ok) == ("error", damaged.error, False)
    assert problem.mend.startswith("paritas export tiny-bert")


def test_a_changed_byte_is_found_by_reading(placed: Path) -> None:
    change_byte(placed / "model.fp16.onnx.data")
    (problem,) = examine().problems
    assert "model.fp16.onnx.data: changed since the export (sha256 " in problem.what
    assert (problem.severity, problem.mend) == ("error", "paritas export tiny-bert --precision fp32,fp16")


def test_more_than_there_is_room_for_is_left_unread(placed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(placed, placed.with_name("second"))
    sizes = [entry.size_bytes for entry in Bundle(placed).manifest.files.values()]
    monkeypatch.setattr(doctor_store, "_READ_AT_MOST_BYTES", sum(sizes) + min(sizes))
    first, second = examine().bundles
    assert (first.unread_bytes, second.unread_bytes) == (0, sum(sizes) - min(sizes))
    assert (first.error, second.error) == (None, None)


def test_what_killed_processes_left_is_shown_with_its_size(placed: Path, home: Path) -> None:
    partial = home / "bundles" / ".tiny-bert.partial-0123456789ab"
    partial.mkdir()
    (partial / "model.fp32.onnx.data").write_bytes(bytes(3_000_000))
    unfinished = home / "cache" / "prepared" / ".partial-0123456789ab"
    unfinished.mkdir(parents=True)
    found = examine()
    assert found.ok
    assert [(each.path, each.size_bytes) for each in found.store.leftovers] == [
        (str(partial), 3_000_000),
        (str(unfinished), 0),
    ]
    assert f"{partial}: 3.0 MB, left by a killed process" in [problem.what for problem in found.problems]
    assert [problem.mend for problem in found.problems] == [f"rm -r {partial}", f"rm -r {unfinished}"]


def test_what_is_under_way_is_not_shown(placed: Path, home: Path) -> None:
    with workplace.workplace(home / "bundles" / "new") as work:
        (work / "tokenizer.json").touch()
        assert examine().store.leftovers == []
        assert [bundle.model for bundle in examine().bundles] == ["tiny-bert"]
    assert not work.exists()


@pytest.mark.parametrize("name", ["model.onnx", "made.json"])
def test_a_damaged_optimized_graph_is_shown_and_the_next_load_makes_it_again(placed: Path, name: str) -> None:
    Encoder(placed).close()
    assert only(examine()).graphs["fp32"].prepared
    (path,) = placed.parent.parent.glob(f"cache/prepared/*/{name}")
    change_byte(path)
    found = examine()
    assert found.ok
    (problem,) = found.problems
    assert problem.severity == "warning"
    assert problem.what.startswith(str(path))
    assert problem.mend == f"rm -r {path.parent}"
    assert only(found).graphs["fp32"].prepared is False
    Encoder(placed).close()
    assert examine().problems == []
