"""How long does a fresh process take to its first vector?

    python -m kernels_bench.bench_start [--model all-MiniLM-L6-v2] [--rounds 15] [--json] [--save]

Each round spawns a fresh `python` for each precision, in turns. The time runs from before the spawn until the
process says that it has its first vector. It covers interpreter, imports, digests, loading and one short
text. Beside it stands the time of a `python` that imports nothing.

Further rounds start from the disk: before each, the system is told to drop the bundle and the store's cache.

What it does not show: packages that come from the disk as well; the first start of all, which prepares the
graph; other engines' starts (bench_peers).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from kernels_bench import _harness, _plot, _report, _texts
from kernels_bench._stage import Stage
from paritas import Encoder, store

BARE = "python, nothing imported"
ENGINES = ("paritas fp32", "paritas int8")
UNREAD = ", bundle not in memory"


@click.command()
@_texts.model_option
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True)
@_report.output_options
def main(model: str, rounds: int, as_json: bool, keep: bool) -> None:
    """Measure cold starts."""
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        with Encoder(model) as encoder:
            bundle = encoder.bundle.directory.resolve()
            model = encoder.bundle.manifest.model
        (work / "bundle").symlink_to(bundle)
        texts = {"quality": ["what is qa"]}
        (work / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        stage = Stage(None, work, work)
        compare(stage, work)
        seen = defaultdict[str, list[float]](list)
        for name in _harness.turns((BARE, *ENGINES), rounds):
            seen[name].append(start_s(stage, name))
        # Not in turns with the others, which would find nothing in memory either.
        for name in _harness.turns(ENGINES, rounds):
            forget(bundle, store.cache())
            seen[name + UNREAD].append(start_s(stage, name))
    result = {
        "question": f"{model}: from spawning a process to its first vector",
        "model": model,
        "rounds": rounds,
        "rows": [
            {"process": name, "start_s": found["p50"], "p20_s": found["p20"], "p80_s": found["p80"]}
            for name, found in ((name, _harness.spread(values)) for name, values in seen.items())
        ],
        "figures": [
            _report.bounded(
                f"{name}: seconds from a process's start to its first vector",
                _harness.spread(seen[name])["p50"],
                floor=0.5,
                aim=0.25,
            )
            for name in ENGINES
        ],
        **_report.environment(),
    }
    _report.deliver(f"start-{model}", result, as_json=as_json, keep=keep, draw=draw)


def compare(stage: Stage, work: Path) -> None:
    """Compare what the processes compute."""
    for name in ENGINES:
        contender = stage.start(name)
        contender.ask("vectors")
        contender.finish()
    exact, integer = (np.load(work / f"{name}.npy") for name in ENGINES)
    if (cosine := float((exact * integer).sum())) < 0.98:
        raise click.ClickException(f"INT8 and FP32 disagree: cosine {cosine:.4f}")


def start_s(stage: Stage, name: str) -> float:
    """Return the seconds of one start."""
    if name == BARE:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "print()"], stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - started
    contender = stage.start(name)
    contender.finish()
    return contender.start_s


def forget(*folders: Path) -> None:
    """Let the system drop files from memory; what a process has mapped stays."""
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        opened = os.open(path, os.O_RDONLY)
        os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(opened)


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the medians."""
    drawing, (axes,) = _plot.panels(result["question"], height=2.4)
    _plot.bars(axes, {row["process"]: row["start_s"] for row in result["rows"]}, x="seconds, median")
    _plot.write(drawing, path)


if __name__ == "__main__":
    main()
