"""Which of onnxruntime's fused operators are faster on the CPU than the operators they replace?

    python -m kernels_bench.bench_fusions [--json] [--save]

Three parts of a BERT-base layer, FP32, each form a graph of its own, on all CPUs, the forms in turns, their
outputs compared:

- normalisation, (tokens, 768): Add and LayerNormalization against SkipLayerNormalization.
- activation, (tokens, 3072): a bias and GELU as six operators around Erf, as Gelu behind an Add, as BiasGelu,
  and as FastGelu, which is the approximation by tanh.
- attention, 12 heads of 64, texts of one length filling 512 tokens: MatMul, Softmax and MatMul against
  MultiHeadAttention.

onnxruntime may not rewrite the forms of the first two, which would make one of the other. In the third it may
take transposes and scale into the products, as it does within an encoder.

What it does not show: what a fusion saves in loading; INT8, where a part may end in bytes; accelerators.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from kernels_bench import _harness, _plot, _report
from kernels_bench._graphs import TinyGraph, contrib, node

DIM, HEADS, INTERMEDIATE = 768, 12, 3072
SIZES = (16, 64, 128, 256, 512)
TOKENS = 512
# FastGelu is off by up to 5e-4 where x is near 2; the others differ in the last bits.
_TOLERANCES = {"FastGelu": 1e-3}


def normalisation(tokens: int) -> dict[str, TinyGraph]:
    """Return the forms of adding a residual and normalising."""
    values = {"x": _random(tokens, DIM), "skip": _random(tokens, DIM, seed=1)}
    constants = {"gamma": _random(DIM), "beta": _random(DIM, seed=1)}
    plain = [
        node("Add", "x skip", "sum"),
        node("LayerNormalization", "sum gamma beta", axis=-1, epsilon=1e-5),
    ]
    fused = [contrib("SkipLayerNormalization", "x skip gamma beta", epsilon=1e-5)]
    return {
        "Add, LayerNormalization": TinyGraph(plain, values, constants, optimized=False),
        "SkipLayerNormalization": TinyGraph(fused, values, constants, optimized=False),
    }


def activation(tokens: int) -> dict[str, TinyGraph]:
    """Return the forms of adding a bias and taking the GELU."""
    values = {"x": 2 * _random(tokens, INTERMEDIATE)}
    constants = {
        "bias": _random(INTERMEDIATE),
        "root": np.array(2**0.5, np.float32),
        "one": np.array(1, np.float32),
        "half": np.array(0.5, np.float32),
    }
    erf = [
        node("Add", "x bias", "even"),
        node("Div", "even root", "scaled"),
        node("Erf", "scaled", "erf"),
        node("Add", "erf one", "raised"),
        node("Mul", "even raised", "doubled"),
        node("Mul", "doubled half"),
    ]
    forms = {
        "Add, Erf chain": erf,
        "Add, Gelu": [node("Add", "x bias", "even"), contrib("Gelu", "even")],
        "BiasGelu": [contrib("BiasGelu", "x bias")],
        "FastGelu": [contrib("FastGelu", "x bias")],
    }
    return {name: TinyGraph(nodes, values, constants, optimized=False) for name, nodes in forms.items()}


def attention(length: int) -> dict[str, TinyGraph]:
    """Return the forms of attention within texts of one length, together at most `TOKENS` tokens."""
    batch, size = max(1, TOKENS // length), DIM // HEADS
    values = {name: _random(batch, length, DIM, seed=seed) for seed, name in enumerate("qkv")}
    constants: dict[str, NDArray[Any]] = {
        "split": np.array([0, 0, HEADS, size], np.int64),
        "joined": np.array([0, 0, DIM], np.int64),
        "scale": np.array(size**-0.5, np.float32),
    }
    plain = []
    for name, order in (("q", (0, 2, 1, 3)), ("k", (0, 2, 3, 1)), ("v", (0, 2, 1, 3))):
        plain += [node("Reshape", f"{name} split", f"{name}4")]
        plain += [node("Transpose", f"{name}4", f"{name}_heads", perm=order)]
    plain += [
        node("MatMul", "q_heads k_heads", "products"),
        node("Mul", "products scale", "scores"),
        node("Softmax", "scores", "shares", axis=-1),
        node("MatMul", "shares v_heads", "context"),
        node("Transpose", "context", "context4", perm=(0, 2, 1, 3)),
        node("Reshape", "context4 joined"),
    ]
    fused = [contrib("MultiHeadAttention", "q k v", num_heads=HEADS)]
    return {
        "MatMul, Softmax, MatMul": TinyGraph(plain, values, constants),
        "MultiHeadAttention": TinyGraph(fused, values, {}),
    }


def _random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


PARTS = {"normalisation": normalisation, "activation": activation, "attention": attention}
UNITS = {"normalisation": "tokens", "activation": "tokens", "attention": "tokens a text"}


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=101, show_default=True)
@click.option("--size", "sizes", type=int, multiple=True, help=f"Default: {', '.join(map(str, SIZES))}.")
@_report.output_options
def main(rounds: int, sizes: tuple[int, ...], as_json: bool, keep: bool) -> None:
    """Time operators and their fused forms."""
    rows = [row for part in PARTS for size in sizes or SIZES for row in measure(part, size, rounds)]
    result = {
        "question": "operators and their fused forms in FP32 (size: tokens, for attention tokens a text)",
        "rounds": rounds,
        "rows": rows,
        **_report.environment(),
    }
    _report.deliver("fusions", result, as_json=as_json, keep=keep, draw=draw)


def measure(part: str, size: int, rounds: int) -> list[dict[str, Any]]:
    """Compare the forms of a part, time them, and return a row for each; the first is the reference."""
    graphs = PARTS[part](size)
    first, *_ = graphs
    exact = graphs[first].output()
    for name, graph in graphs.items():
        off = float(np.abs(graph.output() - exact).max())
        if off > _TOLERANCES.get(name, 1e-5):
            raise click.ClickException(f"{part} of {size}: {name} and {first} differ by {off:.1e}")
    return [{"part": part, "size": size, **row} for row in _harness.race(graphs, rounds, reference=first)]


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw how many times as fast as the first form, a panel for each part."""
    drawing, axes = _plot.panels("Fused operators: how many times as fast as those they replace", len(PARTS))
    for place, part in zip(axes, PARTS, strict=True):
        series: dict[str, tuple[list[float], list[float]]] = {}
        for row in result["rows"]:
            if row["part"] == part:
                sizes, ratios = series.setdefault(row["form"], ([], []))
                sizes.append(row["size"])
                ratios.append(row["speed_ratio"])
        _plot.lines(place, series, x=f"{part}: {UNITS[part]}", y="times the first form's speed", log="x")
        place.legend()
    _plot.write(drawing, path)


if __name__ == "__main__":
    main()
