"""paritas encode and paritas job: what they print, how they end, and what stops them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.unit.bulk.corpora import documents, parts, table, write_jsonl
from tests.unit.cli.runs import Run, answer, command, refused, said

ENCODE = ("--model", "mpnet.bundle", "--out", "vectors")


def test_a_corpus_becomes_shards(folder: Path, run: Run) -> None:
    told = said(run("encode", "corpus.jsonl", *ENCODE))
    assert "4 rows, " in told
    assert told.endswith("vectors: vectors\n")
    assert table(folder / "vectors").column("id").to_pylist() == ["sky", "ferry", "zürich", "7"]
    state = said(run("job", "vectors"))
    assert state.startswith(
        "vectors: done; tiny-mpnet in fp32, role passage\n4 of 4 rows (100.0%), 1 of 1 shards"
    )
    assert answer(run("job", "vectors", "--json"))["summary"]["rows"] == 4
    # Once more: nothing is left to do.
    assert answer(run("encode", "corpus.jsonl", *ENCODE, "--json"))["rows"] == 4


def test_an_index_is_made_of_the_shards(folder: Path, run: Run) -> None:
    said(run("encode", "corpus.jsonl", *ENCODE))
    told = said(run("index", "vectors", "--texts", "corpus.jsonl", "--model", "mpnet.bundle", "--out", "i"))
    assert told.startswith("4 documents added in ")
    assert "train to Z" in said(run("search", "i", "the train to zurich", "-k", "4"))
    assert (
        answer(run("index", "vectors", "--model", "mpnet.bundle", "--dtype", "f16", "--out", "j", "--json"))[
            "dtype"
        ]
        == "f16"
    )
    refused(run("index", "corpus.jsonl", "--out", "k"), "Missing option '--model'")
    refused(run("index", "nowhere", "--out", "k"), "nowhere: no such file; expected JSON Lines")
    for options, told in (
        (("--precision", "int8"), "was encoded with precision fp32, not int8"),
        (("--role", "query"), "was encoded with role passage, not query"),
        (("--truncate-dim", "8"), "was encoded with dim 16, not 8"),
    ):
        refused(run("index", "vectors", "--model", "mpnet.bundle", "--out", "k", *options), told)
    said(run("index", "vectors", "--model", "mpnet.bundle", "--out", "k", "--precision", "auto"))
    said(run("index", "vectors", "--model", "mpnet.bundle", "--dtype", "b1", "--out", "b1"))
    refused(
        run("compare", "b1", "--texts", "corpus.jsonl", "--model", "mpnet.bundle"),
        "b1: keeps a bit a channel, too little to compare",
    )
    refused(
        run("index", "corpus.jsonl", "--texts", "x", "--model", "mpnet.bundle", "--out", "k"),
        "--texts is for the folder of a job",
    )


def test_straight_into_an_index(folder: Path, run: Run) -> None:
    options = ("corpus.jsonl", *ENCODE, "--to", "index", "--dtype", "int8")
    told = said(run("encode", *options))
    assert "4 documents added in " in told
    assert told.endswith("index: vectors/index\n")
    assert "train to Z" in said(run("search", "vectors/index", "the train to zurich", "-k", "4"))
    assert answer(run("encode", *options, "--json"))["index"]["dtype"] == "i8"
    refused(run("encode", *options, "--memory-limit", "2GiB"), "an index is built in memory")
    refused(run("index", "vectors", "--model", "mpnet.bundle", "--out", "i"), "has its vectors as index")
    assert sorted(path.name for path in (folder / "vectors").iterdir()) == ["_job", "index"]


def test_records_left_out_are_told_by_the_exit_code(folder: Path, run: Run) -> None:
    with (folder / "corpus.jsonl").open("a") as file:
        file.write("no json\n")
    result = run("encode", "corpus.jsonl", *ENCODE, "--json")
    assert result.returncode == 3
    assert json.loads(result.stdout)["rejected"] == 1
    assert "1 record was left out: see vectors/_job/rejects.jsonl" in result.stderr
    refused(
        run("encode", "corpus.jsonl", *ENCODE[:2], "--out", "other", "--strict"), "corpus.jsonl:5: is no JSON"
    )


def test_standard_input(folder: Path, run: Run) -> None:
    content = (folder / "corpus.jsonl").read_text()
    said(run("encode", "-", *ENCODE, stdin=content))
    assert table(folder / "vectors").num_rows == 4
    said(run("encode", "-", *ENCODE, stdin=content))
    refused(run("encode", "-", *ENCODE, stdin=content.replace("sky", "sea")), "input stdin of other content")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.jsonl", *ENCODE), "nowhere.jsonl: no such file"),
        (("corpus.jsonl", *ENCODE, "--text", "body"), "has no text"),
        (("corpus.jsonl", *ENCODE, "--role", "pasage"), "did you mean 'passage'"),
        (("corpus.jsonl", *ENCODE, "--delimiter", ";;"), "--delimiter is ';;'; expected one character"),
        (("corpus.jsonl", *ENCODE, "--memory-limit", "10MiB"), "give more, or type: --shard-rows"),
        (
            ("corpus.jsonl", *ENCODE, "--memory-limit", "340MiB", "--shard-rows", "100000"),
            "MiB of it, and of the rest memory_limit is",
        ),
        (("corpus.jsonl", *ENCODE, "--cache-size", "1GiB"), "--cache-size is for --cache FILE"),
        (
            ("corpus.jsonl", *ENCODE, "--cache", "c", "--cache-size", "0"),
            "--cache-size is '0'; expected bytes",
        ),
        (("corpus.jsonl", *ENCODE[:3], "corpus.jsonl/x"), "when that is mended the same command goes on"),
        (("corpus.jsonl", *ENCODE, "--cache", "nowhere/c.sqlite"), "cannot be used as a cache"),
        (("corpus.jsonl", *ENCODE[:3], "corpus.jsonl"), "is a file; expected a directory"),
        (("corpus.jsonl", *ENCODE[:3], "mpnet.bundle"), "and no job; expected a folder that is empty"),
    ],
)
def test_what_the_user_can_mend_ends_with_2(
    folder: Path, run: Run, arguments: tuple[str, ...], message: str
) -> None:
    result = run("encode", *arguments)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (folder / "vectors" / "_job" / "job.json").exists()


def test_a_folder_without_a_job(folder: Path, run: Run) -> None:
    refused(run("job", "mpnet.bundle"), "mpnet.bundle: holds no job")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_job_that_is_told_to_stop_finishes_its_shards_and_goes_on_later(
    folder: Path, run: Run, environment: dict[str, str], number: signal.Signals, code: int
) -> None:
    write_jsonl(folder / "large.jsonl", documents(20_000))
    arguments = ["encode", "large.jsonl", *ENCODE, "--shard-rows", "500"]
    process = subprocess.Popen(
        [*command(), *arguments],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_default_interrupts,  # noqa: PLW1509
    )
    end = time.monotonic() + 60
    while len(list((folder / "vectors").glob("part-*"))) < 3:
        assert time.monotonic() < end
        time.sleep(0.02)
    state = answer(run("job", "vectors", "--json"))
    assert (state["state"], state["rows"]) == ("begun", 20_000)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code, told
    assert "finishing the shards at hand; once more to leave at once" in told
    assert "of 40 shards are done; the same command goes on" in told
    before = parts(folder / "vectors")
    assert 3 <= len(before) < 40
    said(run(*arguments))
    assert before.items() <= parts(folder / "vectors").items()
    assert table(folder / "vectors").column("id").to_pylist() == [f"d{place}" for place in range(20_000)]


@pytest.mark.parametrize("planned", [False, True], ids=["standard input", "the plan"])
def test_where_no_shards_are_at_hand_it_leaves_at_once(
    folder: Path, environment: dict[str, str], planned: bool
) -> None:
    (folder / "bad.jsonl").write_text("{bad\n" * 3_000_000)
    process = subprocess.Popen(
        [*command(), "encode", "bad.jsonl" if planned else "-", *ENCODE],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_default_interrupts,  # noqa: PLW1509
    )
    end = time.monotonic() + 60
    while not (folder / "vectors" / "_job").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    assert process.wait(60) == 130
    assert time.monotonic() - begun < 30  # the whole plan takes longer
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    assert process.stdin is not None
    process.stdin.close()
    process.stderr.close()


def _default_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_told_twice_it_leaves_at_once(folder: Path, environment: dict[str, str]) -> None:
    write_jsonl(folder / "large.jsonl", documents(20_000))
    process = subprocess.Popen(
        [*command(), "encode", "large.jsonl", *ENCODE],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_default_interrupts,  # noqa: PLW1509
    )
    end = time.monotonic() + 60
    while not (folder / "vectors" / "_job" / "claims").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert "0 of 2 shards are done" in told or "1 of 2 shards are done" in told
