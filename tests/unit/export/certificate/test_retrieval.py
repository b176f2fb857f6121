"""What a precision costs a search: rankings, nDCG@10 and recall@10 over a judged collection."""

from __future__ import annotations

import gzip
import math
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from paritas.engine.bundle.directory import Bundle
from paritas.errors import ExportError, InputError
from paritas.export import export_model
from paritas.export.certificate import retrieval as judgements
from paritas.export.certificate.retrieval import compare_retrieval, ndcg, read_collection, score_queries
from paritas.registry import Registry

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def collection(directory: Path, qrels: str = "q1\td2\t1\nq2\td1\t2\n") -> Path:
    """Twelve documents, three queries of which two are judged."""
    words = "sky river ferry train apple night light water city island morning price".split()
    (directory / "qrels").mkdir(parents=True)
    documents = [f'{{"_id": "d{n}", "title": "", "text": "the {word}"}}' for n, word in enumerate(words)]
    (directory / "corpus.jsonl").write_text("\n".join(documents), encoding="utf-8")
    queries = [f'{{"_id": "q{n}", "text": "why is the {words[n]} blue"}}' for n in range(3)]
    (directory / "queries.jsonl").write_text("\n".join(queries), encoding="utf-8")
    (directory / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels, encoding="utf-8")
    return directory


def test_ndcg_is_the_discounted_gain_over_the_best_possible() -> None:
    assert ndcg([1, 0, 0], [1]) == 1
    assert ndcg([0, 1], [1]) == pytest.approx(1 / math.log2(3))
    assert ndcg([1, 2], [2, 1]) == pytest.approx((1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3)))
    assert ndcg([0] * 10, [1, 1]) == 0
    assert ndcg([1] * 10, [1] * 30) == 1
    assert ndcg([0], [0]) == 0


def test_queries_without_judgements_are_left_out(tmp_path: Path) -> None:
    found = read_collection(collection(tmp_path / "mini"))
    assert found.name == "mini"
    assert [query.id for query in found.queries] == ["q1", "q2"]
    ranking = np.array([[2, *range(3, 12)], [0, 1, *range(3, 11)]])
    assert score_queries(ranking, found).mean() == pytest.approx(100 * (1 + 1 / math.log2(3)) / 2)


@pytest.mark.parametrize("documents", [1, 9, 10, 11, 64, 65, 500])
@pytest.mark.parametrize("values", [2, 5, 1000])
def test_the_nearest_are_those_of_the_whole_order_equal_ones_included(
    monkeypatch: pytest.MonkeyPatch, documents: int, values: int
) -> None:
    monkeypatch.setattr(judgements, "_DOCUMENTS", 16)
    numbers = np.random.default_rng(documents)
    # Whole numbers, so that products are exact in any order, and few of them, so that many are equal.
    stored, asked = (numbers.integers(0, values, (count, 2)).astype(np.float32) for count in (documents, 40))
    whole = np.argsort(-(asked @ stored.T), axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(judgements._nearest(asked, stored), whole)


def test_a_collection_of_any_size_is_ranked_in_little_memory() -> None:
    stored, asked = np.ones((200_000, 2), np.float32), np.ones((512, 2), np.float32)
    tracemalloc.start()
    try:
        found = judgements._nearest(asked, stored)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.array_equal(found, np.tile(np.arange(10), (512, 1)))
    assert peak < 200e6  # the whole order takes 1.2 GB


@pytest.mark.parametrize("end", [".gz", ".zst"])
def test_a_collection_may_be_packed(tmp_path: Path, end: str) -> None:
    directory = collection(tmp_path / "mini")
    plain = read_collection(directory)
    compress = gzip.compress if end == ".gz" else zstd.compress
    for name in ("corpus.jsonl", "queries.jsonl"):
        (directory / f"{name}{end}").write_bytes(compress((directory / name).read_bytes()))
        (directory / name).unlink()
    assert read_collection(directory) == plain


def test_each_precision_is_compared_with_fp32(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    found = compare_retrieval(
        bundles["tiny-mpnet"], ["fp32", "fp16"], read_collection(collection(tmp_path / "c"))
    )
    assert list(found) == ["fp16"]
    assert (found["fp16"].documents, found["fp16"].queries) == (12, 2)
    assert found["fp16"].recall == 1
    assert found["fp16"].ndcg == found["fp16"].ndcg_fp32


def test_an_export_keeps_what_a_search_loses(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    made = export_model(
        "tiny-bert",
        source=str(checkpoints["tiny-bert"]),
        precisions=("fp32", "fp16"),
        judgements=collection(tmp_path / "mini"),
        out=tmp_path / "out",
        registry=tiny_registry,
    )
    retrieval = made.manifest.precisions["fp16"].certified.retrieval
    assert retrieval is not None
    assert retrieval.collection == "mini"
    assert made.manifest.precisions["fp32"].certified.retrieval is None


def test_judgements_without_fp32_to_compare_with_are_refused(tmp_path: Path, tiny_registry: Registry) -> None:
    with pytest.raises(ExportError, match="judgements compare with FP32; ask for fp32 and another"):
        export_model("tiny-bert", judgements=collection(tmp_path / "c"), registry=tiny_registry)


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ("q1 d2 1\n", r"test\.tsv:2: 'q1 d2 1'; expected query, document and gain"),
        ("q1\td2\tmuch\n", r"test\.tsv:2: "),
        ("q9\td2\t1\n", "no query of queries.jsonl is judged"),
        ("", "no query of queries.jsonl is judged"),
    ],
)
def test_malformed_judgements_are_refused_with_the_line(qrels: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_collection(collection(tmp_path / "c", qrels))


def test_a_directory_without_a_collection_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"test\.tsv: cannot be read"):
        read_collection(tmp_path)
