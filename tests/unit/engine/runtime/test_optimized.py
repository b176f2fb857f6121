"""The optimized form of a graph: the same bits, made once, and never used for anything else."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from paritas.engine.bundle.digests import digest
from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.engine.runtime import optimized, session
from paritas.engine.runtime.mapped import Mapped
from paritas.errors import BundleError
from tests.unit.files import change_byte

TEXTS = ["the river", "night train to the north", "a", "", "water", "light of the city"]


def encode(bundle: Bundle | Path, **options) -> np.ndarray:
    directory = bundle.directory if isinstance(bundle, Bundle) else bundle
    with Encoder(directory, **options) as encoder:
        return encoder.encode(TEXTS, role="query")


def kept(home: Path) -> list[Path]:
    return sorted(path for path in (home / "cache" / "prepared").iterdir())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("model", ["tiny-bert", "tiny-mpnet"])
def test_an_optimized_graph_gives_the_same_bits(
    bundles: dict[str, Bundle], home: Path, model: str, precision: str
) -> None:
    plain = encode(bundles[model], precision=precision, cache=False)
    assert not home.exists()
    made = encode(bundles[model], precision=precision)
    assert len(kept(home)) == 1
    assert np.array_equal(made, plain)
    assert np.array_equal(encode(bundles[model], precision=precision), plain)


def test_it_is_made_once(bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    encode(bundles["tiny-bert"])

    def fail(*_args: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(optimized, "write_optimized", fail)
    encode(bundles["tiny-bert"])
    encode(bundles["tiny-bert"], threads=1)


@pytest.mark.parametrize(
    ("name", "value"), [("cpu_name", lambda: "another CPU"), ("VERSION", "99.0"), ("_FORMAT", 99)]
)
def test_what_another_machine_or_version_made_is_not_used(
    bundles: dict[str, Bundle], home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    encode(bundles["tiny-bert"])
    monkeypatch.setattr(optimized, name, value)
    encode(bundles["tiny-bert"])
    assert len(kept(home)) == 2


def test_another_bundle_has_another_form(bundles: dict[str, Bundle], home: Path) -> None:
    assert not np.array_equal(encode(bundles["tiny-bert"]), encode(bundles["tiny-mpnet"]))
    assert len(kept(home)) == 2


def truncate(directory: Path) -> None:
    with (directory / "model.onnx").open("r+b") as file:
        file.truncate(100)


def overwrite_later(directory: Path) -> None:
    path = directory / "model.onnx"
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, (time.time() + 5, time.time() + 5))


@pytest.mark.parametrize(
    "spoil",
    [
        truncate,
        overwrite_later,
        lambda directory: (directory / "model.onnx").unlink(),
        lambda directory: (directory / "made.json").write_text("{"),
        lambda directory: (directory / "made.json").write_bytes(b'{"model": "\xff"}'),
        lambda directory: (directory / "made.json").unlink(),
        lambda directory: (directory / "more").write_text("x"),
    ],
    ids=["cut short", "overwritten", "no graph", "no JSON", "no UTF-8", "no record", "a file too many"],
)
def test_a_spoilt_form_is_made_again(bundles: dict[str, Bundle], home: Path, spoil) -> None:
    expected = encode(bundles["tiny-bert"])
    (directory,) = kept(home)
    names = {path.name for path in directory.iterdir()}
    spoil(directory)
    assert np.array_equal(encode(bundles["tiny-bert"]), expected)
    assert kept(home) == [directory]
    assert {path.name for path in directory.iterdir()} == names


def test_a_form_that_does_not_load_is_made_again(bundles: dict[str, Bundle], home: Path) -> None:
    """Right by size and time, and still no graph: as a disk may give it back."""
    expected = encode(bundles["tiny-bert"])
    (directory,) = kept(home)
    graph = directory / "model.onnx"
    status = graph.stat()
    graph.write_bytes(bytes(status.st_size))
    os.utime(graph, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert np.array_equal(encode(bundles["tiny-bert"]), expected)


def test_a_changed_bundle_is_refused_beside_its_optimized_form(
    bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    copy = shutil.copytree(bundles["tiny-bert"].directory, tmp_path / "bundle")
    encode(copy)
    change_byte(copy / "model.fp32.onnx.data")
    with pytest.raises(BundleError, match="changed since the export"):
        encode(copy)


def test_where_nothing_can_be_kept_the_bundle_is_loaded_and_the_log_says_why(
    bundles: dict[str, Bundle], home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = encode(bundles["tiny-bert"], cache=False)
    home.parent.mkdir(exist_ok=True)
    home.write_text("a file where the store should be")
    with caplog.at_level(logging.INFO, "paritas"):
        assert np.array_equal(encode(bundles["tiny-bert"]), expected)
    assert "no optimized graph can be kept" in caplog.text


def test_a_full_disk_leaves_nothing_behind(
    bundles: dict[str, Bundle], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_up(_graph: Path, target: Path, **_options: bool) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(optimized, "write_optimized", fill_up)
    expected = encode(bundles["tiny-bert"], cache=False)
    assert np.array_equal(encode(bundles["tiny-bert"]), expected)
    assert kept(home) == []


def test_what_was_killed_or_is_long_unused_is_removed(bundles: dict[str, Bundle], home: Path) -> None:
    encode(bundles["tiny-bert"])
    (old,) = kept(home)
    month_ago = time.time() - 31 * 86_400
    os.utime(old / "made.json", (month_ago, month_ago))
    (old.parent / ".partial-killed").mkdir()
    encode(bundles["tiny-mpnet"])
    (new,) = kept(home)
    assert new != old


def test_what_is_used_counts_as_used(bundles: dict[str, Bundle], home: Path) -> None:
    encode(bundles["tiny-bert"])
    (old,) = kept(home)
    month_ago = time.time() - 31 * 86_400
    os.utime(old / "made.json", (month_ago, month_ago))
    encode(bundles["tiny-bert"])
    encode(bundles["tiny-mpnet"])
    assert old in kept(home)


def test_processes_that_start_at_once_do_no_harm(
    bundles: dict[str, Bundle], home: Path, tmp_path: Path
) -> None:
    script = """
import sys
import numpy as np
from paritas import Encoder
from paritas.engine.runtime import optimized
write = optimized.write_optimized
optimized.write_optimized = lambda *a, **options: (print("made"), write(*a, **options))
vectors = Encoder(sys.argv[1]).encode(["the river"], role="query")
np.save(sys.argv[2], vectors)
"""
    directory = str(bundles["tiny-bert"].directory)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, directory, str(tmp_path / f"{number}.npy")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    said = "".join(process.communicate()[0] for process in running)
    assert [process.returncode for process in running] == [0, 0, 0, 0]
    assert said == "made\n"
    assert len(kept(home)) == 1
    vectors = [np.load(tmp_path / f"{number}.npy") for number in range(4)]
    assert all(np.array_equal(each, vectors[0]) for each in vectors)


def product_after(constant: np.ndarray) -> onnx.ModelProto:
    """x W + constant, where the constant comes into the file before W."""
    weight = np.random.default_rng(7).standard_normal((160, 160), np.float32)
    nodes = [
        helper.make_node("Gather", ["constant", "place"], ["value"]),
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Add", ["product", "value"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 160]),
        helper.make_tensor_value_info("place", TensorProto.INT64, []),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 160])]
    constants = [numpy_helper.from_array(constant, "constant"), numpy_helper.from_array(weight, "weight")]
    graph = helper.make_graph(nodes, "product", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("length", "line"),
    [(20_000, 64), (20_001, 64), (20_000, 2**30)],
    ids=["whole lines", "odd", "no such line"],
)
def test_packed_weights_are_kept_only_where_kernels_can_read_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, length: int, line: int
) -> None:
    """onnxruntime maps them where they lie, and kernels for whole cache lines crash anywhere else.

    Up to 1.31 they follow whatever lies before them; 1.32 starts them on a line, which the odd graph shows.
    """
    monkeypatch.setattr(session, "_CACHE_LINE", line)
    constant = np.arange(length, dtype=np.float32)
    (tmp_path / "graph.onnx").write_bytes(product_after(constant).SerializeToString())
    session.write_optimized(tmp_path / "graph.onnx", tmp_path / "optimized.onnx")
    places = [int(place) for place in session._PACKED_AT.findall((tmp_path / "optimized.onnx").read_bytes())]
    assert all(place % line == 0 for place in places)
    if (length, line) == (20_000, 64):
        assert places
    if line > 64:
        assert not places
    feeds = {"x": np.ones((3, 160), np.float32), "place": np.array(7)}
    found = []
    for name, is_optimized in (("graph.onnx", False), ("optimized.onnx", True)):
        loaded = session.Session(tmp_path / name, provider="cpu", threads=1, optimized=is_optimized)
        found.append(loaded._session.run(["y"], feeds)[0])
    assert np.array_equal(found[0], found[1])


def test_weights_written_to_in_place_are_told_from_those_that_are_renamed_or_removed(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(bytes(3_000_000))
    mapped = Mapped({weights: digest(weights)})
    mapped.check()
    content = weights.read_bytes()
    moved = weights.rename(tmp_path / "moved")
    weights.write_bytes(b"another's")
    mapped.check()
    with moved.open("r+b") as file:
        file.write(b"changed")
    with pytest.raises(BundleError, match="weights: written to in place under a loaded encoder"):
        mapped.check()
    moved.write_bytes(content)
    mapped.check()
    moved.unlink()
    mapped.check()
