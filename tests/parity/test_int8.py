"""INT8 at full size: near FP32 on texts nobody calibrated on, and the same bits whatever runs beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paritas.engine.encoder import Encoder
from paritas.export import export_model
from paritas.export.certificate.certify import compare
from tests.parity.conftest import Zoo

# A twin's weights are random: they show that the network exports and runs, and nothing of quality.
BUNDLES: list[Any] = [
    ("all-MiniLM-L6-v2", "native"),
    ("all-MiniLM-L6-v2", "optimum"),
    pytest.param("simlm-base-msmarco-finetuned", "native", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "frontend"), BUNDLES)
def test_int8_is_near_pytorch(zoo: Zoo, name: str, frontend: Any) -> None:
    bundle = zoo.int8(name, frontend)
    with Encoder(bundle, precision="int8") as encoder:
        for role in bundle.manifest.contract.roles:
            figures = compare(encoder.encode(zoo.texts(name, role), role=role), zoo.pytorch(name, role))
            print(f"{name} {frontend} {role}: mean {figures.mean_cosine:.5f}, min {figures.min_cosine:.5f}")
            assert figures.mean_cosine >= 0.996
            assert figures.min_cosine >= 0.985


@pytest.mark.parametrize(("name", "frontend"), BUNDLES)
def test_an_int8_vector_is_the_same_bits_whatever_runs_beside_it(zoo: Zoo, name: str, frontend: Any) -> None:
    bundle = zoo.int8(name, frontend)
    role = next(iter(bundle.manifest.contract.roles))
    texts = zoo.texts(name, role)[::3]
    with Encoder(bundle, precision="int8") as encoder:
        alone = np.concatenate([encoder.encode([text], role=role) for text in texts])
        assert np.array_equal(encoder.encode(texts[::-1], role=role)[::-1], alone)
    for options in ({"max_batch_tokens": 64}, {"max_batch_tokens": 4096}, {"threads": 1}):
        with Encoder(bundle, precision="int8", **options) as other:
            assert np.array_equal(other.encode(texts, role=role), alone), options


@pytest.mark.slow
def test_a_full_size_twin_is_a_quarter_of_fp32_and_the_same_twice(zoo: Zoo, tmp_path: Path) -> None:
    name = "simlm-base-msmarco-finetuned"
    first, exact = zoo.int8(name, "native").manifest.files, zoo.bundle(name, "native").manifest.files
    again = export_model(
        name,
        source=str(zoo.checkpoint(name)),
        precisions=("int8",),
        out=tmp_path / "again",
        registry=zoo.models,
    ).manifest.files
    eight = [first[file] for file in ("model.int8.onnx", "model.int8.onnx.data")]
    assert eight == [again[file] for file in ("model.int8.onnx", "model.int8.onnx.data")]
    full = exact["model.fp32.onnx"].size_bytes + exact["model.fp32.onnx.data"].size_bytes
    assert sum(entry.size_bytes for entry in eight) < 0.28 * full
