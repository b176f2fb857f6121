"""What does a search lose by INT8?

    python -m kernels_bench.bench_search [--model all-MiniLM-L6-v2] [--json] [--save]

The model is exported twice, with static and with dynamic inputs (docs/int8.md). All questions, paragraphs and
abstracts of SQuAD and SciFact go through both and through FP32; calibration saw none of them. "noise" and
"nearest" are those of bench_inputs, over all documents. "loss" is FP32's nDCG@10 less the form's, in points
of 100, with the standard error of its mean over the queries: a difference of less than two is none.

What it does not show: speed (bench_inputs), and other collections. `paritas export --judgements` takes yours.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from kernels_bench import _plot, _report
from kernels_bench._texts import evaluation_data
from kernels_bench.bench_inputs import fidelity, load
from paritas import Encoder
from paritas.export.certificate.retrieval import (
    JudgedCollection,
    encode_collection,
    rank,
    read_collection,
    score_queries,
)

_COLLECTIONS = ("squad", "scifact")


@click.command()
@click.option("--model", default="all-MiniLM-L6-v2", show_default=True)
@_report.output_options
def main(model: str, as_json: bool, keep: bool) -> None:
    """Compare what INT8's forms lose of FP32's search."""
    collections = [read_collection(evaluation_data() / name) for name in _COLLECTIONS]
    with tempfile.TemporaryDirectory() as scratch:
        encoders = load(model, Path(scratch), bodies=False)
        rows = [row for collection in collections for row in compare(encoders, collection)]
        for encoder in encoders.values():
            encoder.close()
    result = {
        "question": f"{model}: what a search loses by INT8",
        "model": model,
        "rows": rows,
        **_report.environment(),
    }
    _report.deliver(f"search-{model}", result, as_json=as_json, keep=keep, draw=draw)


def compare(encoders: dict[str, Encoder], collection: JudgedCollection) -> list[dict[str, Any]]:
    """Return a row for each form but FP32, which is the first."""
    (_, first), *others = encoders.items()
    queries, documents = encode_collection(first, collection)
    exact = np.concatenate([documents, queries])
    expected = score_queries(rank(queries, documents), collection)
    rows = []
    for form, encoder in others:
        queries, documents = encode_collection(encoder, collection)
        lost = expected - score_queries(rank(queries, documents), collection)
        rows.append(
            {
                "collection": collection.name,
                "form": form,
                "texts": len(exact),
                **fidelity(np.concatenate([documents, queries]), exact, len(documents)),
                "ndcg_of_fp32": round(float(expected.mean()), 2),
                "loss": round(float(lost.mean()), 2),
                "standard_error": round(float(lost.std(ddof=1) / len(lost) ** 0.5), 2),
            }
        )
    return rows


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the noise of each form, and what it loses."""
    drawing, (noise, loss) = _plot.panels(result["question"], 2, height=2.4)
    rows = {f"{row['collection']}: {row['form']}": row for row in result["rows"]}
    _plot.bars(noise, {name: row["score_noise"] for name, row in rows.items()}, x="noise in scores")
    losses = {name: row["loss"] for name, row in rows.items()}
    _plot.bars(loss, losses, x="points of nDCG@10 lost", named=False)
    _plot.write(drawing, path)


if __name__ == "__main__":
    main()
