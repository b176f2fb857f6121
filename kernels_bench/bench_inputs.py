"""What do dynamic inputs gain INT8, and what do they cost?

    python -m kernels_bench.bench_inputs [--model all-MiniLM-L6-v2] [--json] [--save]

The model is exported twice, with static and with dynamic inputs (docs/int8.md). Texts that no calibration saw
go through both and through FP32: questions and paragraphs of SQuAD, abstracts of SciFact. "score noise" is
the standard deviation of what scores between those abstracts change, "nearest" the share of an abstract's
ten nearest that are FP32's. Speed is in turns within this process, on all its CPUs: paragraphs in bulk, and
questions one by one.

What it does not show: other collections, and what a search loses; `paritas export --judgements` says that.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from kernels_bench import _harness, _plot, _report
from kernels_bench._texts import evaluation_data, paragraphs, questions, spaced
from paritas import Encoder, export_model
from paritas.engine.bundle.manifest import InputSteps

_NEAREST = 10


@click.command()
@click.option("--model", default="all-MiniLM-L6-v2", show_default=True)
@click.option("--count", default=600, show_default=True, help="Texts of each collection, for fidelity.")
@click.option("--bulk", default=128, show_default=True, help="Paragraphs of a round.")
@click.option("--rounds", type=click.IntRange(min=1), default=9, show_default=True)
@_report.output_options
def main(model: str, count: int, bulk: int, rounds: int, as_json: bool, keep: bool) -> None:
    """Compare INT8 with static and with dynamic inputs."""
    with tempfile.TemporaryDirectory() as scratch:
        encoders = load(model, Path(scratch))
        rows = compare(encoders, count, bulk, rounds)
        for encoder in encoders.values():
            encoder.close()
    result = {
        "question": f"{model}: INT8 by how inputs are rounded, against FP32",
        "model": model,
        "rows": rows,
        **_report.environment(),
    }
    _report.deliver(f"inputs-{model}", result, as_json=as_json, keep=keep, draw=draw)


def load(model: str, scratch: Path, *, bodies: bool = True) -> dict[str, Encoder]:
    """Export a model in both forms and load them; with `bodies`, what runs without our kernels as well."""

    def bundle(inputs: InputSteps) -> Any:
        out = scratch / inputs
        return export_model(model, precisions=["fp32", "int8"], int8_inputs=inputs, out=out)

    static, dynamic = bundle("static"), bundle("dynamic")
    ours = Encoder(dynamic, precision="int8")
    encoders = {
        "fp32": Encoder(static),
        "int8, static": Encoder(static, precision="int8"),
        f"int8, dynamic, kernels: {ours.contract.kernels}": ours,
    }
    if bodies:
        encoders["int8, dynamic, kernels: none"] = Encoder(dynamic, precision="int8", kernels=False)
    return encoders


def compare(encoders: dict[str, Encoder], count: int, bulk: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each form."""
    abstracts = spaced(evaluation_data() / "scifact" / "corpus.jsonl", count)
    texts = [*abstracts, *paragraphs(count), *questions(count)]
    vectors = {name: encoder.encode(texts, role="query") for name, encoder in encoders.items()}
    exact = vectors["fp32"]
    many, single = paragraphs(bulk), questions(20)
    in_bulk = timed(encoders, lambda encoder: encoder.encode(many, role="passage"), rounds)
    alone = timed(
        encoders, lambda encoder: [encoder.encode([text], role="query") for text in single], rounds * 5
    )
    return [
        {
            "form": name,
            **fidelity(found, exact, len(abstracts)),
            "bulk_speed_ratio": _harness.speed_ratio(in_bulk[name], in_bulk["fp32"]),
            "single_query_p50_ms": _harness.significant(float(np.median(alone[name])) / len(single) * 1e3),
            "single_speed_ratio": _harness.speed_ratio(alone[name], alone["fp32"]),
        }
        for name, found in vectors.items()
    ]


def timed(
    encoders: dict[str, Encoder], call: Callable[[Encoder], object], rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of each round by form, in turns."""

    def of(encoder: Encoder) -> Callable[[], object]:
        return lambda: call(encoder)

    return _harness.time_calls({name: of(encoder) for name, encoder in encoders.items()}, rounds)


def fidelity(vectors: NDArray[np.float32], exact: NDArray[np.float32], documents: int) -> dict[str, float]:
    """Return cosines to FP32 over all texts, noise and nearest over the first so many."""
    cosines = np.einsum("ij,ij->i", vectors.astype(np.float64), exact)
    ours, theirs = (part[:documents].astype(np.float64) for part in (vectors, exact))
    scores, expected = ours @ ours.T, theirs @ theirs.T
    apart = ~np.eye(documents, dtype=bool)
    return {
        "cosine_mean": round(float(cosines.mean()), 5),
        "cosine_smallest": round(float(cosines.min()), 5),
        "score_noise": _harness.significant(float((scores - expected)[apart].std()), 2),
        "nearest": round(float(np.mean([_shared(scores, expected, row) for row in range(documents)])), 3),
    }


def _shared(scores: NDArray[np.float64], expected: NDArray[np.float64], row: int) -> float:
    found, wanted = (set(np.argsort(-part[row])[1 : _NEAREST + 1]) for part in (scores, expected))
    return len(found & wanted) / _NEAREST


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw speed and noise of each form."""
    drawing, (speed, noise) = _plot.panels(result["question"], 2, height=2.4)
    rows = {row["form"]: row for row in result["rows"]}
    _plot.bars(
        speed, {name: row["bulk_speed_ratio"] for name, row in rows.items()}, x="speed in bulk, of FP32's"
    )
    noises = {name: row["score_noise"] for name, row in rows.items()}
    _plot.bars(noise, noises, x="noise in scores", named=False)
    _plot.write(drawing, path)


if __name__ == "__main__":
    main()
