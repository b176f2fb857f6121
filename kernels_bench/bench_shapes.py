"""How do tokens/s depend on the token budget, the length of the texts and the number of threads?

    python -m kernels_bench.bench_shapes [--model all-MiniLM-L6-v2] [--json] [--save]

Three sweeps in FP32 and INT8, each with the others at their defaults: token budgets over SQuAD paragraphs,
texts of one length (common words: speed does not depend on them), and threads over the paragraphs. The
settings of a sweep take turns. A text of 512 tokens is longer than most models take, so the bundle is read
with the role's max_length at 512, which its positions allow. All vectors of a sweep must agree.

What it does not show: several callers at once; padded batches; what a mixture of lengths costs (bench_plan).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from kernels_bench import _bundles, _harness, _plot, _report, _texts
from paritas import Encoder
from paritas.engine.runtime.cpus import available_cpus
from paritas.registry import Precision

BUDGETS = (64, 128, 256, 512, 1024, 2048)
LENGTHS = (16, 32, 64, 128, 256, 512)
WORDS = ("the", "of", "and", "in", "is", "a", "why", "what")
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


def with_length(bundle: Path, length: int, directory: Path) -> Path:
    """Return a bundle of the same files whose roles take texts of `length` tokens."""

    def change(contract: dict[str, Any]) -> None:
        for role in contract["roles"].values():
            role["max_length"] = length

    return _bundles.with_contract(bundle, directory, change)


def texts_of(tokens: int, count: int) -> list[str]:
    """Return texts of so many tokens each, the two special ones among them; no two are the same.

    Each word is one token, and the first ones tell the texts apart: repeated texts would be encoded once.
    """
    base = len(WORDS)
    digits = [[place // base**power % base for power in range(tokens - 2)] for place in range(count)]
    return [" ".join(WORDS[digit] for digit in each) for each in digits]


@click.command()
@_texts.text_options(64)
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    help="Tokens of each pass over one length.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True)
@_report.output_options
def main(model: str, count: int, tokens: int, rounds: int, as_json: bool, keep: bool) -> None:
    """Measure tokens/s by budget, length and threads."""
    paragraphs = _texts.paragraphs(count)
    same = {length: texts_of(length, max(1, tokens // length)) for length in LENGTHS}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        with Encoder(model) as loaded:
            bundle = loaded.bundle
        longer = with_length(bundle.directory, max(LENGTHS), Path(scratch, "bundle"))
        for precision in PRECISIONS:
            budgets = {
                budget: (Encoder(longer, precision=precision, max_batch_tokens=budget), paragraphs)
                for budget in BUDGETS
            }
            rows += sweep("token budget", precision, budgets, rounds)
            one = Encoder(longer, precision=precision)
            rows += sweep("length", precision, {length: (one, same[length]) for length in LENGTHS}, rounds)
            threads = {
                number: (Encoder(longer, precision=precision, threads=number), paragraphs)
                for number in range(1, available_cpus() + 1)
            }
            rows += sweep("threads", precision, threads, rounds)
    by_length = [
        row["tokens_per_s"] for row in rows if (row["sweep"], row["precision"]) == ("length", "int8")
    ]
    result = {
        "question": f"{bundle.manifest.model}: tokens/s by token budget, length and threads",
        "model": bundle.manifest.model,
        "texts": count,
        "rounds": rounds,
        "rows": rows,
        "figures": [
            _report.bounded(
                f"INT8 at {LENGTHS[0]} to {LENGTHS[-1]} tokens a text, the slowest over the fastest",
                min(by_length) / max(by_length),
                floor=0.6,
                aim=0.75,
            )
        ],
        **_report.environment(),
    }
    _report.deliver(f"shapes-{result['model']}", result, as_json=as_json, keep=keep, draw=draw)


def sweep(
    name: str, precision: Precision, settings: dict[int, tuple[Encoder, list[str]]], rounds: int
) -> list[dict[str, Any]]:
    """Return a row for each setting: an encoder and the texts it encodes.

    Raises:
        click.ClickException: two settings give the same texts other vectors.
    """
    tokens: dict[int, int] = {}
    seen: dict[str, Any] = {}
    for value, (encoder, texts) in settings.items():
        vectors = encoder.encode(texts, role="passage")
        assert encoder.last_stats is not None
        tokens[value] = encoder.last_stats.tokens
        first = seen.setdefault(texts[0], vectors)
        if not np.allclose(first, vectors, atol=1e-6):
            raise click.ClickException(
                f"{name} {value}, {precision}: other vectors than with the first setting"
            )

    def call(value: int) -> Any:
        encoder, texts = settings[value]
        return lambda: encoder.encode(texts, role="passage")

    seconds = _harness.time_calls({str(value): call(value) for value in settings}, rounds)
    rows = []
    for value in settings:
        rates = [tokens[value] / second for second in seconds[str(value)]]
        spread = _harness.spread(rates)
        rows.append(
            {
                "precision": precision,
                "sweep": name,
                "value": value,
                "tokens_per_s": spread["p50"],
                "p20": spread["p20"],
                "p80": spread["p80"],
            }
        )
    return rows


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the three sweeps side by side."""
    drawing, axes = _plot.panels(result["question"], 3)
    for place, name in zip(axes, ("token budget", "length", "threads"), strict=True):
        series: dict[str, tuple[list[float], list[float]]] = {}
        for precision in PRECISIONS:
            rows = [row for row in result["rows"] if (row["sweep"], row["precision"]) == (name, precision)]
            series[precision] = ([row["value"] for row in rows], [row["tokens_per_s"] for row in rows])
        labels = {"length": "tokens a text"}
        _plot.lines(
            place, series, x=labels.get(name, name), y="tokens/s", log="" if name == "threads" else "x"
        )
    _plot.legend(drawing, axes[0])
    _plot.write(drawing, path)


if __name__ == "__main__":
    main()
