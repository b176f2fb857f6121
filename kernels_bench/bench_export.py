"""How long does the native export of a BERT-base take, and how much memory?

    python -m paritas.kernels_bench.bench_export [--save]

A full-size SimLM checkpoint (seeded random weights: neither time nor memory depend on their values) goes
through the whole of `paritas export`: digests, graph, float64 reference, certificate, bundle. Each round is
a process of its own.

What it does not show: downloads, other networks, the optimum front-end.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from paritas.export.networks import read_network
from paritas.export.sources import open_checkpoint
from paritas.kernels_bench import _report
from paritas.registry import load_registry

MODEL = "simlm-base-msmarco-finetuned"
TOKENIZER_OF = "all-MiniLM-L6-v2"  # the same vocabulary

CONFIG = {
    "model_type": "bert",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}

ONE_EXPORT = """
import json, sys
from paritas import export_model
export_model(sys.argv[1], source=sys.argv[2], precisions=sys.argv[4].split(","), out=sys.argv[3])
from paritas.kernels_bench._harness import peak_rss_mb
print(json.dumps({"peak_rss_mb": peak_rss_mb()}))
"""


def write_checkpoint(directory: Path) -> None:
    """Write a BERT-base checkpoint with seeded random weights."""
    from safetensors.numpy import save_file

    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    generator = np.random.default_rng(0)
    weights = {}
    for _, name, shape in read_network(CONFIG, "config").parameters():
        centre = 1.0 if name.endswith("LayerNorm.weight") else 0.0
        weights[name] = (centre + 0.02 * generator.standard_normal(shape)).astype(np.float32)
    save_file(weights, directory / "model.safetensors")
    with open_checkpoint(TOKENIZER_OF, load_registry()[TOKENIZER_OF], "package") as other:
        shutil.copy(other.directory / "tokenizer.json", directory)


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--save", is_flag=True, help="Write the result to kernels_bench/results.")
def main(rounds: int, save: bool) -> None:
    """Time exports and measure their memory."""
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch, "checkpoint")
        write_checkpoint(checkpoint)
        rows = [
            measure(checkpoint, Path(scratch, "bundle"), precisions, rounds)
            for precisions in ("fp32", "fp32,fp16", "fp32,int8")
        ]
    result = {
        "question": "native export of a BERT-base, certificate included",
        "model": MODEL,
        "rounds": rounds,
        "rows": rows,
        **_report.environment(),
    }
    for row in rows:
        click.echo(f"{row['precisions']}: {row['seconds']} s, peak {row['peak_rss_mb']} MB")
    if save:
        click.echo(_report.save("export", result))


def measure(checkpoint: Path, out: Path, precisions: str, rounds: int) -> dict[str, Any]:
    """Return the medians of some exports."""
    seen = []
    for _ in range(rounds):
        arguments = [MODEL, str(checkpoint), str(out), precisions]
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


if __name__ == "__main__":
    main()
