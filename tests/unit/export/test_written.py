"""What an export writes: files, manifest, certificate, graphs, the same bytes each time."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import transformers
from onnx import TensorProto

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.errors import ParityError
from paritas.export import export_model
from paritas.registry import (
    Registry,
    Role,
)
from tests.unit.export.checkpoint.checkpoints import install
from tests.unit.export.entries import BOTH, entry
from tests.unit.files import contents, sha256
from tests.unit.tiny import write_tiny_bert, write_tiny_mpnet


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint wide enough that its matrices go into the weights file."""
    directory = tmp_path_factory.mktemp("wide") / "checkpoint"
    return write_tiny_bert(directory, hidden_size=64, intermediate_size=128)


def test_a_bundle_holds_these_files(bundles: dict[str, Bundle]) -> None:
    for bundle in bundles.values():
        assert sorted(path.name for path in bundle.directory.iterdir()) == [
            "manifest.json",
            "model.fp16.cpu.onnx",
            "model.fp16.equal_length.onnx",
            "model.fp16.onnx",
            "model.fp16.onnx.data",
            "model.fp32.equal_length.onnx",
            "model.fp32.onnx",
            "model.fp32.onnx.data",
            "probes.json",
            "reference.npy",
            "tokenizer.json",
        ]


def test_the_manifest_has_size_and_digest_of_every_file(bundles: dict[str, Bundle]) -> None:
    for bundle in bundles.values():
        names = {path.name for path in bundle.directory.iterdir()} - {"manifest.json"}
        assert set(bundle.manifest.files) == names
        for name, file in bundle.manifest.files.items():
            path = bundle.directory / name
            assert (file.sha256, file.size_bytes) == (sha256(path), path.stat().st_size)
        bundle.verify()


def test_the_manifest_says_what_was_exported_and_how(
    bundles: dict[str, Bundle], checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    for name, bundle in bundles.items():
        manifest, model = bundle.manifest, tiny_registry[name]
        assert (manifest.format, manifest.model, manifest.frontend) == (4, name, "native")
        assert manifest.contract.network == model.network
        assert manifest.contract.dim == model.dim
        assert manifest.contract.pooling == model.pooling
        assert manifest.contract.normalize is True
        assert manifest.contract.roles == {
            role: Role(rule.max_length, pair=rule.pair, default_title=rule.default_title)
            for role, rule in model.roles.items()
        }
        assert manifest.tools["onnx"] == onnx.__version__
        assert manifest.tools["numpy"] == np.__version__
        source = manifest.source
        assert (source.kind, source.location, source.revision) == ("directory", name, None)
        assert source.digests == {
            file: sha256(checkpoints[name] / file)
            for file in ("config.json", "tokenizer.json", "model.safetensors")
        }


def test_the_certificate_says_what_was_compared(bundles: dict[str, Bundle], tiny_registry: Registry) -> None:
    for name, bundle in bundles.items():
        probes = json.loads((bundle.directory / "probes.json").read_text(encoding="utf-8"))
        reference = np.load(bundle.directory / "reference.npy")
        assert reference.dtype == np.float32
        assert reference.shape == (len(probes), 16)
        assert list(bundle.manifest.precisions) == list(BOTH)
        for precision, variant in bundle.manifest.precisions.items():
            certificate = variant.certified
            assert certificate.reference == "NumPy float64"
            assert certificate.tokens == f"transformers {transformers.__version__}"
            assert certificate.bound == tiny_registry[name].bound(precision)
            assert certificate.figures.probes == len(probes)
            assert set(certificate.by_role) == {probe["role"] for probe in probes}
            assert sum(figures.probes for figures in certificate.by_role.values()) == len(probes)
            assert certificate.versions["numpy"] == np.__version__
            assert certificate.cpu
            datetime.date.fromisoformat(certificate.date)


def test_tiny_models_are_far_inside_their_bounds(bundles: dict[str, Bundle]) -> None:
    for bundle in bundles.values():
        assert bundle.variant("fp32").certified.figures.max_abs_diff < 1e-6
        assert bundle.variant("fp16").certified.figures.min_cosine > 0.99999


def test_the_tokenizer_is_the_checkpoints(bundles: dict[str, Bundle], checkpoints: dict[str, Path]) -> None:
    for name, bundle in bundles.items():
        assert sha256(bundle.directory / "tokenizer.json") == sha256(checkpoints[name] / "tokenizer.json")


def test_only_fp16_leaves_no_file_of_fp32(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    bundle = export_model(
        "tiny-bert",
        source=str(checkpoints["tiny-bert"]),
        precisions=["fp16"],
        out=tmp_path / "out",
        registry=tiny_registry,
    )
    assert [path.name for path in bundle.directory.glob("*fp32*")] == []
    assert list(bundle.manifest.precisions) == ["fp16"]
    with Encoder(bundle.directory, precision="fp16") as encoder:
        assert encoder.encode(["the ferry"], role="query").shape == (1, 16)


def test_an_fp16_mpnet_for_long_texts_needs_no_file_of_fp32(tmp_path: Path) -> None:
    # Its table of position biases is large, and stays FP32.
    checkpoint = write_tiny_mpnet(tmp_path / "checkpoint", max_position_embeddings=514)
    registry = entry(tmp_path, network="mpnet", pooling="mean", max_length=512)
    alone = export_model(
        "mine", source=str(checkpoint), precisions=["fp16"], out=tmp_path / "alone", registry=registry
    )
    both = export_model(
        "mine", source=str(checkpoint), precisions=BOTH, out=tmp_path / "both", registry=registry
    )
    graphs = ("model.fp16.onnx", "model.fp16.cpu.onnx", "model.fp16.equal_length.onnx")
    for file in (*graphs, "model.fp16.onnx.data"):
        assert sha256(alone.directory / file) == sha256(both.directory / file)
    for graph in graphs:
        tensors = onnx.load(both.directory / graph, load_external_data=False).graph.initializer
        assert "relative_bias.by_distance" in {tensor.name for tensor in tensors}
        assert {place(tensor) for tensor in tensors} == {None, "model.fp16.onnx.data"}


def place(tensor: onnx.TensorProto) -> str | None:
    """The file an initializer lies in; None inside the graph."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return None
    return {item.key: item.value for item in tensor.external_data}["location"]


def test_large_weights_lie_beside_the_graph(tmp_path: Path, wide: Path) -> None:
    """What a protobuf holds may not pass 2 GB; what lies beside it may."""
    bundle = export_model(
        "mine", source=str(wide), precisions=BOTH, out=tmp_path / "out", registry=entry(tmp_path, dim=64)
    )
    for precision in BOTH:
        variant = bundle.variant(precision)
        for graph in (variant.graph, variant.cpu_graph, variant.unpadded_graph):
            model = onnx.load(bundle.directory / graph, load_external_data=False)
            inside = [tensor for tensor in model.graph.initializer if place(tensor) is None]
            outside = [tensor for tensor in model.graph.initializer if place(tensor) is not None]
            # 6 matrices a layer and the tables of words and positions.
            assert len(outside) == 2 * 6 + 2
            assert {place(tensor) for tensor in outside} == set(variant.files)
            assert max(int(np.prod(tensor.dims)) for tensor in inside) < 1024
            assert (bundle.directory / graph).stat().st_size < 64 * 1024


def test_every_tensor_of_a_weights_file_can_be_mapped(tmp_path: Path, wide: Path) -> None:
    bundle = export_model("mine", source=str(wide), out=tmp_path / "out", registry=entry(tmp_path, dim=64))
    model = onnx.load(bundle.directory / "model.fp32.onnx", load_external_data=False)
    end = 0
    for tensor in (tensor for tensor in model.graph.initializer if place(tensor) is not None):
        entries = {item.key: item.value for item in tensor.external_data}
        offset, length = int(entries["offset"]), int(entries["length"])
        assert offset % 4096 == 0
        assert offset >= end
        assert length == 4 * int(np.prod(tensor.dims))
        end = offset + length
    assert end == (bundle.directory / "model.fp32.onnx.data").stat().st_size


@pytest.mark.parametrize(
    ("name", "file", "inputs"),
    [
        ("tiny-bert", "model.fp32.onnx", ["input_ids", "attention_mask", "token_type_ids"]),
        ("tiny-bert", "model.fp32.equal_length.onnx", ["input_ids", "token_type_ids"]),
        ("tiny-mpnet", "model.fp32.onnx", ["input_ids", "attention_mask"]),
        ("tiny-mpnet", "model.fp32.equal_length.onnx", ["input_ids"]),
    ],
)
def test_the_fp32_graphs_are_valid(
    name: str, file: str, inputs: list[str], bundles: dict[str, Bundle]
) -> None:
    path = bundles[name].directory / file
    onnx.checker.check_model(path, full_check=True)
    graph = onnx.load(path, load_external_data=False).graph
    assert [value.name for value in graph.input] == inputs
    assert [value.name for value in graph.output] == ["last_hidden_state"]


def test_two_exports_are_the_same_byte_for_byte(
    tmp_path: Path,
    bundles: dict[str, Bundle],
    checkpoints: dict[str, Path],
    tiny_registry_path: Path,
) -> None:
    """Even from a process whose sets and dictionaries are hashed otherwise."""
    code = (
        "import sys; from paritas.export import export_model\n"
        "for name, source in zip(sys.argv[2::2], sys.argv[3::2]):\n"
        "    export_model(name, source=source, precisions=('fp32', 'fp16'), out=f'{sys.argv[1]}/{name}')\n"
    )
    pairs = [str(part) for pair in checkpoints.items() for part in pair]
    environment = {**os.environ, "PARITAS_REGISTRY": str(tiny_registry_path), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path), *pairs], env=environment, check=True)
    for name, bundle in bundles.items():
        ours, theirs = contents(bundle.directory), contents(tmp_path / name)
        assert list(ours) == list(theirs)
        assert [file for file in ours if ours[file] != theirs[file] and file != "manifest.json"] == []


def test_an_export_goes_into_the_store(
    home: Path, checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    bundle = export_model("tiny-bert", source=str(checkpoints["tiny-bert"]), registry=tiny_registry)
    assert bundle.directory == home / "bundles" / "tiny-bert"
    assert [path.name for path in (home / "bundles").iterdir()] == ["tiny-bert"]
    assert list(bundle.manifest.precisions) == ["fp32"]


def test_the_order_of_precisions_does_not_matter(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    bundle = export_model(
        "tiny-bert",
        source=str(checkpoints["tiny-bert"]),
        precisions=["fp16", "fp32", "fp16"],
        out=tmp_path / "out",
        registry=tiny_registry,
    )
    assert list(bundle.manifest.precisions) == ["fp32", "fp16"]


def test_every_step_is_reported(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    steps: list[str] = []
    export_model(
        "tiny-bert",
        source=str(checkpoints["tiny-bert"]),
        precisions=BOTH,
        out=tmp_path / "out",
        registry=tiny_registry,
        report=steps.append,
    )
    assert steps == [
        "tiny-bert: directory tiny-bert",
        f"tokens: as transformers {transformers.__version__} has them",
        "graph: native front-end",
        "reference: 65 probes through the checkpoint",
        "certified: fp32",
        "certified: fp16",
    ]


def test_only_a_certified_export_records_pins(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_bert(tmp_path / "site" / "tiny_package")
    install(tmp_path / "site", "tiny-package", {}, monkeypatch)
    source = "sources: {package: {distributions: [tiny-package], path: tiny_package}}"
    for bound, certified in (("{fp32: {max_abs_diff: 0}}", False), ("{}", True)):
        registry = entry(tmp_path, bounds=f"{bound}\n    {source}")
        with contextlib.suppress(ParityError):
            export_model("mine", registry=registry)
        assert (home / "pins.json").exists() is certified
        assert (home / "bundles" / "mine").exists() is certified
