"""Full disks, signals and faults of ours: nothing half-written, nothing lost."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.runs import LIMIT, Result, Run, command, refused, write_jsonl
from tests.unit.files import change_byte, contents


@pytest.mark.parametrize(
    ("documents", "words"), [(400, 1), (40, 400)], ids=["while writing vectors", "while writing texts"]
)
@pytest.mark.parametrize("out", ["new.index", "corpus.index"])
def test_a_full_disk_while_indexing_leaves_nothing_and_keeps_the_former_index(
    folder: Path, run: Run, out: str, documents: int, words: int
) -> None:
    corpus = [{"_id": str(number), "text": "river " * words} for number in range(documents)]
    write_jsonl(folder / "large.jsonl", corpus)
    before = contents(folder)
    arguments = ["index", "large.jsonl", "--model", "mpnet.bundle", "--out", out]
    refused(run(*arguments, before=LIMIT.format(40_000)), f"{out}: the index cannot be written: ")
    assert contents(folder) == before


@pytest.mark.parametrize("out", ["new.bundle", "bert.bundle"])
def test_a_full_disk_while_exporting_leaves_nothing_and_keeps_the_former_bundle(
    folder: Path, run: Run, out: str
) -> None:
    before = contents(folder)
    arguments = "--registry tiny.yaml export tiny-bert --source bert.checkpoint --out"
    result = run(*shlex.split(arguments), out, before=LIMIT.format(8_000))
    refused(result, f"{out}: cannot be written: ")
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
@pytest.mark.parametrize("out", ["new.index", "corpus.index"])
def test_a_signal_while_reading_stdin_leaves_nothing_and_keeps_the_former_index(
    folder: Path, environment: dict[str, str], out: str, number: signal.Signals, code: int
) -> None:
    before = contents(folder)
    # Where the tests run in a shell's background, SIGINT is ignored; the command must not inherit that.
    reset = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)"
    process = subprocess.Popen(
        [*command(reset), "index", "-", "--model", "mpnet.bundle", "--out", out],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdin is not None
        # Far more than a pipe holds: once it is written, the command is reading, and waits for more.
        process.stdin.write((b"river " * 200 + b"\n") * 1000)
        process.stdin.flush()
        process.send_signal(number)
        out_, error = process.communicate(timeout=120)
    assert process.returncode == code, error
    assert out_ == b""
    assert b"Traceback" not in error
    assert contents(folder) == before


def test_a_fault_of_ours_ends_with_1_and_its_traceback(folder: Path, environment: dict[str, str]) -> None:
    fault = (
        "from paritas import models\n"
        "def find(model): raise RuntimeError('a wheel came off')\n"
        "models.find = find\n"
        "from paritas.cli import main\n"
        "main()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", fault, "verify", "bert.bundle"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback (most recent call last)")
    assert result.stderr.endswith("RuntimeError: a wheel came off\n")
    assert result.stdout == ""


def ill(result: Result, *messages: str) -> None:
    """The doctor found what makes encoding impossible, and says so after everything else."""
    assert (result.returncode, result.stderr) == (2, "")
    assert result.stdout.startswith("CPU ")
    for message in messages:
        assert message in result.stdout.rpartition("\n\n")[2]


def test_doctor_names_a_damaged_bundle_and_shows_the_others(folder: Path, run: Run) -> None:
    for name in ("bert", "mpnet"):
        shutil.copytree(folder / f"{name}.bundle", folder / "home" / "bundles" / f"tiny-{name}")
    change_byte(folder / "home" / "bundles" / "tiny-bert" / "model.fp16.onnx.data")
    result = run("doctor")
    ill(result, "tiny-bert/model.fp16.onnx.data: changed since", "type: paritas export tiny-bert --precision")
    assert "tiny-mpnet  whole" in result.stdout
    assert "tiny-bert   damaged" in result.stdout
    found = json.loads(run("doctor", "--json").stdout)
    assert found["ok"] is False
    assert [problem["severity"] for problem in found["problems"]] == ["error"]


def test_doctor_names_two_onnxruntimes(tmp_path: Path, run: Run, environment: dict[str, str]) -> None:
    record = tmp_path / "packages" / "onnxruntime_gpu-1.30.0.dist-info" / "METADATA"
    record.parent.mkdir(parents=True)
    record.write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.30.0\n", encoding="utf-8")
    environment["PYTHONPATH"] = f"{tmp_path / 'packages'}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    result = run("doctor")
    ill(result, "onnxruntime and onnxruntime-gpu are both installed", "type: pip uninstall -y onnxruntime")
    assert ", onnxruntime-gpu 1.30.0: does not load" in result.stdout


def test_doctor_names_an_onnxruntime_that_lost_its_files(
    folder: Path, run: Run, environment: dict[str, str]
) -> None:
    shutil.copytree(folder / "bert.bundle", folder / "home" / "bundles" / "tiny-bert")
    (folder / "packages" / "onnxruntime").mkdir(parents=True)
    (folder / "packages" / "onnxruntime" / "__init__.py").touch()
    environment["PYTHONPATH"] = f"{folder / 'packages'}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    result = run("doctor")
    ill(result, "onnxruntime is damaged: ", "type: pip install --force-reinstall onnxruntime")
    assert "tiny-bert  whole" in result.stdout


def test_doctor_without_a_store_that_can_be_read_says_so(tmp_path: Path, run: Run) -> None:
    (tmp_path / "home").write_text("a file where the store should be")
    ill(run("doctor"), "bundles cannot be listed: ", "type: export PARITAS_HOME=DIR")
