"""Jobs that are killed at any step, by several workers, on full disks: in the end each row is there once."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from tests.faults.steps import Program, some
from tests.unit.bulk.corpora import documents, parts, run, write_jsonl

ENCODE = """
import sys
from paritas.bulk import Request, encode
from paritas.engine.encoder import Encoder
bundle, out, output, *inputs = sys.argv[1:]
with Encoder(bundle) as encoder:
    encode(encoder, Request(inputs=inputs, out=out, output=output, shard_rows=16, on_duplicate_id="first"))
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two files, one of them packed; a text in every shard, an id that comes twice, a line of no use."""
    rows = documents(80)
    for place in range(0, 80, 9):
        rows[place] |= {"title": "", "text": "page not found"}
    rows[70]["_id"] = "d5"
    write_jsonl(tmp_path / "in" / "one.jsonl", rows[:30])
    write_jsonl(tmp_path / "in" / "two.jsonl.gz", rows[30:])
    with (tmp_path / "in" / "one.jsonl").open("a") as file:
        file.write("no json\n")
    return tmp_path / "in"


def whole_job(bert: Encoder, out: Path, corpus: Path, output: str = "parquet") -> dict[str, bytes]:
    run(bert, out, corpus, output=output, on_duplicate_id="first")
    return parts(out)


@pytest.mark.parametrize("output", ["parquet", "npy"])
def test_a_job_killed_at_any_step_ends_with_the_same_bytes(
    bert: Encoder, bundles: dict[str, Bundle], corpus: Path, tmp_path: Path, output: str, whole: bool
) -> None:
    expected = whole_job(bert, tmp_path / "expected", corpus, output)
    out = tmp_path / "out"
    program = Program(ENCODE, bundles["tiny-bert"].directory, out, output, corpus, watched=out)
    steps = len(program.steps())
    assert parts(out) == expected
    tried = list(some(steps, None if whole else 6))
    killed = 0
    for step in tried:
        shutil.rmtree(out)
        killed += program.killed_at(step)
        assert set(parts(out)) <= set(expected)
        run(bert, out, corpus, output=output, on_duplicate_id="first")
        assert parts(out) == expected
        assert not list(out.rglob(".*partial*"))
    # Threads take turns as they like: a run may have a few steps less than the one that was counted.
    assert killed >= 0.8 * len(tried)


def test_a_job_killed_again_and_again_gets_on(
    bert: Encoder, bundles: dict[str, Bundle], corpus: Path, tmp_path: Path, whole: bool
) -> None:
    expected = whole_job(bert, tmp_path / "expected", corpus)
    out = tmp_path / "out"
    program = Program(ENCODE, bundles["tiny-bert"].directory, out, "parquet", corpus, watched=out)
    begun = time.monotonic()
    program.steps()
    took = time.monotonic() - begun
    shutil.rmtree(out)
    drawn = random.Random(0)
    for _ in range(50 if whole else 4):
        if not program.kill_after(drawn.uniform(0.3, 1.0) * took):
            assert parts(out) == expected
            shutil.rmtree(out)
    run(bert, out, corpus, on_duplicate_id="first")
    assert parts(out) == expected


def test_three_workers_of_which_two_are_killed(
    bert: Encoder, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    corpus = write_jsonl(tmp_path / "corpus.jsonl", documents(3000))
    run(bert, tmp_path / "expected", corpus, on_duplicate_id="first")
    out = tmp_path / "out"
    command = [sys.executable, "-c", ENCODE, bundles["tiny-bert"].directory, out, "parquet", corpus]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    until(lambda: len(list(out.glob("part-*"))) > 10)
    for worker in workers[:2]:
        worker.send_signal(signal.SIGKILL)
    _, told = workers[2].communicate(timeout=120)
    for worker in workers[:2]:
        worker.communicate()
    assert workers[2].returncode == 0, told
    assert parts(out) == parts(tmp_path / "expected")
    assert json.loads((out / "_job" / "job.json").read_text())["rows"] == 3000


def test_workers_share_the_work(bert: Encoder, bundles: dict[str, Bundle], tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "corpus.jsonl", documents(3000))
    run(bert, tmp_path / "expected", corpus, on_duplicate_id="first")
    out = tmp_path / "out"
    command = [sys.executable, "-c", ENCODE, bundles["tiny-bert"].directory, out, "parquet", corpus]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    told = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0], told
    assert parts(out) == parts(tmp_path / "expected")
    done = [json.loads(path.read_text()) for path in (out / "_job" / "workers").iterdir()]
    # A shard that nobody holds is done once: locks tell who is at which.
    assert sum(work["shards"] for work in done) == len(parts(out))


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of one's own needs root")
def test_a_full_disk_is_told_and_nothing_is_lost(
    bert: Encoder, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    corpus = write_jsonl(tmp_path / "corpus.jsonl", documents(3000))
    run(bert, tmp_path / "expected", corpus, on_duplicate_id="first")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("nothing may be mounted here")
    try:
        command = [
            sys.executable,
            "-c",
            ENCODE,
            bundles["tiny-bert"].directory,
            disk / "out",
            "parquet",
            corpus,
        ]
        full = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert full.returncode == 1
        assert "No space left on device" in full.stderr
        held = parts(disk / "out")
        assert 0 < len(held) < 188
        assert not list(disk.rglob(".*partial*"))
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        subprocess.run(command, check=True, timeout=120)
        assert parts(disk / "out") == parts(tmp_path / "expected")
        assert held.items() <= parts(disk / "out").items()
    finally:
        subprocess.run(["umount", disk], check=True)


def until(condition: object, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)
