"""The known figures of the models, met from the bundles, and what INT8 loses of them.

STS-B and a sample of SQuAD in `make test`, SciFact in `make eval`.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from paritas.documents import read_documents
from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.export import export_model
from paritas.export.certificate.certify import compare
from paritas.export.certificate.retrieval import compare_retrieval, read_collection
from paritas.registry import Precision

# Points of 100, as the Massive Text Embedding Benchmark lists them.
STSB_SPEARMAN = {"all-MiniLM-L6-v2": 82.0, "all-mpnet-base-v2": 83.4}
# Points that INT8 may lose of them.
STSB_LOSS, SCIFACT_LOSS = 0.3, 0.4
SCIFACT_NDCG = {"all-MiniLM-L6-v2": 64.5, "all-mpnet-base-v2": 65.6}


def data(*parts: str) -> Path:
    """Return the path of a data set's file; without any data, skip the test unless it was asked for."""
    root = Path(os.environ.get("PARITAS_EVAL_DATA", "eval"))
    if not root.exists() and not os.environ.get("PARITAS_EVAL_REQUIRED"):
        pytest.skip(f"{root} is not there; see tests/evaluation/README.md")
    return root.joinpath(*parts)


# The second takes more than a minute; that its vectors are PyTorch's, `make test` shows too.
FP32_MODELS = ["all-MiniLM-L6-v2", pytest.param("all-mpnet-base-v2", marks=pytest.mark.slow)]
# The second takes a minute to quantise.
INT8_MODELS = ["all-MiniLM-L6-v2", pytest.param("all-mpnet-base-v2", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Precision], Bundle]:
    @cache
    def export(name: str, precision: Precision) -> Bundle:
        out = tmp_path_factory.mktemp("quality") / name
        return export_model(name, source="package", precisions=sorted({"fp32", precision}), out=out)

    return export


@pytest.fixture(params=FP32_MODELS)
def exact(request: pytest.FixtureRequest, bundles: Callable[[str, Precision], Bundle]) -> Iterator[Encoder]:
    with Encoder(bundles(request.param, "fp32")) as opened:
        yield opened


@pytest.fixture(params=INT8_MODELS)
def both(request: pytest.FixtureRequest, bundles: Callable[[str, Precision], Bundle]) -> Bundle:
    """A bundle in FP32 and INT8."""
    return bundles(request.param, "int8")


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks from 0, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[inverse]


def stsb_spearman(encoder: Encoder) -> float:
    with data("stsb", "stsb-en-test.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1379
    first = encoder.encode([row[0] for row in rows], role="query")
    second = encoder.encode([row[1] for row in rows], role="query")
    cosine = np.einsum("ij,ij->i", first, second).astype(np.float64)
    human = np.array([float(row[2]) for row in rows])
    return 100 * float(np.corrcoef(ranks(cosine), ranks(human))[0, 1])


def test_stsb_spearman_is_the_published_one(exact: Encoder) -> None:
    spearman = stsb_spearman(exact)
    print(f"STS-B Spearman {spearman:.2f}")
    assert spearman == pytest.approx(STSB_SPEARMAN[exact.bundle.manifest.model], abs=0.1)


def test_int8_keeps_stsb(both: Bundle) -> None:
    with Encoder(both, precision="int8") as int8:
        spearman = stsb_spearman(int8)
    print(f"STS-B Spearman in INT8 {spearman:.2f}")
    assert spearman >= STSB_SPEARMAN[both.manifest.model] - STSB_LOSS


def test_int8_is_near_fp32_on_paragraphs_that_calibration_never_saw(both: Bundle) -> None:
    documents = list(read_documents(str(data("squad", "corpus.jsonl"))))[::40]
    texts = [document.as_text(pair=False) for document in documents]
    with Encoder(both, precision="int8") as int8, Encoder(both) as exact:
        figures = compare(int8.encode(texts, role="passage"), exact.encode(texts, role="passage"))
    print(f"cosine to FP32, mean {figures.mean_cosine:.5f}, smallest {figures.min_cosine:.5f}")
    assert figures.mean_cosine >= 0.996
    assert figures.min_cosine >= 0.985


@pytest.mark.slow
def test_scifact_ndcg_is_the_published_one_and_int8_keeps_it(both: Bundle) -> None:
    collection = read_collection(data("scifact"))
    assert (len(collection.documents), len(collection.queries)) == (5183, 300)
    found = compare_retrieval(both, ["int8"], collection)["int8"]
    print(f"SciFact nDCG@10 {found.ndcg_fp32:.2f}, INT8 {found.ndcg:.2f}, recall@10 {found.recall:.4f}")
    assert found.ndcg_fp32 == pytest.approx(SCIFACT_NDCG[both.manifest.model], abs=0.1)
    assert found.ndcg >= found.ndcg_fp32 - SCIFACT_LOSS
