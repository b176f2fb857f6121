"""A job from files to files: the vectors are the encoder's, each row is there once, and the rest is told."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from paritas.bulk import Request, Stopped, Summary, encode, job
from paritas.bulk.state import state_of
from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.engine.pool.embedding_quantization import quantize_vectors
from paritas.errors import InputError, JobError
from tests.unit.bulk.corpora import documents, parts, run, table, texts, vectors, write_jsonl


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "corpus.jsonl", documents(70))


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-mpnet"])
def test_vectors_are_the_encoders_in_the_order_of_the_input(
    corpus: Path, tmp_path: Path, bundles: dict[str, Bundle], name: str
) -> None:
    with Encoder(bundles[name]) as encoder:
        summary = run(encoder, tmp_path / "out", corpus)
        pair = encoder.stages.tokenizer.role("passage").pair
        call = encoder.counted_call(texts(documents(70), pair=pair), "passage")
        expected = call.encode(encoder.scheduler())
    rows = table(tmp_path / "out")
    assert rows.column("id").to_pylist() == [f"d{number}" for number in range(70)]
    assert np.array_equal(vectors(rows), expected.vectors)
    assert rows.column("tokens").to_pylist() == expected.tokens.tolist()
    assert rows.column("truncated").to_pylist() == expected.truncated.tolist()
    assert expected.truncated.any()
    assert (summary.rows, summary.shards, summary.rejected) == (70, 5, 0)
    assert (summary.tokens, summary.truncated) == (expected.tokens.sum(), expected.truncated.sum())
    assert summary.inputs[0].label == "corpus.jsonl"
    assert json.loads((tmp_path / "out" / "_job" / "job.json").read_text())["rows"] == 70


def test_shards_do_not_change_vectors(corpus: Path, tmp_path: Path, bert: Encoder) -> None:
    run(bert, tmp_path / "small", corpus, shard_rows=7)
    run(bert, tmp_path / "large", corpus, shard_rows=1000)
    assert table(tmp_path / "small").equals(table(tmp_path / "large"))
    assert len(parts(tmp_path / "large")) == 1


def test_a_second_call_does_nothing_and_says_the_same(corpus: Path, tmp_path: Path, bert: Encoder) -> None:
    first = run(bert, tmp_path / "out", corpus)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert run(bert, tmp_path / "out", corpus) == first
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_smaller_types(corpus: Path, tmp_path: Path, bert: Encoder, dtype: Any) -> None:
    run(bert, tmp_path / "out", corpus, dtype=dtype)
    exact = bert.encode(texts(documents(70), pair=True), role="passage")
    wanted = quantize_vectors(exact, "int8") if dtype == "int8" else exact.astype(np.float16)
    found = vectors(table(tmp_path / "out"))
    assert found.dtype == wanted.dtype
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("output", ["npy", "safetensors"])
def test_one_file_of_all_vectors(
    corpus: Path, tmp_path: Path, bert: Encoder, output: Any, dtype: Any
) -> None:
    run(bert, tmp_path / "shards", corpus, dtype=dtype)
    run(bert, tmp_path / "out", corpus, dtype=dtype, output=output)
    rows = table(tmp_path / "shards")
    if output == "npy":
        found = np.load(tmp_path / "out" / "vectors.npy", mmap_mode="r")
    else:
        tensors = load_file(tmp_path / "out" / "vectors.safetensors")
        found = tensors["vectors"]
        assert tensors["tokens"].tolist() == rows.column("tokens").to_pylist()
        assert tensors["truncated"].tolist() == rows.column("truncated").to_pylist()
    assert np.array_equal(found, vectors(rows))
    assert found.dtype == vectors(rows).dtype
    ids = [json.loads(line) for line in (tmp_path / "out" / "ids.jsonl").read_text().splitlines()]
    assert ids == rows.column("id").to_pylist()
    assert not list((tmp_path / "out").rglob("*.parquet"))
    assert run(bert, tmp_path / "out", corpus, dtype=dtype, output=output).rows == 70
    # What is gone is made again.
    before = parts(tmp_path / "out")
    (tmp_path / "out" / f"vectors.{output}").unlink()
    run(bert, tmp_path / "out", corpus, dtype=dtype, output=output)
    assert parts(tmp_path / "out") == before


def test_rows_that_cannot_be_read_are_left_out_and_told(tmp_path: Path, bert: Encoder) -> None:
    lines = [json.dumps(row).encode() for row in documents(40)]
    lines[3] = b'{"_id": "x", "text": 7}'
    lines[20] = b'{"_id": "x", "text": "\xff"}'
    lines[21] = b"not json"
    lines[39] = b'{"_id": "y", "text": "\\ud83d"}'
    (tmp_path / "corpus.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    summary = run(bert, tmp_path / "out", tmp_path / "corpus.jsonl")
    assert (summary.rows, summary.rejected) == (36, 4)
    rejects = [
        json.loads(line) for line in (tmp_path / "out" / "_job" / "rejects.jsonl").read_text().splitlines()
    ]
    assert [entry["number"] for entry in rejects] == [4, 21, 22, 40]
    assert rejects[0] == {"file": "corpus.jsonl", "number": 4, "reason": "its text is int, expected a string"}
    kept = [row["_id"] for place, row in enumerate(documents(40)) if place not in (3, 20, 21, 39)]
    assert table(tmp_path / "out").column("id").to_pylist() == kept
    with pytest.raises(InputError, match=r"corpus\.jsonl:4: its text is int"):
        run(bert, tmp_path / "strict", tmp_path / "corpus.jsonl", strict=True)


def test_an_id_given_twice_is_an_error_that_names_both_places(tmp_path: Path, bert: Encoder) -> None:
    rows = documents(60)
    rows[50]["_id"] = "d3"
    rows[55]["_id"] = "d9"
    one, two = tmp_path / "a" / "one.jsonl", tmp_path / "a" / "two.jsonl"
    write_jsonl(one, rows[:30])
    write_jsonl(two, rows[30:])
    with pytest.raises(
        InputError, match=r"id 'd3' is given twice, at one\.jsonl:4 and two\.jsonl:21 \(2 ids"
    ):
        run(bert, tmp_path / "out", tmp_path / "a")
    for rule, left in {"first": {50, 55}, "last": {3, 9}, "keep": set()}.items():
        out = tmp_path / rule
        summary = run(bert, out, tmp_path / "a", on_duplicate_id=rule)
        kept = [row for place, row in enumerate(rows) if place not in left]
        assert table(out).column("id").to_pylist() == [row["_id"] for row in kept]
        assert np.array_equal(vectors(table(out)), bert.encode(texts(kept, pair=True), role="passage"))
        assert (summary.duplicates, summary.rows) == (len(left), len(kept))


def test_equal_texts_in_many_shards_are_encoded_once(tmp_path: Path, bert: Encoder) -> None:
    rows = documents(64)
    for place in range(0, 64, 4):
        rows[place] |= {"title": "", "text": "page not found"}
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows)
    summary = run(bert, tmp_path / "out", corpus)
    assert (summary.repeated, summary.kept) == (
        1,
        12,
    )  # 4 in each of 4 shards, the first of which computes it
    assert np.array_equal(
        vectors(table(tmp_path / "out")), bert.encode(texts(rows, pair=True), role="passage")
    )
    # Rows tell their own tokens, computed anew or not.
    tokens = table(tmp_path / "out").column("tokens").to_pylist()
    assert len({tokens[place] for place in range(0, 64, 4)}) == 1
    assert summary.tokens == sum(tokens)


def test_a_cache_spares_a_later_job_everything(corpus: Path, tmp_path: Path, bert: Encoder) -> None:
    first = run(bert, tmp_path / "one", corpus, cache=str(tmp_path / "cache.sqlite"))
    again = run(bert, tmp_path / "two", corpus, cache=str(tmp_path / "cache.sqlite"), shard_rows=9)
    assert (first.kept, again.kept) == (0, 70)
    assert table(tmp_path / "one").equals(table(tmp_path / "two"))
    # Another role is another vector.
    query = run(bert, tmp_path / "three", corpus, cache=str(tmp_path / "cache.sqlite"), role="query")
    assert query.kept == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"role": "query"}, "role 'passage', now 'query'"),
        ({"dtype": "int8"}, "dtype 'float32', now 'int8'"),
        ({"shard_rows": 17}, "shard_rows 16, now 17"),
        ({"on_duplicate_id": "last"}, "on_duplicate_id 'error', now 'last'"),
    ],
)
def test_another_job_in_the_same_folder_is_refused(
    corpus: Path, tmp_path: Path, bert: Encoder, change: dict[str, Any], told: str
) -> None:
    run(bert, tmp_path / "out", corpus)
    with pytest.raises(JobError, match=f"holds another job: {told}"):
        run(bert, tmp_path / "out", corpus, **change)


def test_another_model_or_precision_is_refused(
    corpus: Path, tmp_path: Path, bert: Encoder, bundles: dict[str, Bundle]
) -> None:
    run(bert, tmp_path / "out", corpus)
    with (
        Encoder(bundles["tiny-bert"], precision="fp16") as half,
        pytest.raises(JobError, match="precision 'fp32', now 'fp16'"),
    ):
        run(half, tmp_path / "out", corpus)
    with (
        Encoder(bundles["tiny-mpnet"]) as other,
        pytest.raises(JobError, match="model 'tiny-bert', now 'tiny-mpnet'"),
    ):
        run(other, tmp_path / "out", corpus)


def test_a_changed_input_is_refused(tmp_path: Path, bert: Encoder) -> None:
    corpus = write_jsonl(tmp_path / "corpus.jsonl", documents(40))
    content = corpus.read_bytes()
    run(bert, tmp_path / "out", corpus)
    corpus.write_bytes(content.replace(b"d3", b"D3"))
    with pytest.raises(JobError, match=r"input corpus\.jsonl of other content"):
        run(bert, tmp_path / "out", corpus)
    corpus.write_bytes(content + b"\n")
    with pytest.raises(JobError, match=r"input corpus\.jsonl of \d+ bytes, now"):
        run(bert, tmp_path / "out", corpus)
    corpus.write_bytes(content)  # written anew, and the same
    assert run(bert, tmp_path / "out", corpus).rows == 40
    other = write_jsonl(tmp_path / "other.jsonl", documents(3))
    with pytest.raises(JobError, match=r"input other\.jsonl is new"):
        run(bert, tmp_path / "out", corpus, other)


def test_an_input_that_changes_while_the_job_runs_is_found(tmp_path: Path, bert: Encoder) -> None:
    corpus = write_jsonl(tmp_path / "corpus.jsonl", documents(40))

    class Changes:
        def planning(self, done_bytes: int, total_bytes: int) -> None: ...

        def begin(self, rows: int, done: int) -> None:
            corpus.write_bytes(corpus.read_bytes().replace(b"river", b"RIVER"))

        def encoded(self, rows: int, tokens: int) -> None: ...

        def finishing(self) -> None: ...

    request = Request(inputs=[str(corpus)], out=str(tmp_path / "out"), shard_rows=16)
    with pytest.raises(JobError, match="changed since the job began"):
        encode(bert, request, progress=Changes())
    assert not (tmp_path / "out" / "_job" / "job.json").exists()


def test_a_job_that_was_stopped_goes_on(corpus: Path, tmp_path: Path, bert: Encoder) -> None:
    run(bert, tmp_path / "whole", corpus)
    stop = threading.Event()

    class StopsSoon:
        rows = 0

        def planning(self, done_bytes: int, total_bytes: int) -> None: ...

        def begin(self, rows: int, done: int) -> None:
            self.begun = (rows, done)

        def encoded(self, rows: int, tokens: int) -> None:
            self.rows += rows
            stop.set()

        def finishing(self) -> None: ...

    request = Request(inputs=[str(corpus)], out=str(tmp_path / "out"), shard_rows=16)
    with pytest.raises(Stopped) as stopped:
        encode(bert, request, progress=StopsSoon(), stop=stop)
    assert 0 < stopped.value.done < stopped.value.shards == 5
    state = state_of(str(tmp_path / "out"))
    assert (state.state, state.rows, state.done_shards) == ("begun", 70, stopped.value.done)
    stop.clear()
    watch = StopsSoon()
    summary = encode(bert, request, progress=watch)
    assert watch.begun == (70, state.done_rows)
    assert watch.rows == 70 - state.done_rows
    assert parts(tmp_path / "out") == parts(tmp_path / "whole")
    assert (summary.rows, summary.workers) == (70, 2)
    assert state_of(str(tmp_path / "out")).state == "done"


def test_a_folder_that_holds_something_else_is_refused(corpus: Path, tmp_path: Path, bert: Encoder) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").write_text("dear")
    with pytest.raises(JobError, match=r"holds thesis\.doc and no job"):
        run(bert, tmp_path / "out", corpus)
    with pytest.raises(InputError, match="is a file; expected a directory"):
        run(bert, corpus, corpus)
    with pytest.raises(JobError, match="holds no job"):
        state_of(str(tmp_path / "nowhere"))


def test_an_input_without_rows(tmp_path: Path, bert: Encoder) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(InputError, match="the input has no rows; expected at least one"):
        run(bert, tmp_path / "out", tmp_path / "empty.jsonl")
    (tmp_path / "bad.jsonl").write_text("x\n")
    with pytest.raises(
        InputError, match=r"no rows, but 1 that were left out, the first at bad\.jsonl:1: is no JSON"
    ):
        run(bert, tmp_path / "out", tmp_path / "bad.jsonl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "f32"}, "unknown dtype 'f32'"),
        ({"output": "csv"}, "unknown output 'csv'"),
        ({"shard_rows": 0}, "shard_rows is 0; expected a whole number of 1 or more"),
        ({"on_duplicate_id": "drop"}, "unknown on_duplicate_id 'drop'"),
        ({"role": "title"}, "title"),
    ],
)
def test_wrong_options(
    corpus: Path, tmp_path: Path, bert: Encoder, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(bert, tmp_path / "out", corpus, **options)
    assert not (tmp_path / "out").exists()


def test_a_shard_may_hold_many_files_and_a_file_many_shards(tmp_path: Path, bert: Encoder) -> None:
    rows = documents(100)
    for number, (begin, end) in enumerate([(0, 3), (3, 3), (3, 60), (60, 62), (62, 100)]):
        write_jsonl(tmp_path / "in" / f"{number}.jsonl{'.gz' if number % 2 else ''}", rows[begin:end])
    summary = run(bert, tmp_path / "out", tmp_path / "in", shard_rows=20)
    assert summary.shards == 5
    assert table(tmp_path / "out").column("id").to_pylist() == [row["_id"] for row in rows]
    assert np.array_equal(
        vectors(table(tmp_path / "out")), bert.encode(texts(rows, pair=True), role="passage")
    )


def test_others_read_the_folder_as_a_table(corpus: Path, tmp_path: Path, bert: Encoder) -> None:
    """The folder itself, with all that a job keeps beside its shards; records left out among it."""
    import duckdb
    import lancedb
    import pandas
    import polars
    import pyarrow.parquet as pq

    with corpus.open("a") as file:
        file.write("no json\n")
    for dtype in ("float32", "float16"):
        out = tmp_path / dtype
        run(bert, out, corpus, dtype=dtype)
        wanted = vectors(table(out))
        found = {
            "duckdb": np.array(
                [row[0] for row in duckdb.sql(f"SELECT vector FROM '{out}/*.parquet'").fetchall()]
            ),
            "polars": polars.read_parquet(out / "*.parquet")["vector"].to_numpy(),
            "pandas": np.stack(pandas.read_parquet(out)["vector"].to_list()),
            "pyarrow": np.stack(pq.read_table(out)["vector"].to_numpy()),
        }
        for name, read in found.items():
            assert np.array_equal(read.astype(wanted.dtype), wanted), name
    database = lancedb.connect(tmp_path / "lance")
    lance = database.create_table("vectors", pq.read_table(tmp_path / "float32"))
    exact = vectors(table(tmp_path / "float32"))
    hits = lance.search(exact[7]).metric("dot").limit(1).to_list()
    assert hits[0]["id"] == "d7"


def test_the_output_is_no_input(tmp_path: Path, bert: Encoder) -> None:
    write_jsonl(tmp_path / "in" / "corpus.jsonl", documents(20))
    out = tmp_path / "in" / "vectors"
    assert run(bert, out, tmp_path / "in") == run(bert, out, tmp_path / "in")
    assert run(bert, out, tmp_path / "in").inputs[0].label == "corpus.jsonl"


def test_a_plan_that_is_gone_is_told(corpus: Path, tmp_path: Path, bert: Encoder) -> None:
    run(bert, tmp_path / "out", corpus)
    (tmp_path / "out" / "_job" / "plan.json").unlink()
    with pytest.raises(JobError, match=r"has part-00000\.parquet, and its _job/plan\.json is gone"):
        state_of(str(tmp_path / "out"))
    with pytest.raises(JobError, match=r"holds part-00000\.parquet and no job"):
        run(bert, tmp_path / "out", corpus)


def test_a_shard_that_is_gone_is_made_again(corpus: Path, tmp_path: Path, bert: Encoder) -> None:
    run(bert, tmp_path / "out", corpus)
    before = parts(tmp_path / "out")
    (tmp_path / "out" / "part-00002.parquet").unlink()
    assert state_of(str(tmp_path / "out")).state == "begun"
    run(bert, tmp_path / "out", corpus)
    assert parts(tmp_path / "out") == before


def test_something_else_in_a_shards_place_is_told(corpus: Path, tmp_path: Path, bert: Encoder) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-00002.parquet").mkdir()
    with pytest.raises(JobError, match=r"part-00002\.parquet: was written, and is gone or no file"):
        run(bert, tmp_path / "out", corpus)


@pytest.mark.parametrize("output", ["npy", "safetensors"])
def test_workers_that_come_late_find_the_job_done(
    corpus: Path, tmp_path: Path, bert: Encoder, output: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker finishes, and clears the shards away, just when another has done the last of them."""
    real = job.finish
    finished: list[Summary] = []

    def late(*given: Any) -> Summary:
        if not finished:
            finished.append(real(*given))
        return real(*given)

    monkeypatch.setattr(job, "finish", late)
    assert run(bert, tmp_path / "out", corpus, output=output) == finished[0]
    # A shard that a worker writes after that is cleared away by whoever comes next.
    (tmp_path / "out" / "_job" / "parts").mkdir(exist_ok=True)
    (tmp_path / "out" / "_job" / "parts" / "part-00001.parquet").write_bytes(b"late")
    assert run(bert, tmp_path / "out", corpus, output=output) == finished[0]
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_strict_does_not_go_on_with_a_job_that_leaves_records_out(
    corpus: Path, tmp_path: Path, bert: Encoder
) -> None:
    with corpus.open("a") as file:
        file.write("no json\n")
    run(bert, tmp_path / "out", corpus)
    with pytest.raises(InputError, match="the job leaves 1 records out"):
        run(bert, tmp_path / "out", corpus, strict=True)


def test_what_a_job_keeps_beside_may_be_damaged(corpus: Path, tmp_path: Path, bert: Encoder) -> None:
    run(bert, tmp_path / "whole", corpus)
    for content in (None, b"1234567"):
        out = tmp_path / f"out-{content is None}"
        run(bert, out, corpus)
        (out / "_job" / "job.json").unlink()
        (out / "part-00001.parquet").unlink()
        (out / "_job" / "repeated").unlink()
        if content is not None:
            (out / "_job" / "repeated").write_bytes(content)
        for worker in (out / "_job" / "workers").iterdir():
            worker.write_bytes(b"\xff")
        run(bert, out, corpus)
        assert parts(out) == parts(tmp_path / "whole")
    worker.write_text('{"worker": "w", "host": "h", "process": 1, "started": "noon"}')
    assert "h 1: 0 shards" in str(state_of(str(out)))
    (out / "_job" / "plan.json").write_bytes(
        (out / "_job" / "plan.json").read_bytes().replace(b'"spans":[[0,', b'"spans":[[7,')
    )
    with pytest.raises(JobError, match=r"plan\.json: is damaged"):
        run(bert, out, corpus)


def test_an_error_while_a_job_is_stopped_is_told(
    corpus: Path, tmp_path: Path, bert: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()

    def full(*_: Any) -> None:
        stop.set()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("paritas.bulk.stages.Stages.write", full)
    request = Request(inputs=[str(corpus)], out=str(tmp_path / "out"), shard_rows=16)
    with pytest.raises(OSError, match="No space left on device"):
        encode(bert, request, stop=stop)
