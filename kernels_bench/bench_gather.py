"""What do many callers with one text each get of the bulk rate?

    python -m kernels_bench.bench_gather [--model all-MiniLM-L6-v2] [--rounds 5] [--save]

The same texts are encoded in one call of `Encoder.encode`, and by 1, 16, 64 and 256 callers. Each caller
awaits one text after the other of an `AsyncEncoder`. Vectors are compared bit for bit. All ways take turns.

What it does not show: HTTP, and clients in other processes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from kernels_bench import _harness, _plot, _report, _texts
from paritas import AsyncEncoder, Encoder

_CALLERS = (1, 16, 64, 256)
_TEXTS = {"questions": 1024, "paragraphs": 256}
_ROLE = "passage"


@click.command()
@_texts.model_option
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@_report.output_options
def main(model: str, rounds: int, as_json: bool, keep: bool) -> None:
    """Measure many callers against bulk."""
    rows: list[dict[str, Any]] = []
    for precision in ("fp32", "int8"):
        with Encoder(model, precision=precision) as encoder:
            name = encoder.bundle.manifest.model
            for kind, read in (("questions", _texts.questions), ("paragraphs", _texts.paragraphs)):
                rows += measure(encoder, kind, read(_TEXTS[kind]), rounds)
    shares = [row["of_bulk"] for row in rows if row["callers"] == 64]
    result = {
        "question": f"{name}: callers that each await one text after the other, against one call with all",
        "model": name,
        "rounds": rounds,
        "rows": rows,
        "figures": [
            _report.bounded("64 callers, of bulk, the least", min(shares), floor=0.8, aim=0.9),
        ],
        **_report.environment(),
    }
    _report.deliver(f"gather-{name}", result, as_json=as_json, keep=keep, draw=draw)


def measure(encoder: Encoder, kind: str, texts: list[str], rounds: int) -> list[dict[str, Any]]:
    """Return a row for each number of callers."""
    expected = encoder.encode(texts, role=_ROLE)
    calls: dict[str, Callable[[], object]] = {
        "bulk": partial(encoder.encode, texts, role=_ROLE),
        **{str(callers): partial(by_callers, encoder, texts, callers) for callers in _CALLERS},
    }
    for callers in _CALLERS:
        if not np.array_equal(by_callers(encoder, texts, callers), expected):
            raise click.ClickException(f"{callers} callers get other vectors than one call")
    seconds: dict[str, list[float]] = {way: [] for way in calls}
    for way in _harness.turns(list(calls), rounds):
        begun = time.perf_counter()
        calls[way]()
        seconds[way].append(time.perf_counter() - begun)
    return [
        {
            "precision": encoder.precision,
            "texts": kind,
            "callers": callers,
            "texts_per_s": _harness.significant(len(texts) / float(np.median(seconds[str(callers)])), 3),
            "of_bulk": _harness.speed_ratio(seconds[str(callers)], seconds["bulk"]),
        }
        for callers in _CALLERS
    ]


def by_callers(encoder: Encoder, texts: list[str], callers: int) -> NDArray[np.float32]:
    """Return the vectors that so many callers got."""
    vectors = np.empty((len(texts), encoder.dim), np.float32)

    async def caller(wide: AsyncEncoder, first: int) -> None:
        for row in range(first, len(texts), callers):
            vectors[row] = (await wide.encode([texts[row]], role=_ROLE)).vectors[0]

    async def run() -> None:
        async with AsyncEncoder(encoder) as wide:
            await asyncio.gather(*(caller(wide, first) for first in range(callers)))

    asyncio.run(run())
    return vectors


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the share of bulk by the number of callers."""
    drawing, (axes,) = _plot.panels(result["question"], height=3.2)
    shares = {
        f"{row['precision']}, {row['texts']}, {row['callers']}": row["of_bulk"] for row in result["rows"]
    }
    _plot.bars(axes, shares, x="share of bulk")
    _plot.write(drawing, path)


if __name__ == "__main__":
    main()
