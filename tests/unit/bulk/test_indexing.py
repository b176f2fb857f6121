"""An index from a job's shards is that of the encoder's vectors, and nothing is encoded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paritas.bulk.indexing import describe, finished_job, index_of_job
from paritas.bulk.sources import find_sources
from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.errors import JobError
from tests.unit.bulk.corpora import documents, run, texts, write_jsonl

ROWS = documents(300)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows = [*ROWS, {**ROWS[0], "text": "another row of that id"}]
    return write_jsonl(tmp_path / "corpus.jsonl", rows)


@pytest.fixture
def out(tmp_path: Path, corpus: Path, bert: Encoder) -> Path:
    run(bert, tmp_path / "out", corpus, on_duplicate_id="first")
    return tmp_path / "out"


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_an_index_of_a_job(
    bert: Encoder, corpus: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any
) -> None:
    queries = bert.encode(texts(ROWS[:20], pair=True), role="passage")
    monkeypatch.setattr(Encoder, "call", lambda *_: pytest.fail("encodes again"))
    sources = find_sources([str(corpus)], tmp_path)
    index, took_s = index_of_job(bert, *finished_job(str(out)), sources, dtype=dtype)
    with index:
        assert len(index) == 300
        for row, hits in zip(ROWS, index.search(queries, 1, exact=True), strict=False):
            assert (hits[0].id, hits[0].title, hits[0].text) == (row["_id"], row["title"], row["text"])
        told = describe(index, "place", took_s, 7)
    assert (told.documents, told.dtype, told.size_bytes) == (300, dtype, 7)
    assert told.recall > 0.95
    assert "300 documents added" in str(told)


def test_without_texts_the_ids_alone_are_kept(bert: Encoder, out: Path) -> None:
    index, _ = index_of_job(bert, *finished_job(str(out)), None)
    with index:
        hit = index.search(index.sample(1), 1)[0][0]
    assert (hit.title, hit.text) == ("", "")
    assert hit.id in {row["_id"] for row in ROWS}


def test_vectors_of_half_precision(bert: Encoder, corpus: Path, tmp_path: Path) -> None:
    run(bert, tmp_path / "half", corpus, on_duplicate_id="first", dtype="float16")
    index, _ = index_of_job(bert, *finished_job(str(tmp_path / "half")), None)
    with index:
        wanted = bert.encode(texts(ROWS, pair=True), role="passage").astype(np.float16)
        found = index.search(wanted[:5].astype(np.float32), 1, exact=True)
        assert [hits[0].id for hits in found] == [row["_id"] for row in ROWS[:5]]


def test_what_an_index_cannot_be_built_from(
    bert: Encoder, bundles: dict[str, Bundle], corpus: Path, out: Path, tmp_path: Path
) -> None:
    with pytest.raises(JobError, match="holds no job"):
        finished_job(str(tmp_path / "nowhere"))
    run(bert, tmp_path / "bytes", corpus, on_duplicate_id="first", dtype="int8")
    with pytest.raises(
        JobError, match="has int8 vectors as parquet; an index is built from float32 or float16"
    ):
        finished_job(str(tmp_path / "bytes"))
    with (
        Encoder(bundles["tiny-bert"], precision="fp16") as half,
        pytest.raises(JobError, match="was encoded by tiny-bert in fp32, by another bundle than"),
    ):
        index_of_job(half, *finished_job(str(out)), None)
    other = write_jsonl(tmp_path / "other" / "corpus.jsonl", documents(300, seed=1))
    with pytest.raises(JobError, match="the texts are not the job's: input corpus"):
        index_of_job(bert, *finished_job(str(out)), find_sources([str(other)], tmp_path))
    (out / "part-00002.parquet").unlink()
    with pytest.raises(JobError, match="1 of 19 shards are not done; finish the job first"):
        finished_job(str(out))
