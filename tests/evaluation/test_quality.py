"""The known figures of the models, met from the bundles: STS-B in `make test`, SciFact in `make eval`."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from paritas.documents import read_documents
from paritas.engine.encoder import Encoder
from paritas.export import export_model

# Points of 100, as the Massive Text Embedding Benchmark lists them.
STSB_SPEARMAN = {"all-MiniLM-L6-v2": 82.0, "all-mpnet-base-v2": 83.4}
SCIFACT_NDCG = {"all-MiniLM-L6-v2": 64.5, "all-mpnet-base-v2": 65.6}


def data(*parts: str) -> Path:
    """Return the path of a data set's file; without any data, skip the test unless it was asked for."""
    root = Path(os.environ.get("PARITAS_EVAL_DATA", "eval"))
    if not root.exists() and not os.environ.get("PARITAS_EVAL_REQUIRED"):
        pytest.skip(f"{root} is not there; see tests/evaluation/README.md")
    return root.joinpath(*parts)


@pytest.fixture(scope="module", params=["all-MiniLM-L6-v2", "all-mpnet-base-v2"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoder]:
    bundle = export_model(
        request.param, source="package", out=tmp_path_factory.mktemp("quality") / request.param
    )
    with Encoder(bundle.directory) as opened:
        yield opened


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks from 0, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[inverse]


def test_stsb_spearman_is_the_published_one(encoder: Encoder) -> None:
    with data("stsb", "stsb-en-test.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1379
    first = encoder.encode([row[0] for row in rows], role="query")
    second = encoder.encode([row[1] for row in rows], role="query")
    cosine = np.einsum("ij,ij->i", first, second).astype(np.float64)
    human = np.array([float(row[2]) for row in rows])
    spearman = 100 * float(np.corrcoef(ranks(cosine), ranks(human))[0, 1])
    print(f"STS-B Spearman {spearman:.2f}")
    assert spearman == pytest.approx(STSB_SPEARMAN[encoder.bundle.manifest.model], abs=0.1)


@pytest.mark.slow
def test_scifact_ndcg_is_the_published_one(encoder: Encoder) -> None:
    corpus = list(read_documents(str(data("scifact", "corpus.jsonl"))))
    judged = judgements(data("scifact", "qrels", "test.tsv"))
    queries = [q for q in read_documents(str(data("scifact", "queries.jsonl"))) if q.id in judged]
    assert (len(corpus), len(queries)) == (5183, 300)
    passages = encoder.encode([document.as_text(pair=False) for document in corpus], role="passage")
    asked = encoder.encode([query.text for query in queries], role="query")
    best = np.argsort(-(asked @ passages.T), axis=1)[:, :10]
    names = [document.id for document in corpus]
    gains = [
        ndcg([judged[query.id].get(names[place], 0) for place in row], list(judged[query.id].values()))
        for query, row in zip(queries, best, strict=True)
    ]
    score = 100 * float(np.mean(gains))
    print(f"SciFact nDCG@10 {score:.2f}")
    assert score == pytest.approx(SCIFACT_NDCG[encoder.bundle.manifest.model], abs=0.1)


def judgements(path: Path) -> dict[str, dict[str, int]]:
    judged: dict[str, dict[str, int]] = defaultdict(dict)
    with path.open(encoding="utf-8") as file:
        next(file)
        for line in file:
            query, document, score = line.split("\t")
            judged[query][document] = int(score)
    return judged


def ndcg(found: list[int], relevant: list[int]) -> float:
    """Return nDCG@10 of one ranking: the gain of each place over log2 of the place plus one."""
    discounts = 1 / np.log2(np.arange(2, 12))
    ideal = np.array(sorted(relevant, reverse=True)[:10], dtype=float)
    return float((np.array(found) * discounts[: len(found)]).sum() / (ideal * discounts[: len(ideal)]).sum())
