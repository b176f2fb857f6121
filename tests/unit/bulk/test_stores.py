"""Object stores as source and target, by S3's own protocol."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import obstore
import obstore.exceptions
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paritas.bulk import Request, encode, ledger
from paritas.bulk.folders import open_folder
from paritas.bulk.objects import ask, open_store
from paritas.bulk.progress import Silent
from paritas.bulk.state import state_of
from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.errors import InputError, JobError
from tests.faults.test_bulk import ENCODE
from tests.unit.bulk.corpora import documents, parts, run, write_jsonl
from tests.unit.bulk.s3 import breaking_proxy, s3_server, set_environment


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3_server(monkeypatch) as address:
        yield address


@pytest.fixture
def corpus(tmp_path: Path, server: str) -> Path:
    """Files here, and the same ones in the bucket."""
    rows = documents(90)
    rows[60] |= {"title": "", "text": rows[3]["text"]}
    write_jsonl(tmp_path / "in" / "one.jsonl", rows[:40])
    write_jsonl(tmp_path / "in" / "two.jsonl.gz", rows[40:70])
    pq.write_table(pa.Table.from_pylist(rows[70:]), tmp_path / "in" / "deep.parquet", row_group_size=7)
    for path in (tmp_path / "in").iterdir():
        obstore.put(open_store("s3://bucket/in"), path.name, path.read_bytes())
    obstore.put(open_store("s3://bucket/in"), "_SUCCESS", b"")
    return tmp_path / "in"


def stored(url: str) -> dict[str, bytes]:
    folder = open_folder(url)
    return {name: folder.read(name) for name in sorted(folder.names())}


@pytest.mark.parametrize("given", ["s3://bucket/in", "s3://bucket/in/", "s3://bucket/*/*.[jp]*"])
def test_a_job_from_a_bucket_into_a_bucket_is_the_job_from_files_into_files(
    bert: Encoder, corpus: Path, tmp_path: Path, given: str
) -> None:
    run(bert, tmp_path / "out", corpus)
    summary = run(bert, "s3://bucket/out/deep", given)  # type: ignore[arg-type]
    assert stored("s3://bucket/out/deep") == parts(tmp_path / "out")
    assert summary.rows == 90
    state = state_of("s3://bucket/out/deep")
    assert (state.state, state.done_shards, len(state.workers)) == ("done", 6, 1)
    assert open_folder("s3://bucket/out/deep").names("_job/claims/") == set()


@pytest.mark.parametrize("output", ["npy", "safetensors"])
def test_one_file_of_all_vectors_in_a_bucket(
    bert: Encoder, corpus: Path, tmp_path: Path, output: str
) -> None:
    run(bert, tmp_path / "out", corpus, output=output)
    run(bert, "s3://bucket/out", corpus, output=output)  # type: ignore[arg-type]
    assert stored("s3://bucket/out") == parts(tmp_path / "out")


def test_broken_connections_cost_time_only(
    bert: Encoder, corpus: Path, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(bert, tmp_path / "out", corpus)
    with breaking_proxy(server, share=0.5) as (address, broken):
        set_environment(monkeypatch, address)
        run(bert, "s3://bucket/out", "s3://bucket/in")  # type: ignore[arg-type]
        assert broken[0] > 0
        assert stored("s3://bucket/out") == parts(tmp_path / "out")


def test_an_answer_that_breaks_again_and_again_is_asked_for_until_patience_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("paritas.bulk.objects.time.monotonic", lambda: now[0])
    monkeypatch.setattr("paritas.bulk.objects.time.sleep", lambda s: now.__setitem__(0, now[0] + s))
    asked: list[float] = []

    def breaks(*, times: int) -> str:
        asked.append(now[0])
        if len(asked) <= times:
            raise obstore.exceptions.GenericError("error in the response body")
        return "answer"

    assert ask("s3://b/x", breaks, times=20) == "answer"
    assert len(asked) == 21
    asked.clear()
    begun = now[0]
    with pytest.raises(JobError, match="s3://b/x: error in the response body"):
        ask("s3://b/x", breaks, times=10_000)
    assert 180 < now[0] - begun < 190


def test_workers_that_share_a_bucket(
    bert: Encoder, bundles: dict[str, Bundle], tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_jsonl(tmp_path / "corpus.jsonl", documents(400))
    run(bert, tmp_path / "out", corpus, on_duplicate_id="first")
    command = [
        sys.executable,
        "-c",
        ENCODE,
        bundles["tiny-bert"].directory,
        "s3://bucket/out",
        "parquet",
        corpus,
    ]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    told = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0], told
    assert stored("s3://bucket/out") == parts(tmp_path / "out")
    folder = open_folder("s3://bucket/out")
    done = [json.loads(folder.read(f"_job/workers/{name}")) for name in folder.names("_job/workers/")]
    assert len(done) == 3
    assert sum(work["shards"] for work in done) <= 25 + 3  # now and then one is done twice


def test_claims_of_the_dead_are_taken_over(
    bert: Encoder, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_LEAST_PATIENCE_S", 0.3)
    run(bert, tmp_path / "out", corpus)
    folder = open_folder("s3://bucket/out")
    for number in (0, 3):
        assert folder.put_new(f"_job/claims/{number:05d}", b"dead")
    run(bert, "s3://bucket/out", corpus)  # type: ignore[arg-type]
    assert stored("s3://bucket/out") == parts(tmp_path / "out")


def test_a_file_is_there_once(server: str, tmp_path: Path) -> None:
    for place in ("s3://bucket/x", str(tmp_path / "x")):
        folder = open_folder(place)
        assert folder.put_new("a", b"first")
        assert not folder.put_new("a", b"second")
        assert folder.read("a") == b"first"
        folder.put("a", b"third")
        folder.put("deep/b", b"x")
        with folder.written("c") as file:
            file.write(b"much")
        assert folder.names() == {"a", "c"}
        assert folder.names("deep/") == {"b"}
        assert folder.names("nowhere/") == set()
        assert [folder.has(name) for name in ("a", "deep/b", "b")] == [True, True, False]
        with folder.open("c") as read:
            assert (read.read(2), read.seek(1), read.read()) == (b"mu", 1, b"uch")
        folder.remove("a")
        folder.remove("a")
        with pytest.raises(FileNotFoundError):
            folder.read("a")


def test_what_is_not_in_the_bucket_is_asked_for_once(
    bert: Encoder, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=pauses.append)
    monkeypatch.setattr("paritas.bulk.objects.time", clock)
    with pytest.raises(InputError, match=r"s3://bucket/nowhere: no file in it ends in"):
        run(bert, tmp_path / "out", "s3://bucket/nowhere")
    with pytest.raises(InputError, match="no object matches"):
        run(bert, tmp_path / "out", "s3://bucket/in/*.xml")
    with pytest.raises(JobError, match=r"s3://other/in: .*The specified bucket does not exist"):
        run(bert, tmp_path / "out", "s3://other/in")
    with pytest.raises(JobError, match=r"ftp://host: .*expected s3://, gs:// or az://"):
        run(bert, tmp_path / "out", "ftp://host/in")
    assert not pauses


def test_a_store_that_is_lost_is_told_and_the_job_goes_on_when_it_is_back(
    bert: Encoder, corpus: Path, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(bert, tmp_path / "out", corpus)
    monkeypatch.setattr("paritas.bulk.objects.RETRY", {"max_retries": 1})
    with breaking_proxy(server, share=0.0) as (address, _):
        set_environment(monkeypatch, address)

        class LosesIt(Silent):
            def encoded(self, rows: int, tokens: int) -> None:
                monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
                open_store.cache_clear()

        # The folder of the output was opened before: its connections go on, the input's do not.
        request = Request(inputs=["s3://bucket/in"], out=str(tmp_path / "lost"), shard_rows=16)
        with pytest.raises((JobError, InputError)):
            encode(bert, request, progress=LosesIt())
    set_environment(monkeypatch, server)
    encode(bert, request)
    assert parts(tmp_path / "lost") == parts(tmp_path / "out")


@pytest.mark.parametrize(
    ("output", "after"), [("parquet", 0), ("parquet", 1), ("parquet", 50), ("npy", 70), ("npy", "all")]
)
def test_a_target_that_is_lost_is_told_and_the_job_goes_on_when_it_is_back(
    bert: Encoder,
    corpus: Path,
    tmp_path: Path,
    server: str,
    monkeypatch: pytest.MonkeyPatch,
    after: int | str,
    output: Any,
) -> None:
    run(bert, tmp_path / "out", corpus, output=output)
    monkeypatch.setattr("paritas.bulk.objects.RETRY", {"max_retries": 1})
    monkeypatch.setattr(ledger, "_LEAST_PATIENCE_S", 0.3)
    lost = threading.Event()

    class LosesIt(Silent):
        """Lose the store when so many rows are encoded, or all shards are written."""

        rows = 0

        def planning(self, done_bytes: int, total_bytes: int) -> None:
            if after == 0:
                lost.set()

        def encoded(self, rows: int, tokens: int) -> None:
            self.rows += rows
            if isinstance(after, int) and self.rows >= after:
                lost.set()

        def finishing(self) -> None:
            lost.set()

    with breaking_proxy(server, share=0.0, lost=lost) as (address, _):
        set_environment(monkeypatch, address)
        request = Request(inputs=[str(corpus)], out="s3://bucket/lost", shard_rows=16, output=output)
        with pytest.raises(JobError, match="s3://bucket/lost"):
            encode(bert, request, progress=LosesIt())
        lost.clear()
        encode(bert, request)
        assert stored("s3://bucket/lost") == parts(tmp_path / "out")


def test_a_bucket_as_input_and_output_and_names_like_patterns(bert: Encoder, corpus: Path) -> None:
    obstore.put(open_store("s3://bucket/odd"), "a[1].jsonl", (corpus / "one.jsonl").read_bytes())
    assert run(bert, "s3://bucket/odd/out", "s3://bucket/odd/a[1].jsonl").rows == 40  # type: ignore[arg-type]
    whole = run(
        bert, "s3://bucket/odd/all", "s3://bucket/odd/a[1].jsonl", "s3://bucket/in", on_duplicate_id="keep"
    )  # type: ignore[arg-type]
    assert whole.rows == 130


def test_standard_input_into_a_bucket_goes_on(
    bert: Encoder, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (corpus / "one.jsonl").read_bytes()
    for _ in range(2):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        summary = run(bert, "s3://bucket/out", "-", corpus / "two.jsonl.gz")  # type: ignore[arg-type]
    assert [entry.label for entry in summary.inputs] == ["stdin", "two.jsonl.gz"]
