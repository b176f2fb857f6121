"""How long do single queries wait beside a bulk call?

    python -m kernels_bench.bench_fairness [--model all-MiniLM-L6-v2] [--queries 1000] [--save]

The bulk call's texts are cut to the model's greatest length, so that every batch is as long as batches get;
meanwhile one question is encoded after the other. A query waits for the batches that run and for one batch of
the bulk call. So the slowest is held against a batch's time: the median of those meanwhile.

What it does not show: several bulk calls at once, of which each may run one batch before a query.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from kernels_bench import _harness, _plot, _report, _texts
from paritas import Encoder
from paritas.engine.runtime.session import Session
from paritas.engine.schedule.batching import Batch

_TEXTS = 256
# Of so many paragraphs: more tokens than any model takes.
_JOINED = 8
# Times that they are encoded, unless the queries end before.
_ENDLESS = 1000


@click.command()
@_texts.model_option
@click.option("--queries", type=click.IntRange(min=10), default=1000, show_default=True)
@_report.output_options
def main(model: str, queries: int, as_json: bool, keep: bool) -> None:
    """Measure queries beside bulk."""
    with Encoder(model, precision="int8") as encoder:
        name = encoder.bundle.manifest.model
        questions = _texts.questions(queries)
        found = _texts.paragraphs(_TEXTS * _JOINED)
        paragraphs = [" ".join(found[place::_TEXTS]) for place in range(_TEXTS)]
        compare(encoder, questions[:100], paragraphs)
        alone = [query_s(encoder, text) for text in questions]
        beside, batches = beside_bulk(encoder, questions, paragraphs)
    batch = float(np.median(batches))
    rows = [
        row("queries alone", alone, batch),
        row("queries beside bulk", beside, batch),
        row("batches of the bulk call", batches, batch),
    ]
    result = {
        "question": f"{name}: {len(questions)} queries, one after the other, beside a bulk call",
        "model": name,
        "rows": rows,
        "figures": [
            _report.bounded(
                "the slowest query beside bulk, in batches", rows[1]["slowest_in_batches"], floor=3, aim=2
            )
        ],
        **_report.environment(),
    }
    _report.deliver(f"fairness-{name}", result, as_json=as_json, keep=keep, draw=draw)


def compare(encoder: Encoder, questions: list[str], paragraphs: list[str]) -> None:
    """Warm up, and compare what comes beside bulk with what comes alone."""
    alone = np.vstack([encoder.encode([text], role="query") for text in questions])
    bulk = encoder.submit(paragraphs, role="passage")
    beside = np.vstack([encoder.encode([text], role="query") for text in questions])
    bulk.result()
    if not np.array_equal(alone, beside):
        raise click.ClickException("queries have other vectors beside bulk than alone")


def query_s(encoder: Encoder, text: str) -> float:
    """Return the seconds of one query."""
    begun = time.perf_counter()
    encoder.encode([text], role="query")
    return time.perf_counter() - begun


def beside_bulk(
    encoder: Encoder, questions: list[str], paragraphs: list[str]
) -> tuple[list[float], list[float]]:
    """Return the seconds of each query beside bulk, and of each batch of bulk meanwhile."""
    seconds: list[float] = []
    stages, scheduler = encoder.stages, encoder.scheduler()
    window = encoder.call(paragraphs, "passage", None).window(slice(None))

    def run(session: Session, batch: Batch) -> None:
        begun = time.perf_counter()
        stages.vectors(window, session, batch)
        seconds.append(time.perf_counter() - begun)

    bulk = scheduler.submit(list(stages.plan(window)) * _ENDLESS, run, lambda: None)
    try:
        while len(seconds) < 2 * encoder.settings.workers:
            query_s(encoder, questions[0])
        return [query_s(encoder, text) for text in questions], seconds
    finally:
        bulk.cancel()


def row(what: str, seconds: list[float], batch_s: float) -> dict[str, Any]:
    """Return a row: percentiles in milliseconds, and the slowest in batches."""
    p50, p95 = np.quantile(seconds, (0.5, 0.95))
    return {
        "what": what,
        "p50_ms": _harness.significant(p50 * 1e3),
        "p95_ms": _harness.significant(p95 * 1e3),
        "slowest_ms": _harness.significant(max(seconds) * 1e3),
        "slowest_in_batches": _harness.significant(max(seconds) / batch_s, 3),
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the slowest of each."""
    drawing, (axes,) = _plot.panels(result["question"], height=2.0)
    _plot.bars(axes, {row["what"]: row["slowest_ms"] for row in result["rows"]}, x="slowest, ms")
    _plot.write(drawing, path)


if __name__ == "__main__":
    main()
