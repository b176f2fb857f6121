"""A graph that is wrong anywhere makes no bundle."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from paritas.engine.bundle.directory import Bundle
from paritas.engine.bundle.manifest import Variant
from paritas.errors import ExportError, ParityError
from paritas.export import export_model, precisions
from paritas.export.graph.weights_file import WeightsFile
from paritas.registry import Precision, Registry
from tests.unit.export.entries import BOTH, entry
from tests.unit.export.faults import ONE_WEIGHT, Fault, let_native_be_wrong, with_attribute, with_constant
from tests.unit.tiny import write_tiny_bert, write_tiny_mpnet


def test_vectors_outside_the_bound_make_no_bundle(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    registry = entry(tmp_path, bounds="{fp32: {max_abs_diff: 0}}")
    out = tmp_path / "new" / "out"
    with pytest.raises(
        ParityError,
        match=r"^mine fp32: largest difference \S+ > 0 over 30 probes; "
        r"worst: (#\d+, role query, '[^;]*(; )?){3}$",
    ):
        export_model("mine", source=str(checkpoints["tiny-bert"]), out=out, registry=registry)
    assert list(out.parent.iterdir()) == []


def test_one_precision_outside_its_bound_takes_the_other_with_it(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    registry = entry(tmp_path, bounds="{fp16: {min_cosine: 1, max_abs_diff: 0}}")
    out = tmp_path / "new" / "out"
    with pytest.raises(
        ParityError,
        match=r"^mine fp16: largest difference \S+ > 0 and smallest cosine \S+ < 1 over 30 probes",
    ):
        export_model(
            "mine", source=str(checkpoints["tiny-bert"]), precisions=BOTH, out=out, registry=registry
        )
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        pytest.param("tiny-bert", ONE_WEIGHT, id="bert: one weight"),
        pytest.param("tiny-mpnet", ONE_WEIGHT, id="mpnet: one weight"),
        pytest.param("tiny-bert", with_attribute("Gelu", approximate="tanh"), id="bert: gelu by tanh"),
        pytest.param("tiny-bert", with_attribute("LayerNormalization", epsilon=1e-5), id="bert: epsilon"),
        pytest.param("tiny-mpnet", with_attribute("LayerNormalization", epsilon=1e-12), id="mpnet: epsilon"),
        pytest.param(
            "tiny-bert",
            with_constant("position_embeddings", lambda table: np.roll(table, 1, axis=0)),
            id="bert: positions from 1",
        ),
        pytest.param(
            "tiny-mpnet",
            with_constant("position_embeddings", lambda table: np.roll(table, 1, axis=0)),
            id="mpnet: positions from 1",
        ),
        pytest.param(
            "tiny-bert",
            with_constant("token_type_embeddings", lambda table: table[[0, 0]]),
            id="bert: one token type",
        ),
        pytest.param(
            "tiny-bert",
            with_constant("layer.0.query.weight", lambda weight: weight * np.sqrt(8)),
            id="bert: scores not scaled",
        ),
        pytest.param(
            "tiny-mpnet",
            with_constant("relative_bias.by_distance", lambda table: table[:, ::-1]),
            id="mpnet: distances the other way",
        ),
        pytest.param(
            "tiny-mpnet", with_constant("layer.1.value.bias", np.zeros_like), id="mpnet: a bias left out"
        ),
        pytest.param("tiny-bert", with_constant("mask.lowest", np.zeros_like), id="bert: padding attended"),
        pytest.param("tiny-mpnet", with_constant("mask.lowest", np.zeros_like), id="mpnet: padding attended"),
    ],
)
def test_a_graph_with_a_fault_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_registry: Registry, name: str, fault: Fault
) -> None:
    write = write_tiny_bert if name == "tiny-bert" else write_tiny_mpnet
    checkpoint = write(tmp_path / "checkpoint")
    # Embeddings as small as trained ones, where an epsilon counts.
    weights = load_file(checkpoint / "model.safetensors")
    for key in weights:
        if key.endswith("_embeddings.weight"):
            weights[key] *= np.float32(0.05)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "new" / "out"
    export_model(name, source=str(checkpoint), out=out, registry=tiny_registry)
    shutil.rmtree(out)
    let_native_be_wrong(monkeypatch, fault)
    with pytest.raises(ParityError, match=f"^{name} fp32: largest difference .* > 1e-05 over"):
        export_model(name, source=str(checkpoint), out=out, registry=tiny_registry)
    assert list(out.parent.iterdir()) == []


def position_table(model: onnx.ModelProto) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == "position_embeddings")


@pytest.mark.parametrize("precision", BOTH)
def test_a_fault_of_the_graph_for_one_length_alone_is_found_out(
    precision: Precision,
    tmp_path: Path,
    checkpoints: dict[str, Path],
    tiny_registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut = precisions.without_mask

    def wrong(*arguments: Any) -> onnx.ModelProto | None:
        result = cut(*arguments)
        assert result is not None
        position_table(result).raw_data = position_table(result).raw_data[::-1]
        return result

    monkeypatch.setattr(precisions, "without_mask", wrong)
    with pytest.raises(ParityError, match=f"tiny-mpnet {precision}: "):
        export_model(
            "tiny-mpnet",
            source=str(checkpoints["tiny-mpnet"]),
            precisions=(precision,),
            out=tmp_path / "out",
            registry=tiny_registry,
        )


def test_a_fault_of_the_graph_for_padded_batches_alone_is_found_out_in_long_texts_too(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table's last row serves texts of max_length only."""
    cut = precisions.without_mask
    right: list[bytes] = []

    def fault(graph: onnx.GraphProto) -> None:
        table = next(tensor for tensor in graph.initializer if tensor.name == "position_embeddings")
        right.append(table.raw_data)
        table.raw_data = table.raw_data[: -4 * 16] + bytes(4 * 16)

    def mended(*arguments: Any) -> onnx.ModelProto | None:
        result = cut(*arguments)
        assert result is not None
        position_table(result).raw_data = right[0]
        return result

    let_native_be_wrong(monkeypatch, fault)
    monkeypatch.setattr(precisions, "without_mask", mended)
    with pytest.raises(ParityError, match="tiny-mpnet fp32: largest difference"):
        export_model(
            "tiny-mpnet",
            source=str(checkpoints["tiny-mpnet"]),
            out=tmp_path / "out",
            registry=tiny_registry,
        )


def test_padded_batches_in_the_graph_for_one_length_are_found_out(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Variant, "graph_for", lambda variant, **_: variant.unpadded_graph)
    with pytest.raises(ParityError, match="tiny-mpnet fp32: largest difference"):
        export_model(
            "tiny-mpnet",
            source=str(checkpoints["tiny-mpnet"]),
            out=tmp_path / "out",
            registry=tiny_registry,
        )


def test_a_precision_whose_graph_does_not_run_is_named(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: onnx.ModelProto) -> onnx.ModelProto:
        model.graph.node[-1].op_type = "NoOperator"
        return model

    monkeypatch.setattr(precisions, "simulate_fp16", broken)
    with pytest.raises(ExportError, match=r"^tiny-bert: fp16 cannot be made of this network.*without fp16: "):
        export_model(
            "tiny-bert",
            source=str(checkpoints["tiny-bert"]),
            precisions=BOTH,
            out=tmp_path / "out",
            registry=tiny_registry,
        )
    assert list(tmp_path.iterdir()) == []


def test_where_the_mask_is_needed_one_graph_serves_all_batches(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precisions, "without_mask", lambda *_: None)
    bundle = export_model(
        "tiny-mpnet",
        source=str(checkpoints["tiny-mpnet"]),
        precisions=BOTH,
        out=tmp_path / "out",
        registry=tiny_registry,
    )
    assert list(bundle.directory.glob("*equal_length*")) == []
    for variant in bundle.manifest.precisions.values():
        assert variant.unpadded_graph == variant.cpu_graph


def test_the_graph_for_accelerators_is_certified_too(
    tmp_path: Path,
    checkpoints: dict[str, Path],
    tiny_registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    convert = precisions.half_compute

    def wrong(model: onnx.ModelProto, directory: Path, weights: WeightsFile) -> onnx.ModelProto:
        result = convert(model, directory, weights)
        for node in result.graph.node:
            if node.op_type == "Softmax":
                node.op_type = "Identity"
                del node.attribute[:]
        return result

    monkeypatch.setattr(precisions, "half_compute", wrong)
    with pytest.raises(ParityError, match="tiny-bert fp16: smallest cosine"):
        export_model(
            "tiny-bert",
            source=str(checkpoints["tiny-bert"]),
            precisions=("fp16",),
            out=tmp_path / "out",
            registry=tiny_registry,
        )


def test_products_beyond_fp16_are_found_out_without_an_accelerator(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    """Each weight fits FP16, and so would every sum in FP32; what lies between does not."""
    checkpoint = shutil.copytree(checkpoints["tiny-bert"], tmp_path / "checkpoint")
    weights = load_file(checkpoint / "model.safetensors")
    dense = weights["encoder.layer.0.output.dense.weight"]
    dense *= np.float32(60_000) / np.abs(dense).max()
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "out"
    export_model("tiny-bert", source=str(checkpoint), out=out, registry=tiny_registry)
    with pytest.raises(ParityError, match="tiny-bert fp16: smallest cosine"):
        export_model("tiny-bert", source=str(checkpoint), precisions=BOTH, out=out, registry=tiny_registry)
    assert list(Bundle(out).manifest.precisions) == ["fp32"]
