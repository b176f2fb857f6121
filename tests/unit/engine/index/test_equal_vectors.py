"""Documents of equal vectors share one, and removed ones do not stand in the way."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from paritas.engine.encoder import Encoder
from paritas.engine.index import VectorIndex
from tests.unit.vectors import filled, unit_vectors

FORMAT_1 = Path(__file__).parents[2] / "format3" / "index"


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build the same graph each time: vectors that threads add at once are not linked with each other."""
    monkeypatch.setattr("paritas.engine.index.hnsw.available_cpus", lambda: 1)


def with_copies(encoder: Encoder, copies: int, others: int = 300, **options: object) -> VectorIndex:
    """Return an index of other documents among as many copies of one."""
    index = VectorIndex(encoder, **options)
    vectors = unit_vectors(others + 1)
    index.add([f"copy-{number}" for number in range(copies)], np.repeat(vectors[:1], copies, axis=0))
    index.add([f"doc-{number}" for number in range(1, others + 1)], vectors[1:])
    return index


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_copies_of_one_document_hide_no_other(bert: Encoder, tmp_path: Path, dtype: str) -> None:
    """HNSW links near vectors: each of a thousand equal ones would link to equal ones alone."""
    vectors = unit_vectors(301)
    with with_copies(bert, 1000, dtype=dtype) as index:
        index.save(tmp_path / "index")
        assert len(index) == 1300
    for mmap in (True, False):
        with VectorIndex.load(tmp_path / "index", mmap=mmap) as index:
            assert len(index) == 1300
            assert index.info.distinct == 301
            hits = index.search(vectors, 1)
            assert [found[0].id for found in hits[1:]] == [f"doc-{number}" for number in range(1, 301)]
            assert index.recall(vectors, 10) > 0.98


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("k", [1, 7, 150, 290, 400])
def test_equal_documents_come_in_the_order_of_their_adding(bert: Encoder, exact: bool, k: int) -> None:
    vectors = unit_vectors(301)
    with with_copies(bert, 200, others=90) as index:
        (hits,) = index.search(vectors[:1], k, exact=exact)
    assert len(hits) == min(k, 290)
    assert [hit.id for hit in hits[:200]] == [f"copy-{number}" for number in range(min(k, 200))]
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)


def test_a_vector_stays_until_its_last_document_is_removed(bert: Encoder, tmp_path: Path) -> None:
    copy = unit_vectors(1)
    with with_copies(bert, 3, others=20) as index:
        index.remove(["copy-0"])
        assert [hit.id for hit in index.search(copy, 3)[0][:2]] == ["copy-1", "copy-2"]
        index.add(["copy-3"], copy, texts=["late"])
        index.remove(["copy-1", "copy-2"])
        index.save(tmp_path / "index")
        assert index.search(copy, 1)[0][0].text == "late"
        index.remove(["copy-3"])
        assert index.search(copy, 1)[0][0].id.startswith("doc-")
        assert len(index) == len(index.search(copy, 99)[0]) == 20
    with VectorIndex.load(tmp_path / "index") as index:
        assert index.search(copy, 1)[0][0].id == "copy-3"
        assert len(index) == 21


def test_zero_and_minus_zero_are_one_vector(bert: Encoder) -> None:
    vectors = np.zeros((2, 16), np.float32)
    vectors[:, 0] = 1
    vectors[1, 1] = -0.0
    with VectorIndex(bert) as index:
        index.add(["plus", "minus"], vectors)
        assert [hit.id for hit in index.search(vectors[:1], 5)[0]] == ["plus", "minus"]
        assert len(index._contents._graph) == 1


@pytest.mark.parametrize("metric", ["ip", "cos", "l2sq"])
def test_sample_gives_the_vectors_of_documents(bert: Encoder, metric: str) -> None:
    with with_copies(bert, 30, others=10, metric=metric) as index:
        assert index.sample(7).shape == (7, 16)
        everything = index.sample(99)
        assert everything.shape == (40, 16)
        assert (everything == unit_vectors(1)).all(axis=1).sum() == 30
        np.testing.assert_array_equal(index.sample(7), index.sample(7))
        assert not np.array_equal(everything, index.sample(99, seed=1))
        assert index.sample(0).shape == (0, 16)


@pytest.mark.parametrize("exact", [True, False])
def test_k_come_back_whatever_was_removed(bert: Encoder, exact: bool) -> None:
    with filled(bert, 400) as index:
        left = 400
        for start in range(0, 400, 40):
            index.remove([f"doc-{number}" for number in range(start, min(start + 40, 397))])
            left = max(3, left - 40)
            assert len(index) == left
            for k in (1, 10, 64, 500):
                for hits in index.search(unit_vectors(400)[:20], k, exact=exact):
                    assert len(hits) == min(k, left)


def test_what_a_walk_misses_is_compared_with_every_vector(bert: Encoder) -> None:
    with filled(bert, 200) as index:
        inner = index._contents._graph._index

        class Short:
            def search(self, vectors, count, *, exact, **options):
                return inner.search(vectors, count if exact else 2, exact=exact, **options)

            def __getattr__(self, name: str):
                return getattr(inner, name)

            def __len__(self) -> int:
                return len(inner)

        index._contents._graph._index = Short()
        queries = unit_vectors(3, seed=8)
        assert index.search(queries, 9) == index.search(queries, 9, exact=True)


def test_a_graph_is_built_anew_after_as_many_removals_as_it_has_vectors(bert: Encoder) -> None:
    with filled(bert, 300) as index:
        first = index._contents._graph
        index.remove([f"doc-{number}" for number in range(150)])
        assert index._contents._graph is first
        index.remove(["doc-150"])
        assert index._contents._graph is not first
        assert index.recall(unit_vectors(30, seed=2), 10) > 0.99
        for number in range(151, 300):
            hit = index.search(unit_vectors(300)[number : number + 1], 1, exact=True)[0][0]
            assert (hit.id, hit.text) == (f"doc-{number}", f"text doc-{number}")


def test_format_1_is_read_and_saved_on_as_format_2(bert: Encoder, tmp_path: Path) -> None:
    old = tmp_path / "index"
    shutil.copytree(FORMAT_1, old)
    with VectorIndex.load(old) as mapped, VectorIndex.load(old, mmap=False) as index:
        queries = mapped.sample(5)
        assert mapped.info.format == 1
        assert mapped.search(queries, 5) == index.search(queries, 5)
        index.add(["again"], queries[:1], texts=["the same again"])
        index.save(old)
        mapped.save(tmp_path / "copied")
    with VectorIndex.load(old) as index:
        assert index.info.format == 2
        assert (len(index), index.info.distinct) == (3, 2)
        assert [hit.text for hit in index.search(queries[:1], 2)[0]][1] == "the same again"
    with VectorIndex.load(tmp_path / "copied") as index:
        assert index.search(queries, 5) == VectorIndex.load(FORMAT_1).search(queries, 5)


def test_what_was_shared_once_is_remembered(bert: Encoder, tmp_path: Path) -> None:
    """The only document of a vector may have another key than the vector's."""
    with VectorIndex(bert) as index:
        index.add(["first", "second"], np.repeat(unit_vectors(1), 2, axis=0))
        index.remove(["first"])
        index.save(tmp_path / "index")
    for mmap in (True, False):
        with VectorIndex.load(tmp_path / "index", mmap=mmap) as index:
            assert [hit.id for hit in index.search(unit_vectors(1), 10**30)[0]] == ["second"]
            index.save(tmp_path / "again")
        with VectorIndex.load(tmp_path / "again") as index:
            assert index.search(unit_vectors(1), 3)[0][0].id == "second"


def test_many_queries_are_answered_in_their_order(bert: Encoder) -> None:
    vectors = unit_vectors(1300)
    with filled(bert, 1300) as index:
        hits = index.search(vectors, 1, exact=True)
        assert [found[0].id for found in hits] == [f"doc-{number}" for number in range(1300)]
        assert index.search(vectors[:0]) == []


def test_a_removal_interrupted_after_its_commit_is_counted(
    bert: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with filled(bert, 12) as index:
        documents = index._contents._documents
        remove = documents.remove

        def interrupted(keys: list[int]) -> list[int]:
            count = documents.count
            remove(keys)
            documents.count = count  # as if the exception came before this line
            raise KeyboardInterrupt

        monkeypatch.setattr(documents, "remove", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index.remove(["doc-1", "doc-2"])
        monkeypatch.undo()
        assert len(index) == len(index.search(unit_vectors(1), 99)[0]) == 10
        index.save(tmp_path / "index")
    with VectorIndex.load(tmp_path / "index") as index:
        assert len(index) == 10


def test_changes_come_between_the_parts_of_a_long_recall(
    bert: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with filled(bert, 30) as index:
        turns = []
        use = index._contents._use
        monkeypatch.setattr(index._contents, "_use", lambda work: (turns.append(1), use(work))[1])
        assert index.recall(unit_vectors(1300, seed=4), 3) > 0.9
        assert len(turns) == 3
