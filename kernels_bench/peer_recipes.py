"""Makes the files that an engine in an environment of its own is loaded from, before anything is timed.

    python peer_recipes.py RECIPE CHECKPOINT WORK       exports or quantises, into WORK/RECIPE

It runs in the peers' environments, which lack paritas.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Recipe:
    """How the files of an engine are made."""

    environment: str
    make: Callable[[str, Path], None]
    """Takes checkpoint and WORK."""
    needs: str | None = None
    """The recipe whose files it reads."""


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


def main(arguments: list[str]) -> None:
    """Follow the recipe that the first argument names."""
    match arguments:
        case [recipe, checkpoint, work] if recipe in RECIPES:
            RECIPES[recipe].make(checkpoint, Path(work))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
