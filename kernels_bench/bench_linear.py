"""What does one linear layer cost in FP32, dynamic INT8, static INT8 and static INT8 with overflow columns?

    python -m kernels_bench.bench_linear [--json] [--save]

The layers of a BERT-base or MPNet-base, each a graph of its own in onnxruntime over 1 to 512 tokens, on all
CPUs, the forms in turns:

- fp32: MatMul and Add.
- dynamic: DynamicQuantizeLinear, one scale for all tokens and channels, chosen in each run.
- static: QuantizeLinear with one constant scale that holds everything.
- columns: static with factors and overflow columns, chosen by the quantiser's own code (docs/int8.md).
  Behind a GELU, 3072 inputs wide, the columns are inputs already: the layer before computes them.

INT8 ends in MatMulIntegerToFloat with a scale a column and the bias inside; weights are rounded to nearest.
The inputs have what encoders' have: three channels that one token in 64 drives up to a hundred times as far
as the others go. "error" is what that costs: the root mean square of the difference to FP32 over that of
FP32's outputs.

What it does not show: weights that come from memory, as an encoder's do where the next layer has pushed them
out of the cache; rounding weights together, as the quantiser does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from kernels_bench import _harness, _plot, _report
from kernels_bench._graphs import TinyGraph, contrib, node
from paritas.export.int8.input_quantization import (
    ChannelStatistics,
    InputQuantization,
    choose_input_quantization,
)
from paritas.export.int8.weight_rounding import column_scales

SIZES = ((768, 768), (768, 3072), (3072, 768))
TOKENS = (1, 8, 32, 128, 512)
_GELU_INPUTS = 3072


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer, what goes through it, and what calibration would choose for it."""

    x: NDArray[np.float32]
    """(tokens, inputs)"""
    weights: NDArray[np.float32]
    """(inputs, outputs)"""
    bias: NDArray[np.float32]
    """(outputs,)"""
    quantization: InputQuantization

    @classmethod
    def random(cls, tokens: int, inputs: int, outputs: int) -> Layer:
        """Return a seeded layer whose first channels are outliers."""
        generator = np.random.default_rng(0)
        x: NDArray[np.float32] = np.float32(0.5) * generator.standard_normal(
            (max(TOKENS), inputs), np.float32
        )
        rectified = inputs == _GELU_INPUTS
        if rectified:
            x -= 1
            x /= 1 + np.exp(np.float32(-1.702) * x)  # near enough to a GELU
        x[::64, :3] += np.array([57, 19, 14], np.float32)
        weights = generator.standard_normal((inputs, outputs), np.float32) / np.float32(inputs**0.5)
        quantization = choose_input_quantization(ChannelStatistics.of(x), weights, rectified=rectified)
        assert quantization.columns > 0
        return cls(x[:tokens], weights, generator.standard_normal(outputs, np.float32), quantization)


def fp32(layer: Layer) -> TinyGraph:
    """Return the exact form."""
    nodes = [node("MatMul", "x w", "product"), node("Add", "product b")]
    return TinyGraph(nodes, {"x": layer.x}, {"w": layer.weights, "b": layer.bias})


def dynamic(layer: Layer) -> TinyGraph:
    """Return the form that looks at its inputs in each run."""
    from onnx import helper

    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["main", "scale", "zero"]),
        contrib("MatMulIntegerToFloat", "main w scale steps zero _ b"),
    ]
    return TinyGraph(nodes, {"x": layer.x}, _rounded(layer.weights) | {"b": layer.bias})


def static(layer: Layer) -> TinyGraph:
    """Return the form with one constant scale for everything."""
    low, high = float(layer.x.min()), float(layer.x.max())
    scale = np.float32((high - low) / 255)
    zero = np.uint8(np.rint(-low / scale))
    nodes = [
        node("QuantizeLinear", "x scale zero", "main"),
        contrib("MatMulIntegerToFloat", "main w scale steps zero _ b"),
    ]
    constants: dict[str, NDArray[Any]] = {"scale": np.array(scale), "zero": np.array(zero), "b": layer.bias}
    return TinyGraph(nodes, {"x": layer.x}, _rounded(layer.weights) | constants)


def columns(layer: Layer) -> TinyGraph:
    """Return the quantiser's form."""
    quantization, x = layer.quantization, layer.x
    constants = _rounded(quantization.extend(layer.weights))
    missing = quantization.constant(constants["w"].astype(np.float64) * constants["steps"])
    constants |= {
        "b": (layer.bias + missing).astype(np.float32),
        "scale": np.array(quantization.scale),
        "zero": np.array(quantization.zero_point, np.uint8),
    }
    if quantization.rectified:
        x = np.concatenate([x, np.maximum(x[:, quantization.channels] + quantization.shifts, 0)], axis=1)
        nodes = [node("QuantizeLinear", "x scale zero", "all")]
    else:
        constants |= {
            "factors": quantization.factors,
            "shifts": quantization.shifts,
            "places": np.broadcast_to(quantization.channels, (len(x), quantization.columns)),
        }
        nodes = [
            node("Mul", "x factors", "even"),
            node("QuantizeLinear", "even scale zero", "main"),
            node("GatherElements", "even places", "overflowing", axis=-1),
            node("Add", "overflowing shifts", "shifted"),
            node("QuantizeLinear", "shifted scale zero", "overflow"),
            node("Concat", "main overflow", "all", axis=-1),
        ]
    nodes.append(contrib("MatMulIntegerToFloat", "all w scale steps zero _ b"))
    return TinyGraph(nodes, {"x": x}, constants)


def _rounded(weights: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    steps = column_scales(weights)
    return {"w": np.rint(weights / steps).astype(np.int8), "steps": steps}


FORMS: dict[str, Callable[[Layer], TinyGraph]] = {
    "fp32": fp32,
    "dynamic": dynamic,
    "static": static,
    "columns": columns,
}


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=101, show_default=True)
@click.option("--tokens", "chosen", type=int, multiple=True, help=f"Default: {', '.join(map(str, TOKENS))}.")
@_report.output_options
def main(rounds: int, chosen: tuple[int, ...], as_json: bool, keep: bool) -> None:
    """Time the forms of a linear layer."""
    rows: list[dict[str, Any]] = []
    for inputs, outputs in SIZES:
        for tokens in chosen or TOKENS:
            rows += measure(Layer.random(tokens, inputs, outputs), rounds)
    result = {
        "question": "one linear layer by precision, microseconds",
        "rounds": rounds,
        "rows": rows,
        **_report.environment(),
    }
    _report.deliver("linear", result, as_json=as_json, keep=keep, draw=draw)


def measure(layer: Layer, rounds: int) -> list[dict[str, Any]]:
    """Compare the forms of a layer, time them, and return a row for each."""
    graphs = {name: make(layer) for name, make in FORMS.items()}
    exact = graphs["fp32"].output()
    errors = {name: relative_error(graph.output(), exact) for name, graph in graphs.items()}
    if errors["columns"] > 0.03 or errors["dynamic"] > 0.5:
        raise click.ClickException(f"forms of {layer.weights.shape} disagree: errors {errors}")
    shape = f"{layer.weights.shape[0]} x {layer.weights.shape[1]}"
    return [
        {
            "layer": shape,
            "tokens": len(layer.x),
            **row,
            "error": _harness.significant(errors[row["form"]], 2),
        }
        for row in _harness.race(graphs, rounds, reference="fp32")
    ]


def relative_error(values: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    """Return the root mean square of the difference over that of the exact values."""
    return float(np.sqrt(np.square(values - exact).mean() / np.square(exact).mean()))


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw how many times as fast as FP32, a panel for each layer."""
    names = dict.fromkeys(row["layer"] for row in result["rows"])
    drawing, axes = _plot.panels("One linear layer: how many times as fast as FP32", len(names))
    for place, layer in zip(axes, names, strict=True):
        series = {}
        for form in FORMS:
            rows = [row for row in result["rows"] if (row["layer"], row["form"]) == (layer, form)]
            series[form] = ([row["tokens"] for row in rows], [row["speed_ratio"] for row in rows])
        _plot.lines(place, series, x=f"tokens, {layer}", y="times FP32's speed", log="x")
    _plot.legend(drawing, axes[0])
    _plot.write(drawing, path)


if __name__ == "__main__":
    main()
