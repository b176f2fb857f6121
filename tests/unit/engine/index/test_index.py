"""The index: exact answers, ids of any kind, and only the vectors of the encoder that made it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.engine.index import VectorIndex
from paritas.errors import InputError, ShapeError, VectorIndexError
from tests.unit.vectors import filled, unit_vectors


def test_exact_search_finds_what_numpy_finds(bert: Encoder) -> None:
    queries = unit_vectors(20, seed=1)
    scores = queries @ unit_vectors(500).T
    with filled(bert) as index:
        answers = index.search(queries, 10, exact=True)
    for hits, row in zip(answers, scores, strict=True):
        best = np.argsort(-row)[:10]
        assert [hit.id for hit in hits] == [f"doc-{number}" for number in best]
        np.testing.assert_allclose([hit.score for hit in hits], row[best], atol=1e-5)
        assert hits[0].text == f"text doc-{best[0]}"
        assert hits[0].title == f"title doc-{best[0]}"


def test_hnsw_search_finds_nearly_all_of_it(bert: Encoder) -> None:
    """Threads add in no fixed order, so the graph, and what a walk on it misses, is not always the same."""
    queries = unit_vectors(20, seed=1)
    with filled(bert) as index:
        exact = index.search(queries, 10, exact=True)
        found = index.search(queries, 10)
    shared = sum(
        len({hit.id for hit in ours} & {hit.id for hit in theirs})
        for ours, theirs in zip(found, exact, strict=True)
    )
    assert shared >= 190


@pytest.mark.parametrize(("metric", "best"), [("ip", 1.0), ("cos", 1.0), ("l2sq", 0.0)])
def test_a_vector_is_its_own_nearest_in_every_metric(bert: Encoder, metric, best: float) -> None:
    with filled(bert, metric=metric) as index:
        hits = index.search(unit_vectors(500)[7:8], 3)[0]
    assert hits[0].id == "doc-7"
    assert hits[0].score == pytest.approx(best, abs=1e-5)
    assert hits[0].score > hits[1].score


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "i8", "b1"])
@pytest.mark.parametrize("mmap", [True, False])
def test_a_saved_index_answers_the_same(bert: Encoder, tmp_path: Path, dtype, mmap: bool) -> None:
    queries = unit_vectors(5, seed=2)
    with filled(bert, dtype=dtype) as index:
        expected = index.search(queries, 5)
        index.save(tmp_path / "index")
    with VectorIndex.load(tmp_path / "index", mmap=mmap) as loaded:
        assert loaded.search(queries, 5) == expected
        assert len(loaded) == 500
        assert loaded.info.dtype == dtype
        assert "doc-3" in loaded
        assert "doc-500" not in loaded


def test_k_beyond_the_size_gives_all_there_are(bert: Encoder) -> None:
    with filled(bert, 3) as index:
        assert len(index.search(unit_vectors(1), 10)[0]) == 3
        assert len(index.search(unit_vectors(1), 10, exact=True)[0]) == 3


def test_an_empty_index_answers_nothing(bert: Encoder, tmp_path: Path) -> None:
    with VectorIndex(bert) as index:
        assert index.search(unit_vectors(2)) == [[], []]
        index.save(tmp_path / "empty")
    with VectorIndex.load(tmp_path / "empty") as loaded:
        assert loaded.search(unit_vectors(2)) == [[], []]


def test_ids_are_any_strings(bert: Encoder, tmp_path: Path) -> None:
    ids = ["", "ü/\n\0'\"; DROP TABLE documents", "7", "🚀", " 7"]
    index = VectorIndex(bert)
    index.add(ids, unit_vectors(5))
    index.save(tmp_path / "index")
    with VectorIndex.load(tmp_path / "index") as loaded:
        hits = loaded.search(unit_vectors(5), 1)
    assert [hit[0].id for hit in hits] == ids


def test_a_known_id_is_refused_and_nothing_is_added(bert: Encoder) -> None:
    with filled(bert, 10) as index:
        with pytest.raises(InputError, match="id 'doc-3' was added before"):
            index.add(["new", "doc-3"], unit_vectors(2))
        with pytest.raises(InputError, match="id 'twice' was added before"):
            index.add(["twice", "twice"], unit_vectors(2))
        assert len(index) == 10
        assert "new" not in index
        index.add(["new"], unit_vectors(1, seed=5))
        assert index.search(unit_vectors(1, seed=5), 1)[0][0].id == "new"


def test_removed_documents_are_gone_and_may_come_back(bert: Encoder, tmp_path: Path) -> None:
    with filled(bert, 50) as index:
        index.remove(["doc-7", "doc-49"])
        assert len(index) == 48
        assert index.search(unit_vectors(50)[7:8], 1)[0][0].id != "doc-7"
        with pytest.raises(InputError, match="id 'doc-7' is not in the index"):
            index.remove(["doc-8", "doc-7"])
        assert "doc-8" in index
        index.add(["doc-7"], unit_vectors(50)[7:8])
        index.save(tmp_path / "index")
    with VectorIndex.load(tmp_path / "index") as loaded:
        assert len(loaded) == 49
        assert loaded.search(unit_vectors(50)[7:8], 1)[0][0].id == "doc-7"


def test_a_mapped_index_is_read_only_and_says_how_to_change_that(bert: Encoder, tmp_path: Path) -> None:
    filled(bert, 5).save(tmp_path / "index")
    with VectorIndex.load(tmp_path / "index") as index, pytest.raises(VectorIndexError, match="mmap=False"):
        index.add(["new"], unit_vectors(1))
    with VectorIndex.load(tmp_path / "index", mmap=False) as index:
        index.add(["new"], unit_vectors(1, seed=9))
        index.save(tmp_path / "index")
    with VectorIndex.load(tmp_path / "index") as index:
        assert index.search(unit_vectors(1, seed=9), 1)[0][0].id == "new"


@pytest.mark.parametrize(
    "vectors",
    [
        np.zeros((2, 15), np.float32),
        np.zeros((2, 16), np.float64),
        np.zeros(16, np.float32),
        np.zeros((2, 2, 16), np.float32),
    ],
)
def test_vectors_that_do_not_fit_are_refused(bert: Encoder, vectors) -> None:
    with filled(bert, 3) as index:
        with pytest.raises(ShapeError, match=r"expected float32 \(count, 16\)"):
            index.search(vectors)
        with pytest.raises(ShapeError):
            index.add(["a", "b"], vectors)


def test_vectors_that_are_not_finite_are_refused(bert: Encoder) -> None:
    vectors = unit_vectors(3)
    vectors[1, 4] = np.nan
    with filled(bert, 3) as index, pytest.raises(InputError, match="vector 1 holds NaN"):
        index.add(["a", "b", "c"], vectors)


def test_counts_and_types_are_checked(bert: Encoder) -> None:
    with filled(bert, 3) as index:
        with pytest.raises(InputError, match="as many of each"):
            index.add(["a"], unit_vectors(2))
        with pytest.raises(InputError, match="as many of each"):
            index.add(["a", "b"], unit_vectors(2), texts=["only one"])
        with pytest.raises(InputError, match="id 7 is int"):
            index.add([7], unit_vectors(1))
        with pytest.raises(InputError, match="k is 0"):
            index.search(unit_vectors(1), 0)


def test_another_model_is_refused(bert: Encoder, mpnet: Encoder) -> None:
    with filled(bert, 3) as index:
        index.check(bert)
        with pytest.raises(VectorIndexError, match=r"made by tiny-bert .*not by tiny-mpnet"):
            index.check(mpnet)


def test_fp16_may_search_what_fp32_made(bert: Encoder, bundles: dict[str, Bundle]) -> None:
    with filled(bert, 3) as index, Encoder(bundles["tiny-bert"].directory, precision="fp16") as half:
        index.check(half)


def test_another_precision_family_is_refused(bert: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    with filled(bert, 3) as index:
        monkeypatch.setattr(Encoder, "family", "int8")
        with pytest.raises(VectorIndexError, match="cannot be searched with those of fp32"):
            index.check(bert)


def test_recall_tells_a_thorough_graph_from_a_poor_one(
    bert: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Vectors that threads add at the same time are not linked with each other: of 300 such graphs of 500
    # vectors by two threads, three stood below a recall of 0.99, the least at 0.982; by one thread all at 1.
    monkeypatch.setattr("paritas.engine.index.hnsw.available_cpus", lambda: 1)
    with filled(bert, 500, expansion_search=512) as index:
        assert index.recall(unit_vectors(50, seed=3), 10) > 0.99
        assert index.sample(20).shape == (20, 16)
        assert index.sample(9999).shape == (500, 16)
    with filled(bert, 500, connectivity=2, expansion_add=1, expansion_search=1) as poor:
        assert poor.recall(unit_vectors(50, seed=3), 10) < 0.9


def test_many_threads_may_search_at_once(bert: Encoder, tmp_path: Path) -> None:
    filled(bert).save(tmp_path / "index")
    queries = [unit_vectors(3, seed=seed) for seed in range(40)]
    with VectorIndex.load(tmp_path / "index") as index:
        serial = [index.search(query, 5) for query in queries]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda query: index.search(query, 5), queries)) == serial


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "zz"}, "unknown dtype 'zz'; expected one of f32, f16, bf16, i8, b1"),
        (
            {"dtype": "i8", "metric": "l2sq"},
            "dtype i8 keeps directions alone, and metric l2sq compares lengths",
        ),
        ({"dtype": "b1", "metric": "l2sq"}, "use dtype f32, f16 or bf16, or metric cos"),
        ({"metric": "hamming"}, "unknown metric 'hamming'; expected one of ip, cos, l2sq"),
        ({"connectivity": -1}, "connectivity is -1; expected a whole number of 2 or more"),
        ({"expansion_add": 0}, "expansion_add is 0; expected a whole number of 1 or more"),
        ({"expansion_search": 0}, "expansion_search is 0; expected a whole number of 1 or more"),
    ],
)
def test_options_that_could_not_be_loaded_again_are_refused(
    bert: Encoder, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        VectorIndex(bert, **options)


def test_a_closed_index_says_so(bert: Encoder, tmp_path: Path) -> None:
    index = filled(bert, 3)
    index.close()
    uses: list[Callable[[], object]] = [
        lambda: index.search(unit_vectors(1), 1),
        lambda: len(index),
        lambda: "doc-0" in index,
        lambda: index.add(["a"], unit_vectors(1)),
        lambda: index.remove(["doc-0"]),
        lambda: index.sample(1),
        lambda: index.save(tmp_path / "index"),
    ]
    for use in uses:
        with pytest.raises(VectorIndexError, match="the index was closed"):
            use()
    index.close()


def test_ids_and_texts_may_be_numpys(bert: Encoder) -> None:
    with VectorIndex(bert) as index:
        vectors = unit_vectors(2)
        index.add(np.array(["a", "b"]), vectors, texts=np.array(["first", "second"]))
        hit = index.search(vectors[1:], 1)[0][0]
        assert (hit.id, hit.text) == ("b", "second")
        assert type(hit.id) is str


def test_an_interrupted_add_leaves_neither_text_nor_vector(bert: Encoder) -> None:
    class Interrupted:
        def __init__(self, vectors) -> None:
            self.vectors = vectors

        def add(self, keys, vectors, **options) -> None:
            self.vectors.add(keys[:2], vectors[:2], **options)
            raise KeyboardInterrupt

        def __getattr__(self, name: str):
            return getattr(self.vectors, name)

        def __len__(self) -> int:
            return len(self.vectors)

    index = filled(bert, 5)
    graph = index._contents._graph
    whole, graph._index = graph._index, Interrupted(graph._index)
    with pytest.raises(KeyboardInterrupt):
        index.add(["a", "b", "c"], unit_vectors(3, seed=4))
    graph._index = whole
    assert len(index) == 5
    assert "a" not in index
    assert len(index.search(unit_vectors(3, seed=4), 10)[0]) == 5


def test_half_a_character_is_no_id(bert: Encoder) -> None:
    with filled(bert, 3) as index, pytest.raises(InputError, match="half a surrogate pair"):
        index.add(["\ud83d"], unit_vectors(1))


def test_vectors_cut_to_another_width_are_refused(bundles: dict[str, Bundle], bert: Encoder) -> None:
    with Encoder(bundles["tiny-bert"], truncate_dim=8) as short, VectorIndex(short) as index:
        assert index.info.dim == 8
        index.check(short)
        with pytest.raises(VectorIndexError, match="vectors of 8 dimensions, the encoder's have 16"):
            index.check(bert)


@pytest.mark.parametrize(
    ("similarity", "normalize", "metric"),
    [
        (None, True, "ip"),
        (None, False, "ip"),
        ("cosine", True, "ip"),
        ("cosine", False, "cos"),
        ("dot", False, "ip"),
        ("euclidean", True, "l2sq"),
    ],
)
def test_the_metric_is_the_checkpoints_similarity(bert: Encoder, similarity, normalize, metric) -> None:
    manifest = replace(
        bert.bundle.manifest,
        similarity=similarity,
        contract=replace(bert.bundle.manifest.contract, normalize=normalize),
    )
    bundle = Bundle(bert.bundle.directory)
    bundle.manifest = manifest
    with Encoder(bundle) as encoder, VectorIndex(encoder) as index:
        assert index.info.metric == metric
    with Encoder(bundle) as encoder, VectorIndex(encoder, metric="l2sq") as index:
        assert index.info.metric == "l2sq"


def test_a_similarity_that_no_index_has_asks_for_a_metric(bert: Encoder) -> None:
    bundle = Bundle(bert.bundle.directory)
    bundle.manifest = replace(bundle.manifest, similarity="manhattan")
    with Encoder(bundle) as encoder:
        with pytest.raises(InputError, match="by manhattan distance, which the index has not"):
            VectorIndex(encoder)
        VectorIndex(encoder, metric="cos").close()
