"""What do batches of equal length within a token budget save over classic padding?

    python -m kernels_bench.bench_plan [--model all-MiniLM-L6-v2] [--json] [--save]

SQuAD paragraphs, tokenised beforehand, run through the bundle's own graph in three groupings, in turns, each
with a batch for every CPU side by side as the engine has them in bulk: the engine's plan, batches of 32 of
the texts sorted by length (sentence-transformers' default), and batches of 32 in the order given. Where
lengths differ, a batch is padded to its longest text. All three must give the same vectors, up to rounding.

"tokens computed" counts padding. What it does not show: queries, which have no batch; accelerators, where
padding buys larger batches; collections so large that nearly all texts find others of their length.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from kernels_bench import _harness, _plot, _report, _texts
from paritas import Encoder
from paritas.engine.pool.pooling import pool
from paritas.engine.runtime.cpus import available_cpus
from paritas.engine.runtime.kernels import LIBRARY, ONNXRUNTIME
from paritas.engine.schedule.batching import Batch, plan
from paritas.engine.tokenize.tokenizer import Tokenizer, Tokens
from paritas.registry import Precision

BUDGET, BATCH = 512, 32
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


def groupings(lengths: NDArray[np.int64]) -> dict[str, list[Batch]]:
    """Return the batches of each grouping."""
    by_length = np.argsort(-lengths, kind="stable")
    return {
        f"paritas: equal lengths, {BUDGET} tokens": list(plan(lengths, max_batch_tokens=BUDGET)),
        f"sorted, batches of {BATCH}": padded(by_length, lengths),
        f"in the order given, batches of {BATCH}": padded(np.arange(len(lengths)), lengths),
    }


def padded(order: NDArray[np.int64], lengths: NDArray[np.int64]) -> list[Batch]:
    """Return batches of `BATCH` texts in this order, each as long as its longest."""
    parts = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    return [Batch(rows, int(lengths[rows].max())) for rows in parts]


class Graph:
    """A bundle's graph, run over batches of one's own, side by side in one thread each."""

    def __init__(self, encoder: Encoder) -> None:
        """Load the graph of a loaded encoder once more."""
        import onnxruntime

        variant = encoder.bundle.variant(encoder.precision)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        if encoder.contract.kernels != ONNXRUNTIME:
            options.register_custom_ops_library(str(LIBRARY))
        self._session = onnxruntime.InferenceSession(
            str(encoder.bundle.directory / variant.cpu_graph),
            options,
            disabled_optimizers=["SkipLayerNormFusion"],  # as the engine does
        )
        self._inputs = {value.name for value in self._session.get_inputs()}
        self._contract = encoder.contract

    def vectors(self, tokens: Tokens, batches: Sequence[Batch]) -> NDArray[np.float32]:
        """Return one vector a text, float32, (texts, dim)."""
        vectors = np.empty((len(tokens.lengths), self._contract.dim), np.float32)

        def run(batch: Batch) -> None:
            input_ids, mask, type_ids = tokens.arrays(batch.rows, batch.length)
            feeds = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": type_ids}
            wanted = {name: value for name, value in feeds.items() if name in self._inputs}
            hidden = self._session.run(None, wanted)[0]
            vectors[batch.rows] = pool(
                hidden, mask, pooling=self._contract.pooling, normalized=self._contract.normalize
            )

        with ThreadPoolExecutor(available_cpus()) as threads:
            list(threads.map(run, batches))
        return vectors


@click.command()
@_texts.text_options(256)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@_report.output_options
def main(model: str, count: int, rounds: int, as_json: bool, keep: bool) -> None:
    """Compare groupings of texts."""
    texts = _texts.paragraphs(count)
    rows: list[dict[str, Any]] = []
    for precision in PRECISIONS:
        with Encoder(model, precision=precision) as encoder:
            graph, directory, contract = Graph(encoder), encoder.bundle.directory, encoder.contract
            name = encoder.bundle.manifest.model
        tokens = Tokenizer.of(directory, contract).encode(texts, "passage")
        rows += measure(precision, graph, tokens, rounds)
    result = {
        "question": f"{name}: {count} SQuAD paragraphs in batches of equal length and with padding",
        "model": name,
        "rounds": rounds,
        "rows": rows,
        **_report.environment(),
    }
    _report.deliver(f"plan-{name}", result, as_json=as_json, keep=keep, draw=draw)


def measure(precision: Precision, graph: Graph, tokens: Tokens, rounds: int) -> list[dict[str, Any]]:
    """Compare the vectors of the groupings, time them, and return a row for each; the first is ours."""
    choices = groupings(tokens.lengths)
    ours, *_ = choices
    exact = graph.vectors(tokens, choices[ours])
    for name, batches in choices.items():
        off = float(np.abs(graph.vectors(tokens, batches) - exact).max())
        # What padding adds to a softmax's sum rounds differently, and INT8 turns a last bit into a step.
        if off > (1e-5 if precision == "fp32" else 2e-2):
            raise click.ClickException(f"{name}, {precision}: vectors differ by {off:.1e}")

    def run(name: str) -> Any:
        return lambda: graph.vectors(tokens, choices[name])

    seconds = _harness.time_calls({name: run(name) for name in choices}, rounds)
    needed = int(tokens.lengths.sum())
    rows = []
    for name, batches in choices.items():
        computed = sum(batch.cells for batch in batches)
        rows.append(
            {
                "precision": precision,
                "grouping": name,
                "batches": len(batches),
                "tokens_computed": computed,
                "padding_share": round(1 - needed / computed, 3),
                "texts_per_s": _harness.significant(len(tokens.lengths) / statistics.median(seconds[name])),
                "ours_times_as_fast": _harness.speed_ratio(seconds[ours], seconds[name]),
            }
        )
    return rows


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw texts/s by grouping, a panel for each precision."""
    drawing, axes = _plot.panels(result["question"], len(PRECISIONS), height=2.6)
    for place, precision in zip(axes, PRECISIONS, strict=True):
        rows = [row for row in result["rows"] if row["precision"] == precision]
        bars = {row["grouping"]: row["texts_per_s"] for row in rows}
        _plot.bars(place, bars, x=f"texts/s, {precision}", named=place is axes[0])
    _plot.write(drawing, path)


if __name__ == "__main__":
    main()
