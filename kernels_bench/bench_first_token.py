"""With CLS pooling, what does a last layer gain that computes the first token only?

    python -m kernels_bench.bench_first_token [--json] [--save]

A full-size SimLM with seeded random weights (speed does not depend on them) is exported twice: as it is, and
as if every token were pooled, which computes the last layer whole; the second is then read as a CLS model, so
that both give the same vectors, which is checked first. SQuAD's paragraphs with their titles, cut to 144
tokens, and its questions go through both in turns, and one question at a time.

What it does not show: models of fewer layers, which gain more; mean pooling, which needs every token.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from msgspec.structs import replace

from kernels_bench import _bundles, _harness, _plot, _report, _texts
from paritas import Encoder, export_model
from paritas.engine.tokenize.tokenizer import Text
from paritas.registry import Precision, Registry, load_registry

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
FIRST, EVERY = "the first token", "every token"


@click.command()
@click.option(
    "--texts", "count", type=click.IntRange(min=1), default=128, show_default=True, help="Of a kind."
)
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True)
@_report.output_options
def main(count: int, rounds: int, as_json: bool, keep: bool) -> None:
    """Compare last layers."""
    work: dict[str, tuple[str, Sequence[Sequence[Text]]]] = {
        "passages, in bulk": ("passage", [_texts.titled_paragraphs(count)]),
        "queries, in bulk": ("query", [_texts.questions(count)]),
        "queries, one by one": ("query", [[query] for query in _texts.questions(count)]),
    }
    with tempfile.TemporaryDirectory() as scratch:
        bundles = export(Path(scratch))
        rows = [
            row
            for precision in PRECISIONS
            for row in measure(
                {name: Encoder(at, precision=precision) for name, at in bundles.items()}, work, rounds
            )
        ]
    gain = next(
        row["gain"]
        for row in rows
        if (row["precision"], row["texts"], row["last_layer"]) == ("int8", "passages, in bulk", FIRST)
    )
    result = {
        "question": "CLS pooling: a last layer for the first token only, on a BERT-base",
        "model": _bundles.SIMLM,
        "count": count,
        "rounds": rounds,
        "rows": rows,
        "figures": [
            _report.bounded(
                "CLS pooling: gain of a last layer that computes one token, INT8 in bulk",
                gain,
                floor=1.06,
                aim=1.08,
            )
        ],
        **_report.environment(),
    }
    _report.deliver("first_token", result, as_json=as_json, keep=keep, draw=draw)


def export(scratch: Path) -> dict[str, Path]:
    """Export the model in both forms; return their bundles, which hold the same contract."""
    _bundles.write_simlm(scratch / "checkpoint")
    model = load_registry()[_bundles.SIMLM]

    def bundle(directory: str, registry: Registry) -> Path:
        return export_model(
            _bundles.SIMLM,
            source=str(scratch / "checkpoint"),
            precisions=PRECISIONS,
            out=scratch / directory,
            registry=registry,
        ).directory

    first = bundle("first", Registry({_bundles.SIMLM: model}))
    whole = bundle("whole", Registry({_bundles.SIMLM: replace(model, pooling="mean")}))
    return {
        EVERY: _bundles.with_contract(
            whole, scratch / "every", lambda contract: contract.update(pooling="cls")
        ),
        FIRST: first,
    }


def measure(
    encoders: Mapping[str, Encoder],
    work: Mapping[str, tuple[str, Sequence[Sequence[Text]]]],
    rounds: int,
) -> list[dict[str, Any]]:
    """Return a row for each form and kind of texts.

    Args:
        encoders: by form, `EVERY` first, of one precision.
        work: by kind, the role and the calls' texts.
        rounds: of the race.

    Raises:
        click.ClickException: the forms give other vectors.
    """
    rows = []
    for kind, (role, calls) in work.items():
        runs: dict[str, Callable[[], object]] = {
            name: partial(encode, encoder, role, calls) for name, encoder in encoders.items()
        }
        vectors = [encode(encoder, role, calls) for encoder in encoders.values()]
        if (off := float(np.abs(vectors[0] - vectors[1]).max())) > 1e-5:
            raise click.ClickException(f"the two forms' vectors differ by {off:.1e}, {kind}")
        seconds = _harness.time_calls(runs, rounds)
        rows += [
            {
                "precision": encoder.precision,
                "texts": kind,
                "last_layer": name,
                "texts_per_s": _harness.significant(len(vectors[0]) / statistics.median(seconds[name])),
                "gain": _harness.speed_ratio(seconds[name], seconds[EVERY], digits=3),
            }
            for name, encoder in encoders.items()
        ]
    return rows


def encode(encoder: Encoder, role: str, calls: Sequence[Sequence[Text]]) -> Any:
    """Return the vectors of several calls, float32, (texts, dim)."""
    return np.concatenate([encoder.encode(texts, role=role) for texts in calls])


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the gain by kind of texts."""
    drawing, (axes,) = _plot.panels(result["question"], height=2.8)
    gains = [row for row in result["rows"] if row["last_layer"] == FIRST]
    _plot.bars(
        axes,
        {f"{row['texts']}, {row['precision']}": row["gain"] for row in gains},
        x="times as fast as a last layer for every token",
    )
    _plot.write(drawing, path)


if __name__ == "__main__":
    main()
