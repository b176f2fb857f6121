"""An index from a job's shards is that of the encoder's vectors, and nothing is encoded again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from paritas.bulk import Request, encode
from paritas.bulk.indexing import build_from_job, finished_job
from paritas.bulk.sources import find_sources
from paritas.bulk.state import state_of
from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.engine.index import Hit, VectorIndex
from paritas.errors import InputError, JobError
from tests.unit.bulk.corpora import documents, run, table, texts, vectors, write_jsonl

ROWS = documents(300)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows = [*ROWS, {**ROWS[0], "text": "another row of that id"}]
    return write_jsonl(tmp_path / "corpus.jsonl", rows)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "few.jsonl", documents(70))


@pytest.fixture
def out(tmp_path: Path, corpus: Path, bert: Encoder) -> Path:
    run(bert, tmp_path / "out", corpus, on_duplicate_id="first")
    return tmp_path / "out"


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "i8", "b1"])
def test_an_index_of_a_job(
    bert: Encoder, corpus: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any
) -> None:
    queries = bert.encode(texts(ROWS[:20], pair=True), role="passage")
    monkeypatch.setattr(Encoder, "call", lambda *_: pytest.fail("encodes again"))
    sources = find_sources([str(corpus)], tmp_path)
    target = tmp_path / "made"
    told = build_from_job(bert, *finished_job(str(out)), sources, target, dtype=dtype)
    with VectorIndex.load(target) as index:
        assert len(index) == 300
        for row, hits in zip(ROWS, index.search(queries, 20, exact=True), strict=False):
            # Of as few bits as here some rows are equal.
            own = next(hit for hit in hits if hit.id == row["_id"])
            assert own.score == pytest.approx(hits[0].score, abs=1e-3)
            assert own.score == pytest.approx(1, abs=0.01)
            assert (own.title, own.text) == (row["title"], row["text"])
    assert (told.documents, told.dtype, told.index) == (300, dtype, str(target))
    assert told.size_bytes == sum(path.stat().st_size for path in target.iterdir())
    assert "300 documents added" in str(told)
    # The tiny model's vectors are all alike: rounding changes more of their order than it does elsewhere.
    least = {"f32": 0.95, "f16": 0.9, "bf16": 0.7, "i8": 0.7, "b1": 0.1}
    assert told.recall > least[dtype]


def test_recall_is_that_of_the_jobs_own_vectors(
    bert: Encoder, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held against all products, and answers that are spoilt on purpose."""
    rows = table(out)
    ids, kept = rows.column("id").to_pylist(), vectors(rows)
    products = kept @ kept.T
    np.fill_diagonal(products, -np.inf)
    nearest = np.argsort(-products, axis=1)[:, :10]
    real = VectorIndex.search
    asked: list[float] = []

    def search(index: VectorIndex, queries: NDArray[np.float32], k: int) -> list[list[Hit]]:
        """Answer three of ten with the farthest row."""
        answers = real(index, queries, k, exact=True)
        worst = [int(np.argmin(np.where(np.isinf(row), np.inf, row))) for row in products]
        for query, hits in zip(queries, answers, strict=True):
            own = int(np.argmax(kept @ query))
            hits[-3:] = [Hit(ids[worst[own]], 0.0, "", "")] * 3
            asked.append(len({hit.id for hit in hits} & {ids[row] for row in nearest[own]}) / 10)
        return answers

    monkeypatch.setattr(VectorIndex, "search", search)
    told = build_from_job(bert, *finished_job(str(out)), None, tmp_path / "made")
    # Rows whose scores differ in the last bits only may stand for each other.
    assert told.recall == pytest.approx(float(np.mean(asked)), abs=0.02)
    assert told.recall == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_recall_of_few_rows(bert: Encoder, tmp_path: Path, count: int) -> None:
    run(bert, tmp_path / "out", write_jsonl(tmp_path / "few.jsonl", documents(count)))
    assert build_from_job(bert, *finished_job(str(tmp_path / "out")), None, tmp_path / "made").recall == 1.0


def test_recall_of_equal_rows(bert: Encoder, tmp_path: Path) -> None:
    """Any of the equal ones is as near as another."""
    rows = [{"_id": f"{number}", "text": f"text {number % 3}"} for number in range(60)]
    run(bert, tmp_path / "out", write_jsonl(tmp_path / "equal.jsonl", rows))
    assert build_from_job(bert, *finished_job(str(tmp_path / "out")), None, tmp_path / "made").recall == 1.0


def test_without_texts_the_ids_alone_are_kept(bert: Encoder, out: Path, tmp_path: Path) -> None:
    build_from_job(bert, *finished_job(str(out)), None, tmp_path / "made")
    with VectorIndex.load(tmp_path / "made") as index:
        hit = index.search(index.sample(1), 1)[0][0]
    assert (hit.title, hit.text) == ("", "")
    assert hit.id in {row["_id"] for row in ROWS}


@pytest.mark.parametrize(("kept", "dtype"), [("float16", "f32"), ("int8", "i8"), ("int8", "b1")])
def test_an_index_of_rounded_vectors(
    bert: Encoder, corpus: Path, tmp_path: Path, kept: Any, dtype: Any
) -> None:
    run(bert, tmp_path / "out", corpus, on_duplicate_id="first", dtype=kept)
    build_from_job(bert, *finished_job(str(tmp_path / "out"), dtype), None, tmp_path / "made", dtype=dtype)
    with VectorIndex.load(tmp_path / "made") as index:
        found = index.search(bert.encode(texts(ROWS[:5], pair=True), role="passage"), 20, exact=True)
        for row, hits in zip(ROWS, found, strict=False):
            assert row["_id"] in {hit.id for hit in hits if hit.score == hits[0].score}


def test_shards_that_are_not_the_jobs_are_refused(bert: Encoder, out: Path, tmp_path: Path) -> None:
    """Copied over by hand: ids would get the vectors of other texts."""
    first, second = out / "part-00000.parquet", out / "part-00001.parquet"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(JobError, match=r"part-00000\.parquet: is another job's, or another shard"):
        build_from_job(bert, *finished_job(str(out)), None, tmp_path / "made")
    other = write_jsonl(tmp_path / "other.jsonl", documents(16, seed=1))
    run(bert, tmp_path / "other", other)
    first.write_bytes((tmp_path / "other" / "part-00000.parquet").read_bytes())
    with pytest.raises(JobError, match=r"part-00000\.parquet: is another job's, or another shard"):
        build_from_job(bert, *finished_job(str(out)), None, tmp_path / "made")
    assert not (tmp_path / "made").exists()
    first.write_bytes(content)
    build_from_job(bert, *finished_job(str(out)), None, tmp_path / "made")


def test_what_an_index_cannot_be_built_from(
    bert: Encoder, bundles: dict[str, Bundle], corpus: Path, out: Path, tmp_path: Path
) -> None:
    with pytest.raises(JobError, match="holds no job"):
        finished_job(str(tmp_path / "nowhere"))
    run(bert, tmp_path / "bytes", corpus, on_duplicate_id="first", dtype="int8")
    with pytest.raises(JobError, match="has int8 vectors; of these type: --dtype i8 or b1"):
        finished_job(str(tmp_path / "bytes"))
    with (
        Encoder(bundles["tiny-bert"], precision="fp16") as half,
        pytest.raises(JobError, match="was encoded by tiny-bert in fp32, by another bundle than"),
    ):
        build_from_job(half, *finished_job(str(out)), None, tmp_path / "made")
    other = write_jsonl(tmp_path / "other" / "corpus.jsonl", documents(300, seed=1))
    with pytest.raises(JobError, match="the texts are not the job's: input corpus"):
        build_from_job(bert, *finished_job(str(out)), find_sources([str(other)], tmp_path), tmp_path / "made")
    assert not (tmp_path / "made").exists()
    run(bert, tmp_path / "npy", corpus, on_duplicate_id="first", output="npy")
    with pytest.raises(JobError, match="has its vectors as npy; an index is built from Parquet"):
        finished_job(str(tmp_path / "npy"))
    (out / "part-00002.parquet").unlink()
    with pytest.raises(JobError, match="1 of 19 shards are not done; finish the job first"):
        finished_job(str(out))


@pytest.mark.parametrize(("dtype", "stored"), [("float32", "f32"), ("float16", "f16"), ("int8", "i8")])
def test_straight_into_an_index(few: Path, tmp_path: Path, bert: Encoder, dtype: Any, stored: str) -> None:
    summary = run(bert, tmp_path / "out", few, dtype=dtype, output="index")
    assert summary.index is not None
    assert (summary.index.documents, summary.index.dtype) == (70, stored)
    assert summary.index.index == str(tmp_path / "out" / "index")
    with VectorIndex.load(tmp_path / "out" / "index") as index:
        assert (len(index), index.info.dtype) == (70, stored)
        rows = documents(70)
        queries = bert.encode(texts(rows, pair=True), role="passage")
        for row, hits in zip(rows, index.search(queries, 10, exact=True), strict=True):
            own = next(hit for hit in hits if hit.id == row["_id"])
            assert own.score == pytest.approx(hits[0].score, abs=1e-3)
            assert (own.title, own.text) == (row["title"], row["text"])
    assert not list((tmp_path / "out").rglob("*.parquet"))
    assert run(bert, tmp_path / "out", few, dtype=dtype, output="index") == summary


def test_an_index_that_was_killed_while_it_was_built_is_built_again(
    few: Path, tmp_path: Path, bert: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(VectorIndex, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run(bert, tmp_path / "out", few, output="index")
    assert not (tmp_path / "out" / "index").exists()
    assert state_of(str(tmp_path / "out")).state == "finishing"
    monkeypatch.setattr(Encoder, "call", lambda *_: pytest.fail("encodes again"))
    assert run(bert, tmp_path / "out", few, output="index").index is not None
    with VectorIndex.load(tmp_path / "out" / "index") as index:
        assert len(index) == 70


def test_an_index_that_cannot_be_made_is_refused_before_anything_is_encoded(
    few: Path, tmp_path: Path, bert: Encoder
) -> None:
    with pytest.raises(InputError, match=r"s3://b/c: an index is files to be mapped, .* write Parquet there"):
        encode(bert, Request(inputs=[str(few)], out="s3://b/c", output="index"))
    with pytest.raises(InputError, match="an index has each id once; type: --on-duplicate-id first or last"):
        run(bert, tmp_path / "out", few, output="index", on_duplicate_id="keep")
    for mine in (lambda path: path.mkdir(), lambda path: path.symlink_to("nowhere")):
        (tmp_path / "out").mkdir(exist_ok=True)
        mine(tmp_path / "out" / "index")
        with pytest.raises(JobError, match="index: is there already, and no job made it; name another --out"):
            run(bert, tmp_path / "out", few, output="index")
        assert not (tmp_path / "out" / "_job").exists()
        mine_is_there = tmp_path / "out" / "index"
        mine_is_there.unlink() if mine_is_there.is_symlink() else mine_is_there.rmdir()


def test_an_index_that_is_moved_or_gone(few: Path, tmp_path: Path, bert: Encoder) -> None:
    run(bert, tmp_path / "out", few, output="index")
    (tmp_path / "out").rename(tmp_path / "moved")
    again = run(bert, tmp_path / "moved", few, output="index")
    assert again.index is not None
    assert again.index.index == str(tmp_path / "moved" / "index")
    shutil.rmtree(tmp_path / "moved" / "index")
    assert state_of(str(tmp_path / "moved")).state == "begun"
    run(bert, tmp_path / "moved", few, output="index")
    with VectorIndex.load(tmp_path / "moved" / "index") as index:
        assert len(index) == 70
    assert state_of(str(tmp_path / "moved")).state == "done"
