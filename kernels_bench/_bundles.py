"""Checkpoints and bundles that benchmarks make up: full-size random weights, and bundles read otherwise."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from paritas.export.checkpoint.sources import open_checkpoint
from paritas.export.networks.config import read_network
from paritas.registry import load_registry

SIMLM = "simlm-base-msmarco-finetuned"
_TOKENIZER_OF = "all-MiniLM-L6-v2"  # the same vocabulary

_SIMLM_CONFIG = {
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


def write_simlm(directory: Path) -> None:
    """Write a checkpoint with SimLM's configuration, a BERT-base's, and seeded random weights."""
    from safetensors.numpy import save_file

    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(_SIMLM_CONFIG), encoding="utf-8")
    generator = np.random.default_rng(0)
    weights = {}
    for _, name, shape in read_network(_SIMLM_CONFIG, "config").parameters():
        centre = 1.0 if name.endswith("LayerNorm.weight") else 0.0
        weights[name] = (centre + 0.02 * generator.standard_normal(shape)).astype(np.float32)
    save_file(weights, directory / "model.safetensors")
    with open_checkpoint(_TOKENIZER_OF, load_registry()[_TOKENIZER_OF], "package") as other:
        shutil.copy(other.directory / "tokenizer.json", directory)


def with_contract(bundle: Path, directory: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Make a bundle of the same files under another contract, and return its directory.

    The files are links, so their digests hold.

    Args:
        bundle: the bundle's directory.
        directory: where the other one goes.
        change: changes the contract, as manifest.json holds it, in place.
    """
    directory.mkdir()
    for path in bundle.iterdir():
        (directory / path.name).symlink_to(path.resolve())
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    change(manifest["contract"])
    manifest.pop("manifest_sha256", None)
    (directory / "manifest.json").unlink()
    (directory / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return directory
