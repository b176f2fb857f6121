"""CLS pooling reads one token's vector, and the last layer computes no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.export import export_model, precisions
from paritas.export.graph.weights_file import WeightsFile
from paritas.export.int8.calibration import built_in_texts
from paritas.export.networks.graph import OUTPUT, export_native
from paritas.registry import Precision
from tests.unit.export.entries import entry
from tests.unit.tiny import WIDE, write_tiny_bert, write_tiny_mpnet

KINDS = pytest.mark.parametrize("kind", ["bert", "mpnet"])
ALL: tuple[Precision, ...] = ("fp32", "fp16", "int8")
TEXTS = ["", *(line[:60] for line in built_in_texts("certificate"))]


def checkpoint_of(kind: str, directory: Path) -> Path:
    write = write_tiny_bert if kind == "bert" else write_tiny_mpnet
    return write(directory, **WIDE)


def run(directory: Path, graph: str, *names: str) -> list[NDArray[np.float32]]:
    """These tensors for three texts of 17 tokens; the second is padded by 5 and the third has but one."""
    model = onnx.load(directory / graph, load_external_data=False)
    exposed = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in exposed)
    (directory / "exposed.onnx").write_bytes(model.SerializeToString())
    mask = np.arange(17) < np.array([[17], [12], [1]])
    given = {
        "input_ids": np.where(mask, np.random.default_rng(0).integers(6, 80, mask.shape), 1),
        "attention_mask": mask.astype(np.int64),
        "token_type_ids": ((np.arange(17) > 8) & mask).astype(np.int64),
    }
    session = onnxruntime.InferenceSession(
        str(directory / "exposed.onnx"), providers=["CPUExecutionProvider"]
    )
    found: list[NDArray[np.float32]] = session.run(
        list(names), {value.name: given[value.name] for value in session.get_inputs()}
    )
    return found


@pytest.fixture(params=["bert", "mpnet"])
def graphs(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A directory with all.onnx and first.onnx over one weights file."""
    checkpoint = checkpoint_of(request.param, tmp_path / "checkpoint")
    with WeightsFile(tmp_path / "weights") as file:
        for name, first_only in (("all", False), ("first", True)):
            model = export_native(checkpoint, file, first_only=first_only)
            (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
    return tmp_path


def test_the_first_tokens_vector_is_the_same(graphs: Path) -> None:
    (everything,), (first,) = (run(graphs, f"{name}.onnx", OUTPUT) for name in ("all", "first"))
    assert (everything.shape, first.shape) == ((3, 17, 64), (3, 1, 64))
    np.testing.assert_allclose(first, everything[:, :1], rtol=0, atol=1e-6)


def test_only_keys_and_values_of_the_last_layer_are_computed_for_every_token(graphs: Path) -> None:
    every = ("layer.0.query.sum", "layer.0.gelu", "layer.1.key.sum", "layer.1.value.sum")
    first = ("layer.1.query.sum", "layer.1.scores", "layer.1.attention_output.sum", "layer.1.gelu")
    found = run(graphs, "first.onnx", *every, *first)
    assert [value.size // value.shape[-1] for value in found[: len(every)]] == [3 * 17] * len(every)
    scores = found.pop(len(every) + 1)
    assert [value.size // value.shape[-1] for value in found[len(every) :]] == [3] * (len(first) - 1)
    assert scores.shape == (3, 4, 1, 17)


def test_both_graphs_read_the_same_bytes(graphs: Path) -> None:
    def places(name: str) -> dict[str, list[str]]:
        tensors = onnx.load(graphs / name, load_external_data=False).graph.initializer
        return {tensor.name: [entry.value for entry in tensor.external_data] for tensor in tensors}

    first, everything = places("first.onnx"), places("all.onnx")
    assert {name: place for name, place in first.items() if place} == {
        name: place for name, place in everything.items() if place
    }


def export(kind: str, directory: Path, out: str, *, pooling: str = "cls") -> Bundle:
    checkpoint = checkpoint_of(kind, directory / "checkpoint")
    registry = entry(directory, network=kind, dim=64, pooling=pooling, max_length=24)
    return export_model(
        "mine", source=str(checkpoint), precisions=ALL, out=directory / out, registry=registry
    )


@KINDS
def test_a_vector_is_the_same_bits_whatever_runs_beside_it(kind: str, tmp_path: Path) -> None:
    """One text alone is a product of one row in the last layer, which kernels may compute otherwise."""
    bundle = export(kind, tmp_path, "bundle")
    for precision in ALL:
        with Encoder(bundle, precision=precision) as encoder:
            alone = np.concatenate([encoder.encode([text], role="query") for text in TEXTS])
            assert np.array_equal(encoder.encode(TEXTS[::-1], role="query")[::-1], alone), precision
        for options in ({"max_batch_tokens": 50}, {"max_batch_tokens": 4096}, {"threads": 1}):
            with Encoder(bundle, precision=precision, **options) as other:
                assert np.array_equal(other.encode(TEXTS, role="query"), alone), (precision, options)


@KINDS
def test_int8_is_calibrated_on_every_token(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it computes what the graph of all tokens would, and a text's one row is not all that ranges see."""
    first = export(kind, tmp_path, "first")
    monkeypatch.setattr(precisions, "export_native", lambda source, file, **_: export_native(source, file))
    everything = export(kind, tmp_path, "everything")
    assert run(first.directory, "model.int8.onnx", OUTPUT)[0].shape[1] == 1
    assert run(everything.directory, "model.int8.onnx", OUTPUT)[0].shape[1] == 17
    for kernels in (True, False):
        vectors = []
        for bundle in (first, everything):
            with Encoder(bundle, precision="int8", kernels=kernels) as encoder:
                vectors.append(encoder.encode(TEXTS, role="query"))
        # A last bit that tips the rounding of one integer is all the difference there may be. With our
        # kernels there is what attention rounds, too: that of the first token alone is onnxruntime's.
        assert (vectors[0] * vectors[1]).sum(axis=1).min() > 0.9999
    assert np.median(np.abs(vectors[0] - vectors[1])) < 1e-6


def test_mean_pooling_has_every_tokens_vector(tmp_path: Path) -> None:
    bundle = export("bert", tmp_path, "bundle", pooling="mean")
    for graph in ("model.fp32.onnx", "model.int8.onnx", "model.fp16.cpu.onnx"):
        assert run(bundle.directory, graph, OUTPUT)[0].shape == (3, 17, 64)
