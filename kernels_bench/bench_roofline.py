"""What share of the CPU's measured GEMM rate does an encoder reach in bulk?

    python -m kernels_bench.bench_roofline [--model all-MiniLM-L6-v2] [--json] [--save]

A round's peak is the fastest run of onnxruntime's GEMM alone, on all CPUs. It is run at the encoder's own
sizes and several numbers of tokens, in FP32 and in INT8 (MatMulInteger, and MatMulIntegerToFloat as encoders
run it).

The texts are encoded just after. Their rate is the operations they need over the time it takes. Each product
and sum of linear layers and attention counts as two operations. The time includes tokenising, normalisation,
softmax and pooling, so a share of 1 is out of reach. INT8 graphs compute attention in FP32; it counts as if
it were bytes. Shares and rates are medians over the rounds.

What it does not show: what share the memory's bandwidth would allow single queries; other models.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from kernels_bench import _harness, _plot, _report, _texts
from kernels_bench._graphs import TinyGraph, contrib, node
from paritas import Encoder
from paritas.registry import Precision

# Layers, dim, intermediate size.
SIZES = {"all-mpnet-base-v2": (12, 768, 3072), "all-MiniLM-L6-v2": (6, 384, 1536)}
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
TOKENS = (128, 256, 512, 1024)


def operations(model: str, lengths: Sequence[int]) -> float:
    """Return the operations that texts of these lengths need, padding and everything but GEMMs apart."""
    layers, dim, intermediate = SIZES[model]
    linear = 2 * layers * (4 * dim * dim + 2 * dim * intermediate) * sum(lengths)
    attention = 4 * layers * dim * sum(length * length for length in lengths)
    return float(linear + attention)


def gemms(model: str, precision: str) -> dict[str, tuple[TinyGraph, float]]:
    """Return GEMMs at a model's sizes, each with its operations, by a name with their sizes."""
    _, dim, intermediate = SIZES[model]
    speeds = {}
    for rows in TOKENS:
        for inner, outer in ((dim, dim), (dim, intermediate), (intermediate, dim)):
            work = 2.0 * rows * inner * outer
            for kernel, graph in _products(precision, rows, inner, outer).items():
                speeds[f"{kernel} {rows} x {inner} x {outer}"] = (graph, work)
    return speeds


def _products(precision: str, rows: int, inner: int, outer: int) -> dict[str, TinyGraph]:
    generator = np.random.default_rng(0)
    if precision == "fp32":
        values = generator.standard_normal((rows, inner), np.float32)
        weights = generator.standard_normal((inner, outer), np.float32)
        return {"MatMul": TinyGraph([node("MatMul", "x w")], {"x": values}, {"w": weights})}
    integers = generator.integers(0, 256, (rows, inner), np.uint8)
    constants = {
        "w": generator.integers(-127, 128, (inner, outer), np.int8),
        "zero": np.array(128, np.uint8),
        "step": np.array(0.01, np.float32),
        "steps": np.full(outer, 0.01, np.float32),
    }
    whole = [node("MatMulInteger", "x w zero", "sums"), node("Cast", "sums", to=1)]
    return {
        # The Cast makes it float32, as all outputs here are.
        "MatMulInteger": TinyGraph(whole, {"x": integers}, constants, optimized=False),
        "MatMulIntegerToFloat": TinyGraph(
            [contrib("MatMulIntegerToFloat", "x w step steps zero")], {"x": integers}, constants
        ),
    }


def gemm_peak(model: str, precision: str, rounds: int) -> tuple[float, str]:
    """Return the peak in GOP/s and which GEMM reached it: the fastest of all sizes and rounds."""
    products = gemms(model, precision)
    seconds = _harness.time_calls({name: graph for name, (graph, _) in products.items()}, rounds)
    return max((products[name][1] / min(seconds[name]) / 1e9, name) for name in products)


@click.command()
@_texts.text_options(256)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@_report.output_options
def main(model: str, count: int, rounds: int, as_json: bool, keep: bool) -> None:
    """Hold bulk encoding against the GEMM peak."""
    texts = _texts.paragraphs(count)
    encoders = {precision: Encoder(model, precision=precision) for precision in PRECISIONS}
    model = encoders["fp32"].bundle.manifest.model
    if model not in SIZES:
        raise click.UsageError(f"{model}: unknown sizes; expected {' or '.join(SIZES)}")
    exact, integer = (encoder.encode(texts, role="passage") for encoder in encoders.values())
    if (cosine := float(np.einsum("ij,ij->i", exact, integer).min())) < 0.98:
        raise click.ClickException(f"INT8 and FP32 disagree: cosine {cosine:.4f}")
    work = operations(model, token_lengths(encoders["fp32"], texts))
    # GEMMs of each precision just before its encoder, so that both meet the same machine.
    peaks: dict[str, list[tuple[float, str]]] = {precision: [] for precision in PRECISIONS}
    seconds: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    for precision in _harness.turns(PRECISIONS, rounds):
        peaks[precision].append(gemm_peak(model, precision, 5))
        encoders[precision].encode(texts, role="passage")
        stats = encoders[precision].last_stats
        assert stats is not None
        seconds[precision].append(stats.total_s)
    rows = [
        row(precision, peaks[precision], [work / taken / 1e9 for taken in seconds[precision]])
        for precision in PRECISIONS
    ]
    share = float(str(rows[-1]["share"]))
    result = {
        "question": f"{model}: share of the measured GEMM peak reached on {count} SQuAD paragraphs",
        "model": model,
        "rounds": rounds,
        "rows": rows,
        "figures": [_report.bounded("INT8's share of the INT8 GEMM peak", share, floor=0.55, aim=0.79)],
        **_report.environment(),
    }
    _report.deliver(f"roofline-{model}", result, as_json=as_json, keep=keep, draw=draw)


def row(precision: str, peaks: Sequence[tuple[float, str]], rates: Sequence[float]) -> dict[str, Any]:
    """Return a precision's row, from each round's peak, which GEMM reached it, and the encoder's GOP/s."""
    fastest = [peak for peak, _ in peaks]
    shares = [rate / peak for rate, peak in zip(rates, fastest, strict=True)]
    return {
        "precision": precision,
        "gemm_peak_gops": _harness.significant(statistics.median(fastest)),
        "reached_by": max(peaks)[1],
        "encoder_gops": _harness.significant(statistics.median(rates)),
        "share": round(statistics.median(shares), 3),
        "lowest_share": round(min(shares), 3),
        "highest_share": round(max(shares), 3),
    }


def token_lengths(encoder: Encoder, texts: Sequence[str]) -> list[int]:
    """Return the tokens of each text, cut as the model does."""
    from paritas.engine.tokenize.tokenizer import Tokenizer

    tokenizer = Tokenizer.of(encoder.bundle.directory, encoder.contract)
    return [int(length) for length in tokenizer.encode(list(texts), "passage").lengths]


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw peak and encoder side by side."""
    drawing, (axes,) = _plot.panels(result["question"], height=3)
    bars = {}
    for row in result["rows"]:
        bars[f"GEMM alone, {row['precision']}"] = row["gemm_peak_gops"]
        bars[f"paritas {row['precision']}, {row['share']:.0%}"] = row["encoder_gops"]
    _plot.bars(axes, bars, x="GOP/s")
    _plot.write(drawing, path)


if __name__ == "__main__":
    main()
