"""What do paritas's own operators reach, beside onnxruntime's and beside the most that a core can do?

    python -m kernels_bench.bench_operators [--json] [--save]

One operator at a time over 1 to 512 tokens, in one thread, the forms and a tight loop of the same products in
turns (`peak.c`, which takes a C compiler). The operators are all-mpnet-base-v2's: linear layers, a layer with
GELU, one with a residual and LayerNorm, and attention of 12 heads of 64 channels over one text, without and
with a bias by distance.

- ours: the operator of paritas's library.
- static: what static INT8 has in its place: QuantizeLinear, MatMulIntegerToFloat, and what follows.
- fp32: MatMul and Add, and what follows; for attention MultiHeadAttention, or the products one by one.

"share" is of the peak of the products that our kernel for this CPU makes: bytes or 16 bits, and 16 bits for
attention. A form's time includes rounding its inputs and all that follows the product. AMX's loop multiplies
the same tiles again and again: with tiles that are loaded for each product, a core reaches half of it.

What it does not show: weights that come from memory, as an encoder's do where the next layer has pushed them
out of the cache; factors and overflow columns, which static INT8 has on top (`bench_linear`).
"""

from __future__ import annotations

import ctypes
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from kernels_bench import _harness, _plot, _report
from kernels_bench._graphs import TinyGraph, contrib, node
from paritas.engine.runtime.kernels import available_kernels
from paritas.export.graph.operators import (
    ATTENTION,
    LINEAR_GELU_INT8,
    LINEAR_INT8,
    LINEAR_NORM_INT8,
    RELATIVE_ATTENTION,
    attention,
    linear_int8,
    pack,
    with_more,
)
from paritas.export.int8.weight_rounding import column_scales

TOKENS = (1, 8, 14, 32, 128, 512)
HEADS, WIDTH = 12, 64
# By the operator: its name on the page, inputs and outputs.
LINEAR = (
    (LINEAR_INT8, 768, 2304),
    (LINEAR_INT8, 768, 768),
    (LINEAR_GELU_INT8, 768, 3072),
    (LINEAR_NORM_INT8, 3072, 768),
)
# By the kernels: which loops of products, of layers and of attention, and how many a round of each makes.
_PEAKS = {
    "amx_int8": (("products_of_tiles", 4 * 16**3 * 4), ("products_of_pairs", 24 * 32)),
    "avx512_vnni": (("products_of_bytes", 24 * 64), ("products_of_pairs", 24 * 32)),
    "avx2": (("products_of_16_bits", 12 * 16), ("products_of_16_bits", 12 * 16)),
}
_ROUNDS = 20_000


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=51, show_default=True)
@click.option("--tokens", "chosen", type=int, multiple=True, help=f"Default: {', '.join(map(str, TOKENS))}.")
@_report.output_options
def main(rounds: int, chosen: tuple[int, ...], as_json: bool, keep: bool) -> None:
    """Time the operators."""
    kernels = available_kernels()
    if kernels.name not in _PEAKS:
        raise click.ClickException(f"no kernels of ours run here: {kernels.reason}")
    of_layers, of_attention = _PEAKS[kernels.name]
    with tempfile.TemporaryDirectory() as scratch:
        loops = compiled(Path(scratch))
        rows: list[dict[str, Any]] = []
        for tokens in chosen or TOKENS:
            for op_type, inputs, outputs in LINEAR:
                forms = linear_forms(op_type, tokens, inputs, outputs)
                products = tokens * inputs * outputs
                name = f"{op_type} {inputs} x {outputs}"
                rows += measure(name, tokens, forms, products, loops, of_layers, rounds)
            for op_type in (ATTENTION, RELATIVE_ATTENTION):
                forms = attention_forms(op_type, tokens)
                products = 2 * HEADS * WIDTH * tokens**2
                rows += measure(op_type, tokens, forms, products, loops, of_attention, rounds)
    result = {
        "question": f"operators in one thread, kernels: {kernels.name}",
        "rounds": rounds,
        "rows": rows,
        **_report.environment(),
    }
    _report.deliver("operators", result, as_json=as_json, keep=keep, draw=draw)


def compiled(scratch: Path) -> ctypes.CDLL:
    """Compile the loops."""
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        raise click.ClickException(f"no C compiler, {compiler}; it is needed for the peak")
    library = scratch / "peak.so"
    source = Path(__file__).with_name("peak.c")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    return ctypes.CDLL(str(library))


def measure(
    name: str,
    tokens: int,
    forms: Mapping[str, TinyGraph],
    products: int,
    loops: ctypes.CDLL,
    peak: tuple[str, int],
    rounds: int,
) -> list[dict[str, Any]]:
    """Compare the forms of an operator, time them and a loop in turns, and return a row for each form."""
    exact = forms["fp32"].output()
    for form, graph in forms.items():
        error = np.sqrt(np.square(graph.output() - exact).mean() / np.square(exact).mean())
        if error > 0.05:
            raise click.ClickException(f"{name}: {form} is off by {error:.1%}")
    loop, at_once = peak
    function = getattr(loops, loop)
    calls: dict[str, Callable[[], object]] = dict(forms)
    seconds = _harness.time_calls({**calls, "peak": lambda: function(ctypes.c_long(_ROUNDS))}, rounds)
    most = at_once * _ROUNDS / np.array(seconds.pop("peak"))
    return [
        {
            "operator": name,
            "tokens": tokens,
            "form": form,
            "p50_us": _harness.significant(float(np.median(each)) * 1e6),
            "speed_ratio": _harness.speed_ratio(each, seconds["fp32"]),
            "share": round(float(np.median(products / np.array(each) / most)), 2),
        }
        for form, each in seconds.items()
    ]


def linear_forms(op_type: str, tokens: int, inputs: int, outputs: int) -> dict[str, TinyGraph]:
    """Return a linear layer, and what follows it in an encoder, in each form."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((tokens, inputs), np.float32)
    exact = generator.standard_normal((inputs, outputs), np.float32) / np.float32(inputs**0.5)
    scales = column_scales(exact)
    weights = np.rint(exact / scales).astype(np.int8)
    layer: dict[str, NDArray[Any]] = {
        "weights": pack(weights),
        "sums": weights.sum(axis=0, dtype=np.int32),
        "scales": scales,
        "bias": generator.standard_normal(outputs, np.float32),
    }
    given: dict[str, NDArray[Any]] = {"x": x}
    norm: dict[str, NDArray[Any]] = {}
    outliers = {"places": np.empty((0, 2), np.int32), "apart": np.empty(0, np.float32)}
    alone = linear_int8(["x", *layer, *outliers], "y", weights.shape, 0)
    following = {
        LINEAR_INT8: [],
        LINEAR_GELU_INT8: [node("Gelu", "sum")],
        LINEAR_NORM_INT8: [
            node("Add", "sum residual", "both"),
            node("LayerNormalization", "both gamma beta", epsilon=1e-5),
        ],
    }[op_type]
    if op_type == LINEAR_NORM_INT8:
        from onnx import helper

        given["residual"] = generator.standard_normal((tokens, outputs), np.float32)
        norm = {"gamma": np.ones(outputs, np.float32), "beta": np.zeros(outputs, np.float32)}
        ours = with_more(alone, op_type, ["residual", *norm], "y")
        ours.attribute.append(helper.make_attribute("epsilon", 1e-5))
    else:
        ours = with_more(alone, op_type, [], "y")
    last = "sum" if following else "y"
    low, high = float(x.min()), float(x.max())
    step = np.float32((high - low) / 255)
    static = {
        "w": weights,
        "steps": scales,
        "b": layer["bias"],
        "scale": np.array(step),
        "zero": np.array(np.rint(-low / step), np.uint8),
    }
    quantized = [
        node("QuantizeLinear", "x scale zero", "integers"),
        contrib("MatMulIntegerToFloat", "integers w scale steps zero _ b", last),
    ]
    fp32 = [node("MatMul", "x w", "product"), node("Add", "product b", last)]
    dequantized = {"w": (weights * scales).astype(np.float32), "b": layer["bias"]}
    return {
        "fp32": TinyGraph([*fp32, *following], given, dequantized | norm, threads=1),
        "static": TinyGraph([*quantized, *following], given, static | norm, threads=1),
        "ours": TinyGraph([ours], given, layer | norm | outliers, threads=1),
    }


def attention_forms(op_type: str, tokens: int) -> dict[str, TinyGraph]:
    """Return attention over one text in each form."""
    dim = HEADS * WIDTH
    generator = np.random.default_rng(0)
    given: dict[str, NDArray[Any]] = {"x": generator.standard_normal((1, tokens, 3 * dim), np.float32) / 4}
    if op_type == RELATIVE_ATTENTION:
        given["added"] = generator.standard_normal((HEADS, 2 * tokens - 1), np.float32)
    ours = attention(op_type, list(given), "y", HEADS)
    # What the operator's body is made of, but for Split: elsewhere the three come from layers of their own.
    parts = {
        name: np.ascontiguousarray(part)
        for name, part in zip("qkv", np.split(given["x"], 3, axis=-1), strict=True)
    }
    constants: dict[str, NDArray[Any]] = {}
    if op_type == RELATIVE_ATTENTION:
        # Once for all layers, so it has no part in the time.
        place = np.arange(tokens)
        parts["added"] = given["added"][:, tokens - 1 + place - place[:, None]]
        constants = {"apart": np.array([0, 0, HEADS, WIDTH]), "joined": np.array([0, 0, dim])}
        nodes = []
        for name in "qkv":
            nodes.append(node("Reshape", f"{name} apart", f"{name}_split"))
            nodes.append(node("Transpose", f"{name}_split", f"{name}_heads", perm=[0, 2, 1, 3]))
        nodes += [
            contrib("FusedMatMul", "q_heads k_heads", "scores", transB=1),
            node("Add", "scores added", "biased"),
            node("Softmax", "biased", "shares", axis=-1),
            node("MatMul", "shares v_heads", "context"),
            node("Transpose", "context", "rows", perm=[0, 2, 1, 3]),
            node("Reshape", "rows joined"),
        ]
    else:
        nodes = [contrib("MultiHeadAttention", "q k v", num_heads=HEADS, scale=1.0)]
    return {
        "fp32": TinyGraph(nodes, parts, constants, threads=1),
        "ours": TinyGraph([ours], given, {}, threads=1),
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw shares of the peak by tokens, a panel for each operator."""
    names = dict.fromkeys(row["operator"] for row in result["rows"])
    drawing, axes = _plot.panels("Share of the most that a core can do", len(names))
    for place, name in zip(axes, names, strict=True):
        rows = [row for row in result["rows"] if row["operator"] == name]
        series = {}
        for form in dict.fromkeys(
            row["form"] for row in rows if row["form"] != "fp32" or "Attention" in name
        ):
            points = [row for row in rows if row["form"] == form]
            series[form] = ([row["tokens"] for row in points], [row["share"] for row in points])
        _plot.lines(place, series, x=f"tokens, {name}", y="share of peak", log="x")
    _plot.legend(drawing, axes[0])
    _plot.write(drawing, path)


if __name__ == "__main__":
    main()
