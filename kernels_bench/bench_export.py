"""How long does the native export of a BERT-base take, and how much memory?

    python -m kernels_bench.bench_export [--json] [--save]

A full-size SimLM checkpoint (seeded random weights: neither time nor memory depend on their values) goes
through the whole of `paritas export`: digests, graph, float64 reference, certificate, bundle. Each round is
a process of its own.

What it does not show: downloads, other networks, the optimum front-end.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from kernels_bench import _bundles, _plot, _report

PRECISIONS = ("fp32", "fp32,fp16", "fp32,int8")

ONE_EXPORT = """
import json, sys
from paritas import export_model
export_model(sys.argv[1], source=sys.argv[2], precisions=sys.argv[4].split(","), out=sys.argv[3])
from kernels_bench._harness import peak_rss_mb
print(json.dumps({"peak_rss_mb": peak_rss_mb()}))
"""


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@_report.output_options
def main(rounds: int, as_json: bool, keep: bool) -> None:
    """Time exports and measure their memory."""
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch, "checkpoint")
        _bundles.write_simlm(checkpoint)
        rows = [measure(checkpoint, Path(scratch, "bundle"), each, rounds) for each in PRECISIONS]
    result = {
        "question": "native export of a BERT-base, certificate included",
        "model": _bundles.SIMLM,
        "rounds": rounds,
        "rows": rows,
        **_report.environment(),
    }
    _report.deliver("export", result, as_json=as_json, keep=keep, draw=draw)


def measure(checkpoint: Path, out: Path, precisions: str, rounds: int) -> dict[str, Any]:
    """Return the medians of some exports."""
    seen = []
    for _ in range(rounds):
        arguments = [_bundles.SIMLM, str(checkpoint), str(out), precisions]
        started = time.perf_counter()
        run = subprocess.run(
            [sys.executable, "-c", ONE_EXPORT, *arguments], capture_output=True, text=True, check=True
        )
        seen.append({**json.loads(run.stdout), "seconds": time.perf_counter() - started})
    return {
        "precisions": precisions,
        "seconds": round(statistics.median(item["seconds"] for item in seen), 2),
        "peak_rss_mb": round(max(item["peak_rss_mb"] for item in seen)),
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the medians."""
    drawing, (axes,) = _plot.panels(result["question"], height=2.4)
    _plot.bars(axes, {row["precisions"]: row["seconds"] for row in result["rows"]}, x="seconds, median")
    _plot.write(drawing, path)


if __name__ == "__main__":
    main()
