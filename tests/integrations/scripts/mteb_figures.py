"""mteb's known figures, from the data that tests/evaluation/README.md describes."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import mteb
from datasets import Dataset
from harness import Given, run
from mteb_checks import result_of, retrieval

from paritas.documents import read_documents
from paritas.integrations.mteb import ParitasEncoder

DATA = Path(os.environ["PARITAS_EVAL_DATA"])


def the_known_figures(given: Given) -> None:
    """STS-B 82.0 and SciFact 64.5, as the benchmark lists them."""
    model = ParitasEncoder(given.minilm)
    with (DATA / "stsb" / "stsb-en-test.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    task = mteb.get_task("STSBenchmark")
    columns = {"sentence1": [row[0] for row in rows], "sentence2": [row[1] for row in rows]}
    columns["score"] = [float(row[2]) for row in rows]  # type: ignore[misc]
    task.dataset, task.data_loaded = {"test": Dataset.from_dict(columns)}, True
    spearman = result_of(model, task)["cosine_spearman"]
    print(f"STS-B {spearman:.4f}")
    assert abs(spearman - 0.820) < 0.001

    corpus = [
        {"id": one.id, "title": one.title, "text": one.text}
        for one in read_documents(DATA / "scifact" / "corpus.jsonl")
    ]
    lines = (DATA / "scifact" / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]
    qrels: dict[str, dict[str, int]] = {}
    for query, document, gain in (line.split("\t") for line in lines):
        qrels.setdefault(query, {})[document] = int(gain)
    queries = {
        one.id: one.text for one in read_documents(DATA / "scifact" / "queries.jsonl") if one.id in qrels
    }
    ndcg = result_of(model, retrieval(corpus, queries, qrels))["ndcg_at_10"]
    print(f"SciFact {ndcg:.4f}")
    assert abs(ndcg - 0.645) < 0.001


if __name__ == "__main__":
    run(the_known_figures)
