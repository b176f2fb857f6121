"""What does a framework around the encoder cost?

    python -m kernels_bench.bench_integrations --environments .venv/integrations [--save]

`make test-integrations` makes the environments. In each the same paragraphs in bulk, and questions one by
one, go through the integration and through `Encoder` itself, in turns within one process. "bulk" is the
integration's time over the encoder's. "query" is what it adds to one question.

What it does not show: what the framework does with vectors afterwards.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from kernels_bench import _harness, _plot, _report, _texts
from kernels_bench.integrations import RECIPES
from paritas.engine.bundle.lookup import find

_SCRIPT = Path(__file__).with_name("integrations.py")


@click.command()
@_texts.text_options(256)
@click.option("--environments", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--queries", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True)
@_report.output_options
def main(
    model: str, count: int, environments: Path, queries: int, rounds: int, as_json: bool, keep: bool
) -> None:
    """Compare each integration with the encoder itself."""
    texts = {"passages": _texts.paragraphs(count), "queries": _texts.questions(queries)}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "texts.json"
        file.write_text(json.dumps(texts), encoding="utf-8")
        rows = [measure(name, environments, find(model), file, rounds) for name in RECIPES]
    result = {
        "question": f"{Path(model).name}: integrations beside the encoder itself, INT8",
        "model": Path(model).name,
        "rows": rows,
        **_report.environment(),
    }
    _report.deliver(f"integrations-{result['model']}", result, as_json=as_json, keep=keep, draw=draw)


def measure(name: str, environments: Path, bundle: Path, texts: Path, rounds: int) -> dict[str, Any]:
    """Return the row of an integration; what needs no framework runs where sentence-transformers is."""
    folder = environments / ("sentence_transformers" if name == "sentence_encoder" else name)
    command = [str(folder / "bin" / "python"), str(_SCRIPT), name, str(bundle), str(texts), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{name}: {done.stderr[-800:]}")
    seconds = json.loads(done.stdout.splitlines()[-1])
    queries = len(json.loads(texts.read_text(encoding="utf-8"))["queries"])
    added = np.subtract(seconds["query"]["integration"], seconds["query"]["encoder"])
    bulk = np.divide(seconds["bulk"]["integration"], seconds["bulk"]["encoder"])
    return {
        "integration": name,
        "bulk": _harness.significant(float(np.median(bulk)), 3),
        "query_ms": _harness.significant(float(np.median(added)) / queries * 1e3, 2),
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw both costs."""
    drawing, (bulk, query) = _plot.panels(result["question"], 2, height=3.2)
    rows = {row["integration"]: row for row in result["rows"]}
    _plot.bars(bulk, {name: row["bulk"] for name, row in rows.items()}, x="time in bulk, of the encoder's")
    added = {name: row["query_ms"] for name, row in rows.items()}
    _plot.bars(query, added, x="ms added to a question", named=False)
    _plot.write(drawing, path)


if __name__ == "__main__":
    main()
