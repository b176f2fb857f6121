"""How much memory does an encoder hold: in bulk, in a burst of callers, after it, and over 10,000 calls?

    python -m kernels_bench.bench_memory [--model all-MiniLM-L6-v2] [--json] [--save]

A process for each precision reads its own resident memory every 50 ms. It goes through five phases:

1. loading and a first text
2. bulk: SQuAD paragraphs in one call
3. a burst: 16 threads that each encode the longest paragraphs at once
4. a rest of two seconds
5. calls of 1 to 16 texts of random lengths, one after another

Memory that grows with the number of calls would show as a slope in the last phase.

What it does not show: memory that several processes share, such as the mapped weights of FP32; other systems
than Linux.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np

from kernels_bench import _harness, _plot, _report, _texts
from paritas import Encoder
from paritas.registry import Precision

MODULE = "kernels_bench.bench_memory"
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
PHASES = ("load", "bulk", "burst", "rest", "calls")
BURST_THREADS = 16
INTERVAL_S = 0.05
POINTS = 400  # of a plot's line


class Sampler:
    """Reads this process's resident memory in a thread of its own."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float, str]] = []
        """(seconds since the start, MB of 10**6 bytes, phase)"""
        self.phase = PHASES[0]
        self._started = time.perf_counter()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            self.take()

    def take(self) -> None:
        """Take a sample now."""
        self.samples.append((time.perf_counter() - self._started, rss_mb(), self.phase))

    def finish(self) -> None:
        """Take a last sample and end the thread."""
        self._ended.set()
        self._thread.join()
        self.take()


def rss_mb() -> float:
    """Return this process's resident memory in MB (10**6 bytes)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@click.command()
@_texts.text_options(256)
@click.option(
    "--calls", type=click.IntRange(min=1), default=10_000, show_default=True, help="Calls of random sizes."
)
@click.option("--contender", type=click.Choice(PRECISIONS), hidden=True, help="Be one of the processes.")
@_report.output_options
def main(model: str, count: int, calls: int, contender: Precision | None, as_json: bool, keep: bool) -> None:
    """Measure memory over time."""
    if contender is not None:
        print(json.dumps(go_through_phases(model, contender, count, calls)), flush=True)
        return
    name = Path(model).name
    series: dict[str, list[tuple[float, float, str]]] = {}
    rows = []
    for precision in PRECISIONS:
        arguments = ["--model", model, "--texts", str(count), "--calls", str(calls)]
        command = [sys.executable, "-m", MODULE, *arguments, "--contender", precision]
        row = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        series[precision] = row["samples"]
        rows.append({"precision": precision, **summary(series[precision]), **row["figures"]})
    result = {
        "question": f"{name}: resident memory over {count} paragraphs, a burst and {calls:,} calls",
        "model": name,
        "texts": count,
        "calls": calls,
        "rows": rows,
        "series": {precision: thinned(samples, POINTS) for precision, samples in series.items()},
        **_report.environment(),
    }
    _report.deliver(f"memory-{name}", result, as_json=as_json, keep=keep, draw=draw)


def go_through_phases(model: str, precision: Precision, count: int, calls: int) -> dict[str, Any]:
    """Go through all phases; return samples and figures."""
    texts = _texts.paragraphs(count)
    longest = sorted(texts, key=len)[-8:]
    sampler = Sampler()
    encoder = Encoder(model, precision=precision)
    expected = encoder.encode(longest, role="passage")
    sampler.phase = "bulk"
    encoder.encode(texts, role="passage")
    sampler.phase = "burst"
    with ThreadPoolExecutor(BURST_THREADS) as threads:
        bursts = threads.map(lambda _: encoder.encode(longest, role="passage"), range(BURST_THREADS))
    if not all(np.array_equal(each, expected) for each in bursts):
        raise SystemExit("callers at once get other vectors than one alone")
    sampler.phase = "rest"
    time.sleep(2)
    sampler.phase = "calls"
    generator = np.random.default_rng(0)
    words = " ".join(texts).split()
    marks = []
    for call in range(calls):
        if call == calls // 10:
            marks.append(rss_mb())
        encoder.encode(random_texts(generator, words), role="passage")
    marks.append(rss_mb())
    sampler.finish()
    figures = {
        "calls_growth_mb": round(marks[-1] - marks[0], 1),
        "peak_rss_mb": _harness.peak_rss_mb(),
    }
    return {"samples": sampler.samples, "figures": figures}


def random_texts(generator: np.random.Generator, words: list[str]) -> list[str]:
    """Return 1 to 16 texts of 1 to 64 of these words, short ones more often."""
    count = 1 + int(generator.integers(16) * generator.random())
    lengths = 1 + (64 * generator.random(count) ** 2).astype(int)
    starts = generator.integers(len(words) - 64, size=count)
    return [" ".join(words[start : start + n]) for start, n in zip(starts, lengths, strict=True)]


def summary(samples: list[tuple[float, float, str]]) -> dict[str, float]:
    """Return the most memory of each phase and, after the rest, what is left."""
    figures: dict[str, float] = {}
    for phase, group in itertools.groupby(samples, key=lambda sample: sample[2]):
        taken = [sample[1] for sample in group]
        figures[f"{phase}_mb"] = round(taken[-1] if phase == "rest" else max(taken), 1)
    return figures


def thinned(samples: list[tuple[float, float, str]], points: int) -> list[tuple[float, float, str]]:
    """Return at most about so many samples, of each stretch the highest: no peak is lost."""
    size = max(1, -(-len(samples) // points))
    return [
        max(samples[start : start + size], key=lambda sample: sample[1])
        for start in range(0, len(samples), size)
    ]


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw memory over time, a panel for each precision, a line's colour for each phase."""
    drawing, axes = _plot.panels(result["question"], len(PRECISIONS))
    for place, precision in zip(axes, PRECISIONS, strict=True):
        series = {}
        for phase, group in itertools.groupby(result["series"][precision], key=lambda sample: sample[2]):
            taken = list(group)
            series[phase] = ([sample[0] for sample in taken], [sample[1] for sample in taken])
        _plot.lines(place, series, x=f"seconds, {precision}", y="resident memory, MB", marker="")
    _plot.legend(drawing, axes[0])
    _plot.write(drawing, path)


if __name__ == "__main__":
    main()
