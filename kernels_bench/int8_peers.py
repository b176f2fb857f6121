"""One INT8 engine besides paritas, in an environment of its own, as bench_int8 asks for it.

    python int8_peers.py ENGINE CHECKPOINT WORK       reads WORK/texts.json, WORK/calibration.json

Writes the vectors to WORK/ENGINE.npy, then speaks the harness's protocol: a JSON line when ready, one a round
for each "go" it reads, and its peak memory at "end". It does not import paritas, which its environment lacks.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def sentence_transformers_onnx(checkpoint: str, work: Path, calibration: list[str]) -> Any:  # noqa: ARG001
    """Dynamic INT8, the avx512_vnni preset, as sentence-transformers' documentation has it."""
    from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model

    folder = work / "st-onnx"
    exact = SentenceTransformer(checkpoint, backend="onnx", device="cpu")
    exact.save_pretrained(str(folder))
    export_dynamic_quantized_onnx_model(exact, "avx512_vnni", str(folder))
    name = {"file_name": "onnx/model_qint8_avx512_vnni.onnx"}
    return SentenceTransformer(str(folder), backend="onnx", device="cpu", model_kwargs=name).encode


def optimum_onnx(checkpoint: str, work: Path, calibration: list[str]) -> Any:  # noqa: ARG001
    """Dynamic INT8 with a scale a column, by optimum's quantiser, pooled as the model card says."""
    import torch
    from optimum.onnxruntime import ORTModelForFeatureExtraction, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig
    from transformers import AutoTokenizer

    folder = work / "optimum"
    exact = ORTModelForFeatureExtraction.from_pretrained(checkpoint, export=True)
    how = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    ORTQuantizer.from_pretrained(exact).quantize(save_dir=folder, quantization_config=how)
    model = ORTModelForFeatureExtraction.from_pretrained(folder, file_name="model_quantized.onnx")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    longest = json.loads(Path(checkpoint, "sentence_bert_config.json").read_text())["max_seq_length"]

    def encode(texts: list[str]) -> Any:
        found = []
        for start in range(0, len(texts), 32):
            batch = tokenizer(
                texts[start : start + 32],
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


def sentence_transformers_openvino(checkpoint: str, work: Path, calibration: list[str]) -> Any:
    """Static INT8 by OpenVINO, calibrated on the texts given."""
    from datasets import Dataset
    from optimum.intel import OVConfig, OVModelForFeatureExtraction, OVQuantizationConfig, OVQuantizer
    from sentence_transformers import SentenceTransformer
    from transformers import AutoTokenizer

    folder = work / "openvino"
    exact = SentenceTransformer(checkpoint, backend="openvino", device="cpu")
    exact.save_pretrained(str(folder))
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = OVModelForFeatureExtraction.from_pretrained(checkpoint, export=True)
    tokens = Dataset.from_dict({"text": calibration}).map(
        lambda row: tokenizer(row["text"], truncation=True, max_length=256), remove_columns=["text"]
    )
    OVQuantizer.from_pretrained(model).quantize(
        calibration_dataset=tokens,
        save_directory=folder / "openvino",
        ov_config=OVConfig(quantization_config=OVQuantizationConfig()),
    )
    return SentenceTransformer(str(folder), backend="openvino", device="cpu").encode


ENGINES = {
    "sentence-transformers onnx int8": sentence_transformers_onnx,
    "optimum onnx int8, per column": optimum_onnx,
    "openvino static int8": sentence_transformers_openvino,
}


def main() -> None:
    """Quantise, encode once, then serve rounds."""
    engine, checkpoint, work = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    answers, sys.stdout = sys.stdout, sys.stderr  # the libraries print; the protocol's lines go out alone
    texts = json.loads((work / "texts.json").read_text(encoding="utf-8"))
    calibration = json.loads((work / "calibration.json").read_text(encoding="utf-8"))
    encode = ENGINES[engine](checkpoint, work, calibration)
    np.save(work / f"{engine}.npy", np.asarray(encode(texts["quality"]), np.float32))
    encode(texts["speed"])
    print(json.dumps({"contender": engine}), file=answers, flush=True)
    for line in sys.stdin:
        if line.strip() == "end":
            break
        started = time.perf_counter()
        encode(texts["speed"])
        print(json.dumps({"seconds": time.perf_counter() - started}), file=answers, flush=True)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(row.split()[1] for row in status.splitlines() if row.startswith("VmHWM:"))
    print(json.dumps({"peak_rss_mb": round(int(peak) * 1024 / 1e6, 1)}), file=answers, flush=True)


if __name__ == "__main__":
    main()
