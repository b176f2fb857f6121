"""One engine in an environment of its own, as bench_peers and bench_int8 ask for it.

    python peers.py prepare RECIPE CHECKPOINT WORK           exports or quantises, into WORK/RECIPE
    python peers.py serve ENGINE CHECKPOINT WORK [THREADS]   loads, encodes a text, then takes words

Served, it speaks the harness's protocol: a JSON line when the first vector is there, and one for each word
that it reads: "vectors" (encode the quality texts, to WORK/ENGINE.npy), "warm" (encode the warm texts), "go"
(the seconds that the speed texts take), "queries" (the seconds of each query, one at a time), "versions",
"end" (the peak memory). Texts are in WORK/texts.json. What fails is answered as {"error": reason}. Without
THREADS all engines keep their defaults.

It does not import paritas, which the peers' environments lack, but where paritas is the engine.
"""

from __future__ import annotations

import json
import shutil
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
class Recipe:
    """How the files of an engine are made, before anything is timed."""

    environment: str
    make: Callable[[str, Path], None]
    """Takes checkpoint and WORK."""
    needs: str | None = None
    """The recipe whose files it reads."""


@dataclass(frozen=True)
class Engine:
    """What is compared."""

    environment: str
    """The folder of its interpreter among the peers' environments; "" is paritas's own."""
    load: Callable[[Setup], Encode]
    recipe: str | None = None
    packages: tuple[str, ...] = ()
    """Whose versions its figures depend on."""


# What is made before anything is timed.


def max_length(checkpoint: str) -> int:
    """Return the tokens that the model takes."""
    config = json.loads(Path(checkpoint, "sentence_bert_config.json").read_text(encoding="utf-8"))
    return int(config["max_seq_length"])


def make_onnx(checkpoint: str, work: Path) -> None:
    """Export as sentence-transformers does; the file serves fastembed, light-embed and optimum too."""
    from sentence_transformers import SentenceTransformer

    folder = work / "onnx"
    SentenceTransformer(checkpoint, backend="onnx", device="cpu").save_pretrained(str(folder))
    # fastembed and light-embed cut texts to these and know no sentence_bert_config.json.
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model_max_length"] = config["max_length"] = max_length(checkpoint)
    path.write_text(json.dumps(config), encoding="utf-8")


def make_onnx_int8(checkpoint: str, work: Path) -> None:  # noqa: ARG001
    """Quantise dynamically with the avx512_vnni preset, as sentence-transformers' documentation has it."""
    from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model

    folder = str(shutil.copytree(work / "onnx", work / "onnx-int8"))
    export_dynamic_quantized_onnx_model(
        SentenceTransformer(folder, backend="onnx", device="cpu"), "avx512_vnni", folder
    )


def make_optimum_int8(checkpoint: str, work: Path) -> None:  # noqa: ARG001
    """Quantise dynamically with a scale a column, by optimum's quantiser."""
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    how = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    quantizer = ORTQuantizer.from_pretrained(work / "onnx" / "onnx", file_name="model.onnx")
    quantizer.quantize(save_dir=work / "optimum-int8", quantization_config=how)
    shutil.copy(work / "onnx" / "config.json", work / "optimum-int8")


def make_openvino(checkpoint: str, work: Path) -> None:
    """Export as sentence-transformers does."""
    from sentence_transformers import SentenceTransformer

    exact = SentenceTransformer(checkpoint, backend="openvino", device="cpu")
    exact.save_pretrained(str(work / "openvino"))


def make_openvino_int8(checkpoint: str, work: Path) -> None:
    """Quantise statically, calibrated on WORK/calibration.json."""
    from datasets import Dataset
    from optimum.intel import OVConfig, OVModelForFeatureExtraction, OVQuantizationConfig, OVQuantizer
    from transformers import AutoTokenizer

    folder = shutil.copytree(work / "openvino", work / "openvino-int8")
    calibration = json.loads((work / "calibration.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokens = Dataset.from_dict({"text": calibration}).map(
        lambda row: tokenizer(row["text"], truncation=True, max_length=256), remove_columns=["text"]
    )
    OVQuantizer.from_pretrained(
        OVModelForFeatureExtraction.from_pretrained(checkpoint, export=True)
    ).quantize(
        calibration_dataset=tokens,
        save_directory=folder / "openvino",
        ov_config=OVConfig(quantization_config=OVQuantizationConfig()),
    )


RECIPES = {
    "onnx": Recipe("onnx", make_onnx),
    "onnx-int8": Recipe("onnx", make_onnx_int8, needs="onnx"),
    "optimum-int8": Recipe("onnx", make_optimum_int8, needs="onnx"),
    "openvino": Recipe("openvino", make_openvino),
    "openvino-int8": Recipe("openvino", make_openvino_int8, needs="openvino"),
}


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
        tokenizer = AutoTokenizer.from_pretrained(setup.checkpoint)
        longest = max_length(setup.checkpoint)

        def encode(texts: list[str]) -> Any:
            found = []
            for start in range(0, len(texts), _BATCH):
                batch = tokenizer(
                    texts[start : start + _BATCH],
                    padding=True,
                    truncation=True,
                    max_length=longest,
                    return_tensors="pt",
                )
                hidden = model(**batch).last_hidden_state
                mask = batch["attention_mask"].unsqueeze(-1)
                mean = (hidden * mask).sum(1) / mask.sum(1)
                found.append(torch.nn.functional.normalize(mean).numpy())
            return np.concatenate(found)

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
    """Do as the first argument says."""
    match arguments:
        case ["prepare", recipe, checkpoint, work] if recipe in RECIPES:
            RECIPES[recipe].make(checkpoint, Path(work))
        case ["serve", engine, checkpoint, work] if engine in ENGINES:
            serve(engine, Setup(checkpoint, Path(work), None))
        case ["serve", engine, checkpoint, work, threads] if engine in ENGINES:
            serve(engine, Setup(checkpoint, Path(work), int(threads)))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
