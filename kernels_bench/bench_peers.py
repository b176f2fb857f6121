"""How does paritas compare with what people use instead: speed, latency, start, memory and vectors?

    python -m kernels_bench.bench_peers --peers .venv/peers [--model all-MiniLM-L6-v2] [--save]

sentence-transformers (PyTorch, onnxruntime, OpenVINO), optimum, fastembed and light-embed encode the same
SQuAD paragraphs and questions as paritas, from the same checkpoint. The vectors of a quarter of the
paragraphs are compared first, with those of PyTorch in FP32.

Then the engines take turns in every round. Each gets a fresh process in its own environment. It loads,
encodes one text, warms up on an eighth of the paragraphs and is timed. It ends before the next one starts, so
that no two share the memory. All run with threads of their own, and once more with the same number unless
`--threads own`.

An engine that cannot run has a row that says why. One that would take longer than `--patience` for the
paragraphs, as PyTorch in BF16 does on a CPU without instructions for it, is timed on the eighth that it warms
up on. What it does not show: other models, lengths and machines; GPUs; several callers at once; cold starts
from a disk that has not been read before.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from kernels_bench import _harness, _plot, _report, _texts, peers
from kernels_bench._harness import ContenderError
from kernels_bench._stage import Stage
from paritas import Encoder
from paritas.engine.runtime.cpus import available_cpus
from paritas.export.checkpoint.sources import open_checkpoint
from paritas.export.int8.calibration import built_in_texts
from paritas.registry import load_registry

REFERENCE = "sentence-transformers torch fp32"
# One dynamic form is enough here; the other is bench_int8's.
ENGINES = [name for name in peers.ENGINES if name != "optimum onnx int8, per column"]
MODES = ("own", "cpus")
COLUMNS = (
    *("timed_texts", "texts_per_s", "tokens_per_s", "ratio", "mean_cosine", "min_cosine"),
    *("query_p50_ms", "query_p95_ms", "start_s", "peak_rss_mb"),
)

WARM = 8  # One paragraph in so many warms an engine up.

Cosines = tuple[float | None, float | None]
"""Mean and smallest; None where there is nothing to compare with."""


@dataclass
class Entry:
    """An engine with its own threads (None) or a number of them, and what was seen of it."""

    engine: str
    threads: int | None
    rounds: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None

    def seconds(self) -> list[float]:
        """Return what a text took, by round."""
        return [each["seconds"] / each["texts"] for each in self.rounds]


@click.command()
@_texts.text_options(256)
@click.option("--peers", "environments", type=click.Path(path_type=Path), help="Environments of the peers.")
@click.option(
    "--queries",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="SQuAD questions of each round.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--patience",
    type=click.FloatRange(min=0),
    default=300,
    show_default=True,
    help="Seconds that an engine may take for the paragraphs.",
)
@click.option(
    "--threads",
    "modes",
    multiple=True,
    type=click.Choice(MODES),
    help="The engine's own choice of threads, or as many as CPUs.  Default: both.",
)
@click.option("--only", multiple=True, type=click.Choice(ENGINES), help="Default: all engines.")
@_report.output_options
def main(
    model: str,
    count: int,
    environments: Path | None,
    queries: int,
    rounds: int,
    patience: float,
    modes: tuple[str, ...],
    only: tuple[str, ...],
    as_json: bool,
    keep: bool,
) -> None:
    """Compare paritas with other engines."""
    names = list(only or ENGINES)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        texts = write_texts(work, count, queries)
        with Encoder(model) as encoder:
            (work / "bundle").symlink_to(encoder.bundle.directory.resolve())
            model = encoder.bundle.manifest.model
            encoder.encode(texts, role="passage")
            assert encoder.last_stats is not None
            tokens = encoder.last_stats.tokens
        with open_checkpoint(model, load_registry()[model], "package") as checkpoint:
            stage = Stage(environments, checkpoint.directory, work)
            failed, versions = write_vectors(stage, names)
            agreed = {name: cosines(work, name) for name in names if name not in failed}
            entries = [
                Entry(name, None if mode == "own" else available_cpus(), error=failed.get(name))
                for mode in modes or MODES
                for name in names
            ]
            run_rounds(stage, entries, rounds, len(texts), patience)
            rows = [row(entry, entries, agreed, tokens / len(texts)) for entry in entries]
    result = {
        "question": f"{model} beside other engines: {len(texts)} SQuAD paragraphs, {tokens} tokens",
        "model": model,
        "texts": len(texts),
        "tokens": tokens,
        "queries": queries,
        "rounds": rounds,
        "rows": rows,
        "figures": figures(rows),
        **_report.environment(),
        "peers": versions,
    }
    _report.deliver(f"peers-{model}", result, as_json=as_json, keep=keep, draw=draw)


def write_texts(work: Path, count: int, queries: int) -> list[str]:
    """Write what the engines read, and return the paragraphs."""
    texts = _texts.paragraphs(count)
    warm, asked = texts[::WARM], _texts.questions(queries)
    chosen = {"quality": texts[::4], "speed": texts, "warm": warm, "queries": asked}
    (work / "texts.json").write_text(json.dumps(chosen), encoding="utf-8")
    (work / "calibration.json").write_text(json.dumps(built_in_texts("calibration")), encoding="utf-8")
    return texts


def write_vectors(stage: Stage, names: list[str]) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Let every engine write its vectors; return why some cannot, and the versions of the others."""
    failed, versions = {}, {}
    for name in names:
        try:
            contender = stage.start(name)
            contender.ask("vectors")
            versions[name] = contender.ask("versions")
            contender.finish()
        except ContenderError as error:
            failed[name] = str(error)
    return failed, versions


def run_rounds(stage: Stage, entries: list[Entry], rounds: int, texts: int, patience: float) -> None:
    """Run the rounds; an entry that fails is left out of those that follow."""
    places = {f"{entry.engine} {entry.threads}": entry for entry in entries}
    for place in _harness.turns(list(places), rounds):
        entry = places[place]
        if entry.error is None:
            try:
                entry.rounds.append(measure(stage, entry, texts, patience))
            except ContenderError as error:
                entry.error = str(error)


def measure(stage: Stage, entry: Entry, texts: int, patience: float) -> dict[str, Any]:
    """Run one round of one engine in a fresh process: all texts, or the warm ones where it is too slow."""
    contender = stage.start(entry.engine, entry.threads)
    timed, seconds = len(range(0, texts, WARM)), contender.ask("warm")["seconds"]
    if seconds / timed * texts <= patience:
        timed, seconds = texts, contender.round()["seconds"]
    latencies = contender.ask("queries")["seconds"]
    timing = {"start_s": contender.start_s, "texts": timed, "seconds": seconds, "latencies": latencies}
    return {**timing, **contender.finish()}


def row(entry: Entry, entries: list[Entry], agreed: dict[str, Cosines], tokens: float) -> dict[str, Any]:
    """Return what an entry comes to: medians over the rounds, quantiles over the queries of all of them.

    A text has so many tokens on average.
    """
    shown = {"engine": entry.engine, "threads": "own" if entry.threads is None else "cpus"}
    if entry.error is not None:
        return {**shown, **dict.fromkeys(COLUMNS), "error": entry.error}
    median = statistics.median(entry.seconds())
    latencies = 1000 * np.concatenate([each["latencies"] for each in entry.rounds])
    values = (
        min(each["texts"] for each in entry.rounds),
        _harness.significant(1 / median, 3),
        round(tokens / median),
        ratio(entry, entries),
        *agreed[entry.engine],
        _harness.significant(float(np.quantile(latencies, 0.5)), 3),
        _harness.significant(float(np.quantile(latencies, 0.95)), 3),
        _harness.significant(statistics.median(each["start_s"] for each in entry.rounds), 3),
        round(max(each["peak_rss_mb"] for each in entry.rounds)),
    )
    return {**shown, **dict(zip(COLUMNS, values, strict=True)), "error": None}


def ratio(entry: Entry, entries: list[Entry]) -> float | None:
    """Return how many times as fast as PyTorch in FP32 with as many threads, None where that did not run."""
    for other in entries:
        if (other.engine, other.threads, other.error) == (REFERENCE, entry.threads, None):
            return _harness.speed_ratio(entry.seconds(), other.seconds())
    return None


def figures(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what is asked of paritas beside the others, each with threads of its own choice.

    What an engine that did not run would be needed for is left out.
    """
    own = {row["engine"]: row for row in rows if row["threads"] == MODES[0] and row["error"] is None}
    figures = [
        _report.bounded(
            f"{ours} in bulk, against {other}",
            own[ours]["texts_per_s"] / own[other]["texts_per_s"],
            floor=floor,
            aim=aim,
        )
        for ours, other, floor, aim in (
            ("paritas int8", REFERENCE, 9, 13),
            ("paritas int8", "openvino static int8", 1.35, 2),
            ("paritas int8", "sentence-transformers onnx int8", 1.8, 2.5),
            ("paritas fp32", REFERENCE, 3.5, 4),
            ("paritas fp32", "sentence-transformers onnx fp32", 1.5, 1.7),
        )
        if ours in own and other in own
    ]
    others = [row["query_p50_ms"] for name, row in own.items() if not name.startswith("paritas")]
    if "paritas int8" in own and others:
        latency = own["paritas int8"]["query_p50_ms"] / min(others)
        name = "paritas int8, one query: median latency over that of the fastest other engine"
        figures.append(_report.bounded(name, latency, floor=0.75, aim=0.5))
    if "paritas int8" in own:
        peak = own["paritas int8"]["peak_rss_mb"]
        figures.append(_report.bounded("paritas int8 in bulk: peak RSS, MB", peak, floor=450, aim=300))
    return figures


def cosines(work: Path, name: str) -> Cosines:
    """Return the mean and the smallest cosine to PyTorch's FP32, None where that did not run.

    Raises:
        click.ClickException: paritas in FP32 disagrees; its speed is then not worth knowing.
    """
    if not (work / f"{REFERENCE}.npy").exists():
        return None, None
    ours, exact = (np.load(work / f"{each}.npy").astype(np.float64) for each in (name, REFERENCE))
    ours /= np.linalg.norm(ours, axis=1, keepdims=True)  # what BF16 normalises is 0.2 % off unit length
    cosines = np.einsum("ij,ij->i", ours, exact)
    if name == "paritas fp32" and cosines.min() < 0.99999:
        raise click.ClickException(f"{name} and {REFERENCE} disagree: cosine {cosines.min():.6f}")
    return round(float(cosines.mean()), 5), round(float(cosines.min()), 5)


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw texts/s and query latency, with the engines' own threads and with the same."""
    modes = [mode for mode in MODES if any(row["threads"] == mode for row in result["rows"])]
    kinds = [(figure, mode) for figure in ("texts_per_s", "query_p50_ms") for mode in modes]
    told = {"texts_per_s": "texts/s", "query_p50_ms": "ms a question, median"}
    threads = {"own": "threads of their own choice", "cpus": f"{result['cpus']} threads"}
    drawing, axes = _plot.panels(result["question"], len(kinds), height=5)
    for place, (figure, mode) in enumerate(kinds):
        rows = [each for each in result["rows"] if each["threads"] == mode and each["error"] is None]
        bars = {each["engine"]: each[figure] for each in rows}
        _plot.bars(axes[place], bars, x=f"{told[figure]}\n{threads[mode]}", named=place == 0)
    _plot.write(drawing, path)


if __name__ == "__main__":
    main()
