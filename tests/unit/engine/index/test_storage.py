"""Vectors of a byte or a bit a channel: what is stored, what comes back, and what is answered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from paritas.engine.encoder import Encoder
from paritas.engine.index import ScalarType, VectorIndex
from paritas.engine.index.storage import check_metric, restored, stored
from paritas.errors import InputError

ROWS = 400


def unit(count: int, dim: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Vectors that lie around forty others, so that each has near ones."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((40, dim))
    vectors = centres[rng.integers(0, 40, count)] + 0.7 * rng.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def filled(bert: Encoder, dtype: ScalarType, vectors: NDArray[np.float32]) -> VectorIndex:
    index = VectorIndex(bert, dtype=dtype)
    index.add([f"{number}" for number in range(len(vectors))], vectors)
    return index


def integers(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """What a byte a channel keeps, by its definition: 127 is the vector's farthest channel."""
    return np.rint(vectors.astype(np.float64) * 127 / np.abs(vectors).max(axis=1, keepdims=True))


def test_bytes_answer_by_their_cosine(bert: Encoder) -> None:
    vectors, queries = unit(ROWS, bert.dim), unit(20, bert.dim, seed=1)
    kept, asked = integers(vectors), integers(queries)
    cosines = (asked @ kept.T) / np.linalg.norm(asked, axis=1)[:, None] / np.linalg.norm(kept, axis=1)
    with filled(bert, "i8", vectors) as index:
        answers = index.search(queries, 10, exact=True)
    for row, hits in zip(cosines, answers, strict=True):
        assert [hit.score for hit in hits] == pytest.approx(np.sort(row)[::-1][:10].tolist(), abs=1e-5)
        assert [row[int(hit.id)] for hit in hits] == pytest.approx([hit.score for hit in hits], abs=1e-5)


def test_bits_answer_by_the_angle_that_they_tell(bert: Encoder) -> None:
    vectors, queries = unit(ROWS, bert.dim), unit(20, bert.dim, seed=1)
    differ = ((queries[:, None] > 0) != (vectors[None] > 0)).sum(axis=2)
    with filled(bert, "b1", vectors) as index:
        answers = index.search(queries, ROWS, exact=True)
    estimated, exact = [], []
    for row, query, hits in zip(differ, queries, answers, strict=True):
        wanted = np.cos(np.pi * np.sort(row) / bert.dim)
        assert [hit.score for hit in hits] == pytest.approx(wanted.tolist(), abs=1e-6)
        estimated += [hit.score for hit in hits]
        exact += [float(vectors[int(hit.id)] @ query) for hit in hits]
    # Of as few bits as here it is a rough estimate of the cosine.
    assert np.corrcoef(estimated, exact)[0, 1] > 0.6
    assert np.mean(estimated) == pytest.approx(np.mean(exact), abs=0.05)


@pytest.mark.parametrize("dtype", ["i8", "b1"])
def test_the_graph_finds_what_comparing_all_finds(bert: Encoder, dtype: ScalarType) -> None:
    with filled(bert, dtype, unit(ROWS, bert.dim)) as index:
        # Many vectors of as few bits as here are equally far, and the graph may find any of them.
        assert index.recall(unit(50, bert.dim, seed=1), 10) > (0.95 if dtype == "i8" else 0.5)


@pytest.mark.parametrize(("dtype", "least"), [("f16", 0.99999), ("bf16", 0.9999), ("i8", 0.999), ("b1", 0.4)])
def test_what_comes_back_points_where_it_pointed(bert: Encoder, dtype: ScalarType, least: float) -> None:
    vectors = unit(ROWS, bert.dim)
    with filled(bert, dtype, vectors) as index:
        hits, back = index.sample_documents(ROWS)
        assert back.dtype == np.float32
        own = vectors[[int(hit.id) for hit in hits]]
        lengths = np.linalg.norm(back, axis=1)
        assert (np.einsum("ij,ij->i", own, back) / lengths).min() > least
        assert lengths == pytest.approx(np.ones(ROWS), abs=0.01)
        assert index.sample(7).shape == (7, bert.dim)


@pytest.mark.parametrize("dim", [1, 7, 8, 9, 31, 384])
def test_bits_of_any_width(bert: Encoder, dim: int) -> None:
    vectors = unit(5, dim)
    info = replace(VectorIndex(bert, dtype="b1").info, dim=dim)
    kept = stored(vectors, "b1")
    assert kept.shape == (5, -(-dim // 8))
    assert np.array_equal(restored(kept, info) > 0, vectors > 0)
    assert np.linalg.norm(restored(kept, info), axis=1) == pytest.approx(np.ones(5), abs=1e-5)


def test_one_large_channel_is_not_cut(bert: Encoder) -> None:
    vectors = unit(ROWS, bert.dim)
    vectors[:, 3] += np.random.default_rng(5).choice([-2, 2], ROWS).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with filled(bert, "i8", vectors) as index:
        for query, hits in zip(vectors[:20], index.search(vectors[:20], 10, exact=True), strict=True):
            exact = [float(vectors[int(hit.id)] @ query) for hit in hits]
            assert [hit.score for hit in hits] == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("dtype", ["f32", "i8"])
def test_every_document_finds_itself(bert: Encoder, dtype: ScalarType) -> None:
    """Though several threads add at once: without a second look one in a thousand was lost for good."""
    vectors = unit(3000, bert.dim)
    lost = 0
    for _ in range(4):
        with filled(bert, dtype, vectors) as index:
            hits = index.search(vectors, 1)
            lost += sum(hits[n][0].id != f"{n}" and hits[n][0].score < 0.999 for n in range(3000))
    # A vector that comes later may still take the place of a link to an earlier one.
    assert lost <= 1


@pytest.mark.parametrize("dtype", ["i8", "b1"])
def test_many_removed_ones_leave_the_others_as_they_were(bert: Encoder, dtype: ScalarType) -> None:
    """The graph is built anew then, of what is stored and not of what comes back of it."""
    vectors = unit(ROWS, bert.dim)
    with filled(bert, dtype, vectors) as index, filled(bert, dtype, vectors[300:]) as fresh:
        index.remove([f"{number}" for number in range(300)])
        queries = unit(20, bert.dim, seed=1)
        left, wanted = (each.search(queries, 5, exact=True) for each in (index, fresh))
    for one, other in zip(left, wanted, strict=True):
        assert [hit.score for hit in one] == [hit.score for hit in other]


@pytest.mark.parametrize("dtype", ["i8", "b1"])
def test_vectors_that_are_stored_alike_share_one(bert: Encoder, dtype: ScalarType, tmp_path: Path) -> None:
    vectors = unit(30, bert.dim)
    near = vectors * np.float32(1.0001)
    with filled(bert, dtype, np.concatenate([vectors, near])) as index:
        assert len(index) == 60
        assert [hit.id for hit in index.search(near[3:4], 2, exact=True)[0]] == ["3", "33"]
        index.save(tmp_path / "index")
    with VectorIndex.load(tmp_path / "index") as index:
        assert index.info.distinct == 30
        assert [hit.id for hit in index.search(near[3:4], 2, exact=True)[0]] == ["3", "33"]


@pytest.mark.parametrize("dtype", ["i8", "b1"])
def test_a_vector_of_zeros_is_as_near_to_itself_as_any(bert: Encoder, dtype: ScalarType) -> None:
    vectors = unit(20, bert.dim)
    vectors[4] = 0
    with filled(bert, dtype, vectors) as index:
        assert np.isfinite([hit.score for hit in index.search(vectors, 20)[4]]).all()
        assert index.search(vectors, 1, exact=True)[4][0].id == "4"
        assert np.isfinite(index.sample(20)).all()


@pytest.mark.parametrize("dtype", ["i8", "b1"])
def test_vectors_whose_lengths_count_are_refused(dtype: ScalarType) -> None:
    with pytest.raises(InputError, match=f"dtype {dtype} keeps directions alone, and metric ip compares"):
        check_metric(dtype, "ip", unit=False)
    check_metric(dtype, "ip", unit=True)
    check_metric(dtype, "cos", unit=False)
