"""How near to FP32 is INT8, and how fast: paritas beside what others make of the same model and texts.

    python -m kernels_bench.bench_int8 --peers .venv/peers [--model all-MiniLM-L6-v2]
        [--json] [--save]

Paragraphs of SQuAD and abstracts of SciFact, which no calibration saw, go through each engine; cosines are to
paritas FP32, which is within 1e-5 of the checkpoint. Each engine runs in a process of its own, at its own
defaults, on all CPUs of this process; rounds over some of the paragraphs alternate, and medians over the
rounds count, of the ratios too. "onnxruntime dynamic int8" is onnxruntime's own quantiser on the very graph
that paritas quantises, run by the same engine code. What a search loses, `paritas verify --judgements` says.

What it does not show: other models and lengths; CPUs with faster or slower byte products than this one.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from kernels_bench import _harness, _plot, _report
from kernels_bench._stage import Stage
from kernels_bench._texts import evaluation_data, spaced
from paritas import Encoder, export_model
from paritas.documents import read_documents
from paritas.engine.bundle.directory import Bundle
from paritas.engine.pool.pooling import pool
from paritas.engine.runtime.cpus import available_cpus
from paritas.engine.runtime.kernels import available_kernels
from paritas.engine.runtime.session import Session
from paritas.engine.schedule.batching import plan
from paritas.engine.tokenize.tokenizer import Tokenizer
from paritas.export.checkpoint.sources import open_checkpoint
from paritas.export.int8.calibration import built_in_texts
from paritas.registry import load_registry

MODULE = "kernels_bench.bench_int8"
OURS = ("paritas fp32", "paritas int8", "onnxruntime dynamic int8")
PEERS = ("sentence-transformers onnx int8", "optimum onnx int8, per column", "openvino static int8")


@click.command()
@click.option("--model", default="all-mpnet-base-v2", show_default=True)
@click.option(
    "--data", type=click.Path(path_type=Path), help="SQuAD and SciFact. Default: $PARITAS_EVAL_DATA."
)
@click.option(
    "--peers", type=click.Path(path_type=Path), help="Environments of the peers; without, ours alone."
)
@click.option("--count", default=256, show_default=True, help="Texts of each collection.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--contender", hidden=True, help="Be one of the processes that are compared.")
@click.option("--work", hidden=True, type=click.Path(path_type=Path))
@_report.output_options
def main(
    model: str,
    data: Path | None,
    peers: Path | None,
    count: int,
    rounds: int,
    contender: str | None,
    work: Path | None,
    as_json: bool,
    keep: bool,
) -> None:
    """Compare INT8 engines in quality and speed."""
    if contender is not None:
        assert work is not None
        compete(contender, work)
        return
    data = data or evaluation_data()
    with tempfile.TemporaryDirectory() as scratch:
        result, cosines = compare(model, data, peers, count, rounds, Path(scratch))
    draw = partial(plot, cosines)
    _report.deliver(f"int8-{model}", result, as_json=as_json, keep=keep, draw=draw)


def compete(contender: str, work: Path) -> None:
    """Load one graph, encode everything once, keep the vectors, then run rounds."""
    texts = json.loads((work / "texts.json").read_text(encoding="utf-8"))
    bundle = Bundle(work / "bundle")
    graphs = {
        "paritas fp32": work / "bundle" / "model.fp32.equal_length.onnx",
        "paritas int8": work / "bundle" / "model.int8.equal_length.onnx",
        "onnxruntime dynamic int8": work / "dynamic.onnx",
    }
    own = contender == "paritas int8" and available_kernels().own
    session = Session(graphs[contender], provider="cpu", threads=available_cpus(), kernels=own)
    tokenizer = Tokenizer.of(work / "bundle", bundle.manifest.contract)
    contract = bundle.manifest.contract

    def encode(chosen: list[str]) -> NDArray[np.float32]:
        tokens = tokenizer.encode(chosen, "passage")
        vectors = np.empty((len(chosen), contract.dim), np.float32)
        for batch in plan(tokens.lengths, max_batch_tokens=512):
            input_ids, mask, type_ids = tokens.arrays(batch.rows, batch.length)
            hidden = session.run(input_ids, mask, type_ids)
            vectors[batch.rows] = pool(hidden, mask, pooling=contract.pooling, normalized=contract.normalize)
        return vectors

    np.save(work / f"{contender}.npy", encode(texts["quality"]))
    encode(texts["speed"])

    def one_round() -> dict[str, Any]:
        started = time.perf_counter()
        encode(texts["speed"])
        return {"seconds": time.perf_counter() - started}

    _harness.serve_rounds({"contender": contender}, one_round)


def compare(
    model: str, data: Path, peers: Path | None, count: int, rounds: int, work: Path
) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """Run all contenders in turn; return the result and each engine's cosines."""
    squad = spaced(data / "squad" / "corpus.jsonl", count)
    documents = [str(d.as_text(pair=False)) for d in read_documents(str(data / "scifact" / "corpus.jsonl"))]
    scifact = documents[:: max(1, len(documents) // count)][:count]
    texts: dict[str, list[str]] = {"quality": [*squad, *scifact], "speed": squad[::4], "warm": squad[::4]}
    (work / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    (work / "calibration.json").write_text(json.dumps(built_in_texts("calibration")), encoding="utf-8")
    with open_checkpoint(model, load_registry()[model], "package") as checkpoint:
        started = time.perf_counter()
        made = export_model(
            model, source=str(checkpoint.directory), precisions=("fp32", "int8"), out=work / "bundle"
        )
        export_s = time.perf_counter() - started
        quantize_dynamic(work / "bundle" / "model.fp32.equal_length.onnx", work / "dynamic.onnx")
        own = ["--work", str(work), "--contender"]
        contenders = {name: _harness.Contender(MODULE, [*own, name]) for name in OURS}
        if peers is not None:
            stage = Stage(peers, checkpoint.directory, work)
            for name in PEERS:
                contenders[name] = stage.start(name)
                contenders[name].ask("vectors")
                contenders[name].ask("warm")
        seconds = _harness.interleave(contenders, rounds, "seconds")
        peaks = {name: contender.finish()["peak_rss_mb"] for name, contender in contenders.items()}
    exact = np.load(work / f"{OURS[0]}.npy").astype(np.float64)
    cosines = {
        name: np.einsum("ij,ij->i", np.load(work / f"{name}.npy").astype(np.float64), exact)
        for name in contenders
    }
    with Encoder(made) as encoder:
        encoder.encode(texts["speed"], role="passage")
        assert encoder.last_stats is not None
        tokens = encoder.last_stats.tokens
    rows = [
        {
            "engine": name,
            "mean_cosine": round(float(cosines[name].mean()), 5),
            "p1_cosine": round(float(np.quantile(cosines[name], 0.01)), 5),
            "min_cosine": round(float(cosines[name].min()), 5),
            "tokens_per_s": round(tokens / statistics.median(seconds[name])),
            "speed_ratio": _harness.speed_ratio(seconds[name], seconds["onnxruntime dynamic int8"]),
            "peak_rss_mb": peaks[name],
        }
        for name in contenders
    ]
    return {
        "question": "INT8: cosines to FP32, speed against onnxruntime's dynamic INT8 of the same graph",
        "model": model,
        "texts": len(texts["quality"]),
        "speed_texts": len(texts["speed"]),
        "speed_tokens": tokens,
        "rounds": rounds,
        "export_fp32_int8_s": round(export_s, 1),
        "rows": rows,
        **_report.environment(),
    }, cosines


def quantize_dynamic(exact: Path, out: Path) -> None:
    """Let onnxruntime quantise the graph dynamically, with a scale a column as paritas has."""
    from onnx import TensorProto
    from onnxruntime import quantization

    quantization.quantize_dynamic(
        exact,
        out,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        use_external_data_format=True,
        # What follows onnxruntime's own attention operator, which onnx cannot infer the types of.
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )


def plot(cosines: dict[str, NDArray[np.float64]], result: dict[str, Any], path: Path) -> None:
    """Draw how the cosines are distributed: the share of texts at or above each."""
    drawing, (axes,) = _plot.panels(f"{result['model']}: INT8 vectors of {result['texts']} texts", height=5.4)
    for name, values in cosines.items():
        if name == OURS[0]:
            continue
        loss = np.sort(1 - values)
        share = np.arange(1, len(loss) + 1) / len(loss)
        axes.step(loss, 100 * share, where="post", label=name, linewidth=2.5 if name == OURS[1] else 1.5)
    axes.set_xscale("log")
    axes.set_xlabel("1 - cosine to FP32 (left is nearer)")
    axes.set_ylabel("texts at most so far off, %")
    axes.grid(visible=True, which="both", alpha=0.25)
    _plot.legend(drawing, axes)
    _plot.write(drawing, path)


if __name__ == "__main__":
    main()
