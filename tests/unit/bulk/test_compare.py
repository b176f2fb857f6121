"""Vectors that somebody has against an encoder's: found by id or by place, and judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from paritas.bulk.compare import Comparison, compare
from paritas.bulk.readers import Reading
from paritas.bulk.vectors import pairs_of
from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.engine.index import VectorIndex
from paritas.errors import InputError
from tests.unit.bulk.corpora import documents, run, texts, write_jsonl

ROWS = documents(200)
IDS = [row["_id"] for row in ROWS]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "corpus.jsonl", ROWS)


@pytest.fixture
def exact(bert: Encoder) -> NDArray[np.float32]:
    return bert.encode(texts(ROWS, pair=True), role="passage")


def judged(
    encoder: Encoder, place: Path, corpus: Path | None, *, role: str = "passage", **options: Any
) -> Comparison:
    inputs = [] if corpus is None else [str(corpus)]
    options = {"column": None, "sample": 100} | options
    return compare(encoder, pairs_of(str(place), inputs, Reading(), **options), role=role)


def write(path: Path, vectors: NDArray[Any], ids: list[str] | None = None, name: str = "vector") -> Path:
    columns = {name: pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])}
    pq.write_table(pa.table(columns if ids is None else {"id": ids, **columns}), path)
    return path


def test_our_own_output_is_the_same(bert: Encoder, corpus: Path, tmp_path: Path) -> None:
    run(bert, tmp_path / "out", corpus)
    result = judged(bert, tmp_path / "out", corpus)
    assert result.verdict == "same"
    assert (result.texts, result.overlap, result.hint) == (100, 1.0, "")
    assert result.min_cosine > 0.999999
    run(bert, tmp_path / "npy", corpus, output="npy")
    assert judged(bert, tmp_path / "npy" / "vectors.npy", corpus).verdict == "same"


def test_an_index_keeps_its_texts(bert: Encoder, corpus: Path, tmp_path: Path, exact: Any) -> None:
    titles, bodies = [row["title"] for row in ROWS], [row["text"] for row in ROWS]
    with VectorIndex(bert) as index:
        index.add(IDS, exact, titles=titles, texts=bodies)
        index.save(tmp_path / "full")
    with VectorIndex(bert) as index:
        index.add(IDS, exact)
        index.save(tmp_path / "bare")
    assert judged(bert, tmp_path / "full", None).verdict == "same"
    assert judged(bert, tmp_path / "bare", corpus).verdict == "same"
    with pytest.raises(InputError, match="the index keeps no texts; type: --texts FILE"):
        judged(bert, tmp_path / "bare", None)


@pytest.mark.parametrize("order", ["ids", "places"])
def test_vectors_in_another_order_are_found_by_their_ids(
    bert: Encoder, corpus: Path, tmp_path: Path, exact: Any, order: str
) -> None:
    drawn = np.random.default_rng(0).permutation(200)
    if order == "ids":
        path = write(tmp_path / "v.parquet", exact[drawn], [IDS[place] for place in drawn], "embedding")
    else:
        path = write(tmp_path / "v.parquet", exact)
    assert judged(bert, path, corpus).verdict == "same"


def test_verdicts(bert: Encoder, corpus: Path, tmp_path: Path, exact: Any) -> None:
    noise = np.random.default_rng(0).standard_normal(exact.shape).astype(np.float32)
    for scale, verdict in ((1e-5, "same"), (0.003, "near"), (0.3, "other")):
        path = write(tmp_path / "v.parquet", 7 * (exact + scale * noise), IDS)
        result = judged(bert, path, corpus)
        assert result.verdict == verdict, result
        assert not result.unit_length
    assert "make the index anew" in str(result)


def test_a_role_or_titles_that_fit_better_are_told(
    bert: Encoder, corpus: Path, tmp_path: Path, exact: Any
) -> None:
    untitled = [{**row, "title": ""} for row in ROWS]
    path = write(tmp_path / "v.parquet", bert.encode(texts(untitled, pair=True), role="passage"), IDS)
    result = judged(bert, path, corpus)
    assert result.hint.startswith("nearer: role passage, without titles, with a mean cosine of 1.00000")
    path = write(tmp_path / "v.parquet", bert.encode(texts(ROWS, pair=False), role="query"), IDS)
    assert judged(bert, path, corpus).hint.startswith("nearer: role query, with a mean cosine of 1.00000")
    assert judged(bert, path, corpus, role="query").verdict == "same"


def test_vectors_of_sentence_transformers_are_the_same(
    corpus: Path, tmp_path: Path, bundles: dict[str, Bundle], checkpoints: dict[str, Path]
) -> None:
    """PyTorch's own, of the checkpoint that the bundle was made of."""
    import sentence_transformers
    from sentence_transformers.sentence_transformer import modules as models

    word = models.Transformer(str(checkpoints["tiny-mpnet"]), max_seq_length=40)
    pooled = models.Pooling(word.get_embedding_dimension(), pooling_mode="mean")
    theirs = sentence_transformers.SentenceTransformer(
        modules=[word, pooled, models.Normalize()], device="cpu"
    ).encode(texts(ROWS, pair=False))
    np.save(tmp_path / "v.npy", theirs)
    with Encoder(bundles["tiny-mpnet"]) as encoder:
        result = judged(encoder, tmp_path / "v.npy", corpus)
    assert result.verdict == "same", result


def test_what_cannot_be_compared(bert: Encoder, corpus: Path, tmp_path: Path, exact: Any) -> None:
    with pytest.raises(
        InputError, match="8 dimensions, those of tiny-bert have 16: they are another model's"
    ):
        judged(bert, write(tmp_path / "v.parquet", exact[:, :8].copy(), IDS), corpus)
    with pytest.raises(InputError, match="the texts are needed to compare; type: --texts FILE"):
        judged(bert, tmp_path / "v.parquet", None)
    with pytest.raises(InputError, match="no id is the same"):
        judged(bert, write(tmp_path / "v.parquet", exact, [f"x{n}" for n in range(200)]), corpus)
    with pytest.raises(InputError, match="no column 'emb' of lists of numbers; there are: 'vector'"):
        judged(bert, write(tmp_path / "v.parquet", exact, IDS), corpus, column="emb")
    with pytest.raises(InputError, match="not all finite"):
        judged(bert, write(tmp_path / "v.parquet", exact * np.float32(np.nan), IDS), corpus)
    np.save(tmp_path / "v.npy", exact[:50])
    with pytest.raises(InputError, match="has 50 vectors, and there are more texts"):
        judged(bert, tmp_path / "v.npy", corpus)
    np.save(tmp_path / "v.npy", exact[0])
    with pytest.raises(InputError, match=r"is float32 \(16,\); expected numbers, \(texts, dim\)"):
        judged(bert, tmp_path / "v.npy", corpus)
    (tmp_path / "v.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        judged(bert, tmp_path / "v.parquet", corpus)


def test_the_sample_is_an_even_choice_and_the_same_again(corpus: Path, tmp_path: Path, exact: Any) -> None:
    path = write(tmp_path / "v.parquet", exact, IDS)
    chosen = [
        [
            d.id
            for d in pairs_of(str(path), [str(corpus)], Reading(), column=None, sample=40, seed=s).documents
        ]
        for s in (0, 0, 1)
    ]
    assert chosen[0] == chosen[1] != chosen[2]
    places = [IDS.index(name) for name in chosen[0]]
    assert len(set(places)) == 40
    assert min(places) < 30 and max(places) > 170
