"""How should an index store its vectors?

    python -m kernels_bench.bench_index [--model all-MiniLM-L6-v2] [--rounds 3] [--save]

Sentences are the documents, of SQuAD's paragraphs and SciFact's abstracts. SQuAD's questions and SciFact's
claims ask for them. Every form of storage is given the same float32 vectors, in turns: how fast it takes
them, how large their file is, how long one question takes, and how many of the ten nearest it finds. Nearest
is what comparing all float32 vectors finds, so rounding counts as much as what the graph misses. `exact` is
the same with every stored vector compared: what rounding alone costs. `of_100` is how many of the ten nearest
are among the first hundred answers: who orders these anew by float32 vectors finds so many.

What it does not show: tens of millions of documents, where the graph misses more and memory is slower.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from kernels_bench import _harness, _plot, _report, _texts
from paritas import Encoder, VectorIndex
from paritas.engine.index import ScalarType

_DTYPES: tuple[ScalarType, ...] = ("f32", "bf16", "f16", "i8", "b1")
_QUESTIONS, _NEAREST, _AMONG = 500, 10, 100


@click.command()
@_texts.model_option
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@_report.output_options
def main(model: str, rounds: int, as_json: bool, keep: bool) -> None:
    """Measure every form of storage on the same vectors."""
    documents = _texts.sentences()
    questions = [
        text
        for name in ("squad", "scifact")
        for text in _texts.spaced(_texts.evaluation_data() / name / "queries.jsonl", _QUESTIONS)
    ]
    with Encoder(model, precision="int8") as encoder:
        name = encoder.bundle.manifest.model
        vectors = encoder.encode(documents, role="passage")
        asked = encoder.encode(questions, role="query")
        rows = measure(encoder, documents, vectors, asked, rounds)
    result = {
        "question": f"{name}: an index of {len(documents):,} sentences, {vectors.shape[1]} channels each",
        "model": name,
        "rounds": rounds,
        "rows": rows,
        **_report.environment(),
    }
    _report.deliver(f"index-{name}", result, as_json=as_json, keep=keep, draw=draw)


def measure(
    encoder: Encoder,
    documents: list[str],
    vectors: NDArray[np.float32],
    asked: NDArray[np.float32],
    rounds: int,
) -> list[dict[str, Any]]:
    """Return a row for each form of storage."""
    ids = [f"{number}" for number in range(len(documents))]
    nearest = np.argsort(-(asked @ vectors.T), axis=1, kind="stable")[:, :_NEAREST].astype(str)
    add_s: dict[str, list[float]] = {dtype: [] for dtype in _DTYPES}
    search_s: dict[str, list[float]] = {dtype: [] for dtype in _DTYPES}
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for dtype in _harness.turns(_DTYPES, rounds):
            with VectorIndex(encoder, dtype=dtype) as index:
                begun = time.perf_counter()
                index.add(ids, vectors)
                add_s[dtype].append(time.perf_counter() - begun)
                index.save(Path(folder) / dtype)
            with VectorIndex.load(Path(folder) / dtype) as index:
                index.search(asked[:10], _NEAREST)
                begun = time.perf_counter()
                for query in asked:
                    index.search(query[None], _NEAREST)
                search_s[dtype].append((time.perf_counter() - begun) / len(asked))
                if dtype not in found:
                    file = next((Path(folder) / dtype).glob("*.usearch"))
                    found[dtype] = {
                        "vectors_mb": _harness.significant(file.stat().st_size / 1e6, 3),
                        "recall": _recall(index, asked, nearest),
                        "exact": _recall(index, asked, nearest, exact=True),
                        "of_100": _recall(index, asked, nearest, among=_AMONG),
                    }
    return [
        {
            "storage": dtype,
            "documents_per_s": _harness.significant(len(ids) / float(np.median(add_s[dtype])), 3),
            "of_f32": _harness.speed_ratio(add_s[dtype], add_s["f32"]),
            "question_us": _harness.significant(1e6 * float(np.median(search_s[dtype])), 3),
            **found[dtype],
        }
        for dtype in _DTYPES
    ]


def _recall(
    index: VectorIndex,
    asked: NDArray[np.float32],
    nearest: NDArray[Any],
    *,
    among: int = _NEAREST,
    exact: bool = False,
) -> float:
    """Return the share of the nearest that are among so many answers."""
    answers = index.search(asked, among, exact=exact)
    shares = [
        len({hit.id for hit in hits} & set(wanted)) / _NEAREST
        for hits, wanted in zip(answers, nearest.tolist(), strict=True)
    ]
    return round(float(np.mean(shares)), 4)


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw size against recall, a point for each form of storage."""
    drawing, (axes,) = _plot.panels(result["question"])
    _plot.bars(
        axes,
        {f"{row['storage']}, {row['vectors_mb']:g} MB": row["recall"] for row in result["rows"]},
        x=f"recall@{_NEAREST} of the nearest by float32",
    )
    _plot.write(drawing, path)


if __name__ == "__main__":
    main()
