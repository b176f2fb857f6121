"""One engine in an environment of its own, as bench_peers and bench_int8 ask for it.

    python peers.py ENGINE CHECKPOINT WORK [THREADS]

It speaks the harness's protocol. It writes a JSON line when the first vector is there, and one for each word
that it reads:

    vectors    encode the quality texts, to WORK/ENGINE.npy
    warm       encode the warm texts
    go         the seconds that the speed texts take
    queries    the seconds of each query, one at a time
    versions   of what it runs with
    end        the peak memory

Texts are in WORK/texts.json. What fails is answered as {"error": reason}. Without THREADS all engines keep
their defaults.

It does not import paritas, which the peers' environments lack, but where paritas is the engine.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

Encode = Callable[[list[str]], Any]
"""Texts to vectors, (texts, dim)."""

_BATCH = 32  # of what has no default of its own; sentence-transformers' default


@dataclass(frozen=True)
class Setup:
    """What an engine is loaded from and with."""

    checkpoint: str
    work: Path
    threads: int | None


@dataclass(frozen=True)
class Engine:
    """What is compared."""

    environment: str
    """The folder of its interpreter among the peers' environments; "" is paritas's own."""
    load: Callable[[Setup], Encode]
    recipe: str | None = None
    """What makes its files; see peer_recipes."""
    packages: tuple[str, ...] = ()
    """Whose versions its figures depend on."""


# What is loaded; from here on the clock runs.


def load_paritas(precision: Any) -> Callable[[Setup], Encode]:
    """Return the loader of the bundle at WORK/bundle in a precision."""

    def load(setup: Setup) -> Encode:
        from paritas import Encoder

        encoder = Encoder(setup.work / "bundle", precision=precision, threads=setup.threads)
        return lambda texts: encoder.encode(texts, role="passage")

    return load


def load_torch(dtype: str) -> Callable[[Setup], Encode]:
    """Return the loader of sentence-transformers with PyTorch in a dtype."""

    def load(setup: Setup) -> Encode:
        import torch
        from sentence_transformers import SentenceTransformer

        if setup.threads is not None:
            torch.set_num_threads(setup.threads)
        kwargs = {"dtype": getattr(torch, dtype)}
        return _encode(SentenceTransformer(setup.checkpoint, device="cpu", model_kwargs=kwargs))

    return load


def load_onnx(folder: str, file_name: str) -> Callable[[Setup], Encode]:
    """Return the loader of sentence-transformers with onnxruntime."""

    def load(setup: Setup) -> Encode:
        from sentence_transformers import SentenceTransformer

        kwargs = {"file_name": file_name, **_session_options(setup.threads)}
        path = str(setup.work / folder)
        return _encode(SentenceTransformer(path, backend="onnx", device="cpu", model_kwargs=kwargs))

    return load


def load_openvino(folder: str) -> Callable[[Setup], Encode]:
    """Return the loader of sentence-transformers with OpenVINO."""

    def load(setup: Setup) -> Encode:
        from sentence_transformers import SentenceTransformer

        kwargs = {}
        if setup.threads is not None:
            kwargs["ov_config"] = {"INFERENCE_NUM_THREADS": str(setup.threads)}
        path = str(setup.work / folder)
        return _encode(SentenceTransformer(path, backend="openvino", device="cpu", model_kwargs=kwargs))

    return load


def load_optimum(folder: str, file_name: str, subfolder: str = "") -> Callable[[Setup], Encode]:
    """Return the loader of optimum's ORTModelForFeatureExtraction, pooled as the model cards say."""

    def load(setup: Setup) -> Encode:
        import torch
        from optimum.onnxruntime import ORTModelForFeatureExtraction
        from transformers import AutoTokenizer

        model = ORTModelForFeatureExtraction.from_pretrained(
            setup.work / folder,
            subfolder=subfolder,
            file_name=file_name,
            **_session_options(setup.threads),
        )
        tokenizer = AutoTokenizer.from_pretrained(setup.work / "onnx")  # cuts to the model's max_length

        def encode(texts: list[str]) -> Any:
            vectors = []
            for start in range(0, len(texts), _BATCH):
                batch = tokenizer(
                    texts[start : start + _BATCH],
                    padding=True,
                    truncation=True,
                    return_tensors="pt",
                )
                hidden = model(**batch).last_hidden_state
                mask = batch["attention_mask"].unsqueeze(-1)
                mean = (hidden * mask).sum(1) / mask.sum(1)
                vectors.append(torch.nn.functional.normalize(mean).numpy())
            return np.concatenate(vectors)

        return encode

    return load


def load_fastembed(setup: Setup) -> Encode:
    """Load the exported file as a custom model; nothing is looked up on a hub."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    folder = setup.work / "onnx"
    dim = json.loads((folder / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    TextEmbedding.add_custom_model(
        model="local/model",
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf="local/model"),
        dim=dim,
        model_file="onnx/model.onnx",
    )
    model = TextEmbedding("local/model", specific_model_path=str(folder), threads=setup.threads)
    return lambda texts: np.stack(list(model.embed(texts)))


def load_light_embed(setup: Setup) -> Encode:
    """Load the exported file from its folder."""
    import onnxruntime
    from light_embed import TextEmbedding

    if setup.threads is not None:
        # It has no option for threads, and takes whatever options this makes.
        threads, usual = setup.threads, onnxruntime.SessionOptions

        def options() -> Any:
            made = usual()
            made.intra_op_num_threads = threads
            return made

        onnxruntime.SessionOptions = options
    config = {"onnx_file": "onnx/model.onnx", "pooling_mode": "mean", "normalize": True}
    model = TextEmbedding(str(setup.work / "onnx"), device="cpu", model_config=config)
    return _encode(model)


def _encode(model: Any) -> Encode:
    encode: Encode = model.encode
    return encode


def _session_options(threads: int | None) -> dict[str, Any]:
    import onnxruntime

    if threads is None:
        return {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return {"session_options": options}


_ST = ("sentence-transformers", "transformers")
_ONNX = (*_ST, "optimum-onnx", "onnxruntime")
_OPENVINO = (*_ST, "optimum-intel", "openvino")

ENGINES = {
    "paritas fp32": Engine("", load_paritas("fp32"), packages=("onnxruntime",)),
    "paritas fp16": Engine("", load_paritas("fp16"), packages=("onnxruntime",)),
    "paritas int8": Engine("", load_paritas("int8"), packages=("onnxruntime",)),
    "sentence-transformers torch fp32": Engine("onnx", load_torch("float32"), packages=(*_ST, "torch")),
    "sentence-transformers torch bf16": Engine("onnx", load_torch("bfloat16"), packages=(*_ST, "torch")),
    "sentence-transformers onnx fp32": Engine("onnx", load_onnx("onnx", "onnx/model.onnx"), "onnx", _ONNX),
    "sentence-transformers onnx int8": Engine(
        "onnx", load_onnx("onnx-int8", "onnx/model_qint8_avx512_vnni.onnx"), "onnx-int8", _ONNX
    ),
    "openvino fp32": Engine("openvino", load_openvino("openvino"), "openvino", _OPENVINO),
    "openvino static int8": Engine(
        "openvino", load_openvino("openvino-int8"), "openvino-int8", (*_OPENVINO, "nncf")
    ),
    "optimum onnx fp32": Engine("onnx", load_optimum("onnx", "model.onnx", "onnx"), "onnx", _ONNX),
    "optimum onnx int8, per column": Engine(
        "onnx", load_optimum("optimum-int8", "model_quantized.onnx"), "optimum-int8", _ONNX
    ),
    "fastembed fp32": Engine("fastembed", load_fastembed, "onnx", ("fastembed", "onnxruntime")),
    "light-embed fp32": Engine("light-embed", load_light_embed, "onnx", ("light-embed", "onnxruntime")),
}


# The process.


def serve(name: str, setup: Setup) -> None:
    """Load an engine, encode one text, then answer words until "end"."""
    answers, sys.stdout = sys.stdout, sys.stderr  # the libraries print; the protocol's lines go out alone

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        encode = ENGINES[name].load(setup)
        encode(["what is qa"])
        answer({"engine": name})
        texts = json.loads((setup.work / "texts.json").read_text(encoding="utf-8"))
        for line in sys.stdin:
            answer(_obey(line.strip(), name, setup.work, encode, texts))
            if line.strip() == "end":
                break
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        answer({"error": f"{type(error).__name__}: {reason}"[:300]})
        raise


def _obey(word: str, name: str, work: Path, encode: Encode, texts: dict[str, list[str]]) -> dict[str, Any]:
    if word == "vectors":
        np.save(work / f"{name}.npy", np.asarray(encode(texts["quality"]), np.float32))
        return {}
    if word == "warm":
        return {"seconds": _seconds(encode, texts["warm"])}
    if word == "go":
        return {"seconds": _seconds(encode, texts["speed"])}
    if word == "queries":
        return {"seconds": [_seconds(encode, [query]) for query in texts["queries"]]}
    if word == "versions":
        return {package: metadata.version(package) for package in ENGINES[name].packages}
    if word == "end":
        return {"peak_rss_mb": _peak_rss_mb()}
    raise ValueError(f"unknown word {word!r}; expected vectors, warm, go, queries, versions or end")


def _seconds(encode: Encode, texts: list[str]) -> float:
    started = time.perf_counter()
    encode(texts)
    return time.perf_counter() - started


def _peak_rss_mb() -> float:
    """Return the peak resident memory in MB (10**6 bytes), as the harness does."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    kibibytes = next(row.split()[1] for row in status.splitlines() if row.startswith("VmHWM:"))
    return round(int(kibibytes) * 1024 / 1e6, 1)


def main(arguments: list[str]) -> None:
    """Serve the engine that the first argument names."""
    match arguments:
        case [engine, checkpoint, work] if engine in ENGINES:
            serve(engine, Setup(checkpoint, Path(work), None))
        case [engine, checkpoint, work, threads] if engine in ENGINES:
            serve(engine, Setup(checkpoint, Path(work), int(threads)))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
