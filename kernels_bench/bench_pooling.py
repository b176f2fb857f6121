"""What do pooling and normalisation cost beside the NumPy that one would write first?

    python -m kernels_bench.bench_pooling [--json] [--save]

`mean_pool` and `normalize` of the engine and their usual forms, over batches of 512 tokens, in turns within
one process, outputs compared first:

- mask times vectors: a (batch, seq, dim) temporary, in float64, because float32 times int64 is float64.
- mask cast first: the same temporary in float32.
- np.linalg.norm: a new array, where the engine writes into the one it has.

What it does not show: their share of an encoder's time, which `EncodeStats.pool_s` tells; padded batches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from kernels_bench import _harness, _plot, _report
from paritas.engine.pool.pooling import mean_pool, normalize

TOKENS = 512
LENGTHS = (16, 32, 64, 128, 256, 512)

Array = NDArray[Any]


def mask_times_vectors(hidden: Array, mask: Array) -> Array:
    """Return the mean as the model cards' code has it, in float64 without meaning to."""
    wide = mask[:, :, None]
    return np.asarray((hidden * wide).sum(axis=1) / np.clip(wide.sum(axis=1), 1e-9, None))


def mask_cast_first(hidden: Array, mask: Array) -> Array:
    """Return the mean in float32, through a temporary as large as the batch."""
    wide = mask.astype(np.float32)[:, :, None]
    return np.asarray((hidden * wide).sum(axis=1) / np.maximum(wide.sum(axis=1), np.float32(1e-9)))


def by_linalg(vectors: Array) -> Array:
    """Return the rows at unit length."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=201, show_default=True)
@click.option("--dim", default=768, show_default=True)
@_report.output_options
def main(rounds: int, dim: int, as_json: bool, keep: bool) -> None:
    """Time pooling and normalisation."""
    rows: list[dict[str, Any]] = []
    for length in LENGTHS:
        generator = np.random.default_rng(length)
        shape = (TOKENS // length, length)
        hidden = generator.standard_normal((*shape, dim), np.float32)
        mask = np.ones(shape, np.int64)
        mean: dict[str, Callable[[], Array]] = {
            "paritas mean_pool": partial(mean_pool, hidden, mask),
            "mask times vectors, float64": partial(mask_times_vectors, hidden, mask),
            "mask cast first, float32": partial(mask_cast_first, hidden, mask),
        }
        rows += measure("mean", length, mean, rounds)
        vectors = mean_pool(hidden, mask)
        norm: dict[str, Callable[[], Array]] = {
            # In place: from the second time on the rows are at unit length already, which takes as long.
            "paritas normalize": partial(normalize, vectors.copy()),
            "np.linalg.norm": partial(by_linalg, vectors),
        }
        rows += measure("norm", length, norm, rounds)
    result = {
        "question": f"mean pooling and normalisation of {TOKENS} tokens of {dim} channels, by tokens a text",
        "rounds": rounds,
        "rows": rows,
        **_report.environment(),
    }
    _report.deliver("pooling", result, as_json=as_json, keep=keep, draw=draw)


def measure(
    kernel: str, length: int, forms: dict[str, Callable[[], Array]], rounds: int
) -> list[dict[str, Any]]:
    """Compare the forms, time them, and return a row for each; the first is ours."""
    ours, *_ = forms
    exact = forms[ours]()
    for name, form in forms.items():
        if not np.allclose(form(), exact, atol=1e-6):
            raise click.ClickException(f"{name} and {ours} disagree at {length} tokens a text")
    return [
        {"kernel": kernel, "tokens_a_text": length, **row}
        for row in _harness.race(forms, rounds, reference=ours)
    ]


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the time of every form by the texts' length."""
    drawing, axes = _plot.panels(result["question"], 2)
    for place, kernel in zip(axes, ("mean", "norm"), strict=True):
        series: dict[str, tuple[list[float], list[float]]] = {}
        for row in result["rows"]:
            if row["kernel"] == kernel:
                lengths, times = series.setdefault(row["form"], ([], []))
                lengths.append(row["tokens_a_text"])
                times.append(row["p50_us"])
        _plot.lines(place, series, x="tokens a text", y="microseconds", log="xy")
        place.legend()
    _plot.write(drawing, path)


if __name__ == "__main__":
    main()
