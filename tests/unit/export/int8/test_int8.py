"""INT8 bundles with static inputs: what is in them, what they promise, and what cannot be quantised."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from safetensors.numpy import load_file, save_file

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.engine.runtime import precision as precision_module
from paritas.errors import BundleError, ExportError, InputError, ParityError
from paritas.export import export_model
from paritas.export.certificate import certify as certify_module
from paritas.export.graph.weights_file import WeightsFile
from paritas.export.int8 import linear, static
from paritas.export.int8 import quantize as quantize_module
from paritas.export.int8.calibration import Activations, built_in_texts
from paritas.export.int8.linear import linear_layers
from paritas.export.int8.quantizer import Quantizer
from paritas.export.networks.graph import export_native
from paritas.registry import Precision, Registry
from tests.unit.export.entries import entry
from tests.unit.tiny import WIDE, write_tiny_bert, write_tiny_mpnet

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
TEXTS = [line[:60] for line in built_in_texts("certificate")]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("wide") / "wide", **WIDE)


@pytest.fixture(scope="module")
def loud_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One channel behind each GELU reaches far beyond the others."""
    checkpoint = write_tiny_bert(tmp_path_factory.mktemp("loud") / "loud", **WIDE)
    weights = load_file(checkpoint / "model.safetensors")
    for name, value in weights.items():
        if "intermediate.dense" in name:
            value[5] *= 40
    save_file(weights, checkpoint / "model.safetensors")
    return checkpoint


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return entry(tmp_path_factory.mktemp("registry"), dim=64, pooling="mean", max_length=24)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, registry: Registry) -> Bundle:
    """FP32 and INT8. Not to be changed."""
    out = tmp_path_factory.mktemp("int8") / "bundle"
    return export(checkpoint, registry, out)


@pytest.fixture
def int8(bundle: Bundle) -> Iterator[Encoder]:
    with Encoder(bundle, precision="int8") as opened:
        yield opened


def export(checkpoint: Path, registry: Registry, out: Path, **options: Any) -> Bundle:
    options = {"precisions": PRECISIONS, "int8_inputs": "static", **options}
    return export_model("mine", source=str(checkpoint), out=out, registry=registry, **options)


def graph(bundle: Bundle) -> onnx.ModelProto:
    return onnx.load(bundle.directory / "model.int8.onnx", load_external_data=False)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


# What is in the bundle.


def test_every_linear_layer_and_the_word_table_are_8_bits(bundle: Bundle) -> None:
    found = operators(graph(bundle))
    assert found.count("MatMulIntegerToFloat") == 12
    assert found.count("FusedMatMul") == 2  # attention's scores of two layers, the keys read as they lie
    assert found.count("MatMul") == 2  # its contexts
    types = {tensor.name: tensor.data_type for tensor in graph(bundle).graph.initializer}
    assert types["word_embeddings.int8"] == onnx.TensorProto.INT8


def test_the_manifest_says_how_it_was_quantised(bundle: Bundle) -> None:
    variant = bundle.manifest.precisions["int8"]
    made = variant.quantization
    assert made is not None
    assert (made.calibration, made.layers, made.kept_fp32, made.fp32_budget) == ("built-in", 12, [], 0.10)
    assert made.texts > 60
    assert made.tokens > 800
    assert made.held_out.probes > 10
    assert made.held_out.mean_cosine > 0.999
    assert bundle.manifest.precisions["fp32"].quantization is None


def test_the_certificate_tells_texts_apart_by_length_and_knows_its_cpu(bundle: Bundle) -> None:
    certificate = bundle.manifest.precisions["int8"].certified
    assert list(certificate.by_length) == ["1-16", "17-64"]
    assert sum(figures.probes for figures in certificate.by_length.values()) == certificate.figures.probes
    assert certificate.bound.mean_cosine == 0.996
    figures = certificate.figures
    assert figures.min_cosine <= figures.p1_cosine <= figures.mean_cosine <= 1
    assert certificate.instructions == precision_module.instructions()


def test_the_same_inputs_give_the_same_files(
    tmp_path: Path, bundle: Bundle, checkpoint: Path, registry: Registry
) -> None:
    again = export(checkpoint, registry, tmp_path / "again", precisions=["int8"])
    for name in ("model.int8.onnx", "model.int8.onnx.data"):
        assert again.manifest.files[name] == bundle.manifest.files[name]
    assert "model.fp32.onnx" not in again.manifest.files
    assert sorted(path.name for path in again.directory.iterdir()) == sorted(
        [*again.manifest.files, "manifest.json"]
    )


def test_an_mpnet_with_int8_alone_is_certified(tmp_path: Path) -> None:
    source = write_tiny_mpnet(tmp_path / "mpnet", **WIDE)
    registry = entry(tmp_path, network="mpnet", dim=64, pooling="mean", max_length=24)
    made = export(source, registry, tmp_path / "out", precisions=["int8"])
    assert made.manifest.precisions["int8"].certified.figures.mean_cosine > 0.996


# What vectors promise.


def test_a_vector_is_the_same_bits_whatever_runs_beside_it(bundle: Bundle, int8: Encoder) -> None:
    alone = np.concatenate([int8.encode([text], role="query") for text in TEXTS])
    assert np.array_equal(int8.encode(TEXTS, role="query"), alone)
    assert np.array_equal(int8.encode(TEXTS[::-1], role="query")[::-1], alone)
    for options in ({"max_batch_tokens": 24}, {"max_batch_tokens": 4096}, {"threads": 1}, {"threads": 2}):
        with Encoder(bundle, precision="int8", **options) as other:
            assert np.array_equal(other.encode(TEXTS, role="query"), alone), options


def test_vectors_are_near_fp32s_and_not_the_same(bundle: Bundle, int8: Encoder) -> None:
    with Encoder(bundle) as exact:
        cosine = (int8.encode(TEXTS, role="query") * exact.encode(TEXTS, role="query")).sum(axis=1)
    assert cosine.min() > 0.99
    assert cosine.max() < 1 - 1e-7


def test_int8_vectors_are_a_family_of_their_own(int8: Encoder) -> None:
    assert int8.family == "int8"


# Which CPU.


def on(monkeypatch: pytest.MonkeyPatch, *instructions: str) -> None:
    monkeypatch.setattr(precision_module, "instructions", lambda: list(instructions))


@pytest.mark.parametrize("name", ["avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"])
def test_auto_takes_int8_where_bytes_are_multiplied_fast(
    name: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on(monkeypatch, "avx2", name)
    with caplog.at_level(logging.INFO, "paritas"), Encoder(bundle, precision="auto") as chosen:
        assert (chosen.precision, chosen.contract.precision) == ("int8", "int8")
        assert chosen.contract.reason.startswith(f"{name} multiplies bytes fast; certified, mean cosine ")
    assert f"mine: precision int8: {name}" in caplog.text


def test_auto_takes_fp32_where_they_are_not_and_says_why(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on(monkeypatch, "avx2", "avx512f")
    with caplog.at_level(logging.INFO, "paritas"), Encoder(bundle, precision="auto") as chosen:
        assert chosen.precision == "fp32"
        assert chosen.contract.reason == "without a byte dot product (avx2 avx512f) INT8 is slower"
    assert "precision fp32" in caplog.text


def test_auto_takes_what_there_is(
    bundles: dict[str, Bundle],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    checkpoint: Path,
    registry: Registry,
) -> None:
    with Encoder(bundles["tiny-bert"], precision="auto") as chosen:
        assert (chosen.precision, chosen.contract.reason) == ("fp32", "the bundle has no INT8")
    only = export(checkpoint, registry, tmp_path / "only", precisions=["int8"])
    on(monkeypatch, "avx2")
    with Encoder(only, precision="auto") as chosen:
        assert chosen.precision == "int8"
        assert "but the bundle has no FP32" in chosen.contract.reason


@pytest.mark.parametrize(
    ("certified", "here", "said"),
    [
        (
            "avx512_vnni",
            "asimd",
            "with avx512_vnni, this CPU has no byte dot product; its integers are the same, but slower",
        ),
        (
            "avx2",
            "avx512_vnni",
            "with no byte dot product, this CPU has avx512_vnni; its integers are the same, computed by",
        ),
    ],
)
def test_a_cpu_unlike_the_one_of_the_certificate_says_so(
    certified: str,
    here: str,
    said: str,
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    copied = shutil.copytree(bundle.directory, tmp_path / "bundle")
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["precisions"]["int8"]["certificate"]["instructions"] = [certified]
    del manifest["manifest_sha256"]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    on(monkeypatch, certified)
    Encoder(copied, precision="int8").close()
    assert not caplog.records
    on(monkeypatch, here)
    Encoder(copied, precision="int8").close()
    assert said in caplog.text
    assert f"paritas verify {copied}" in caplog.text


def test_the_contract_keeps_what_was_asked_for(int8: Encoder) -> None:
    assert (int8.contract.precision, int8.contract.reason) == ("int8", "asked for")
    assert int8.contract.dim == int8.bundle.manifest.contract.dim


def test_int8_on_another_provider_is_refused(bundle: Bundle) -> None:
    with pytest.raises(InputError, match='INT8 graphs are for CPUs; take precision="fp16"'):
        Encoder(bundle, precision="int8", provider="cuda")


def test_a_bundle_without_int8_says_what_to_type(bundles: dict[str, Bundle]) -> None:
    with pytest.raises(BundleError, match="no precision 'int8', it has fp32, fp16; type: paritas export"):
        Encoder(bundles["tiny-bert"], precision="int8")


def test_verify_proves_int8_again_and_leaves_it_out_elsewhere(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bundle.manifest.precisions["int8"].certified
    found = certify_module.verify(Bundle(bundle.directory))["int8"]
    assert (found.figures, found.by_length) == (before.figures, before.by_length)
    asked: list[str] = []
    monkeypatch.setattr(
        certify_module, "certify", lambda _bundle, precision, *_, **__: asked.append(precision)
    )
    certify_module.verify(Bundle(bundle.directory), provider="cuda")
    assert asked == ["fp32"]


# What cannot be quantised, or not well enough.


def test_a_graph_without_matrices_worth_it_is_refused(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    with pytest.raises(ExportError, match="no linear layer"):
        export_model(
            "tiny-bert",
            source=str(checkpoints["tiny-bert"]),
            precisions=["int8"],
            out=tmp_path / "out",
            registry=tiny_registry,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_is_quantised_already_is_refused(bundle: Bundle) -> None:
    with pytest.raises(
        ExportError, match=r"quantised already \(it holds MatMulIntegerToFloat, QuantizeLinear\)"
    ):
        linear_layers(graph(bundle))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activations_that_are_not_finite_are_refused(
    value: float, tmp_path: Path, checkpoint: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = Activations.of

    def poisoned(self: Any, tokens: Any) -> Any:
        session_fetch = self._session.fetch
        self._session.fetch = lambda *a: [
            np.where(np.arange(v.shape[-1]) == 3, value, v) for v in session_fetch(*a)
        ]
        return fetch(self, tokens)

    monkeypatch.setattr(Activations, "of", poisoned)
    with pytest.raises(ExportError, match="holds NaN or infinite values for a text of 24 tokens"):
        export(checkpoint, registry, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_layers_that_hurt_stay_fp32_within_the_budget(tmp_path: Path, checkpoint: Path) -> None:
    # No INT8 is as near as this asks, so the whole budget is used, and then the certificate refuses.
    strict = entry(tmp_path, dim=64, pooling="mean", max_length=24, bounds="{int8: {min_cosine: 0.9999999}}")
    steps: list[str] = []
    with pytest.raises(ParityError, match=r"^mine int8: smallest cosine 0\.99\d+ < 1 over"):
        export(checkpoint, strict, tmp_path / "out", report=steps.append)
    kept = [step for step in steps if "stay FP32" in step]
    assert len(kept) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["entry.yaml"]


def test_layers_kept_are_named_and_the_outcome_is_better(
    tmp_path: Path, checkpoint: Path, registry: Registry, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False, True])
    monkeypatch.setattr(quantize_module, "_holds", lambda *_: next(answers))
    monkeypatch.setattr(quantize_module, "FP32_BUDGET", 0.5)
    made = export(checkpoint, registry, tmp_path / "out").manifest.precisions["int8"]
    assert made.quantization is not None
    kept = made.quantization.kept_fp32
    assert kept
    assert set(kept) < {
        layer.name for layer in linear_layers(onnx.load(bundle.directory / "model.fp32.onnx"))
    }
    before = bundle.manifest.precisions["int8"].certified.figures
    assert made.certificate.figures.mean_cosine > before.mean_cosine


def multiplied(bundle: Bundle) -> list[str]:
    """The sources that a node of their own multiplies by their factors."""
    return [node.input[0] for node in graph(bundle).graph.node if node.name.endswith(".even")]


def test_factors_of_attentions_context_are_in_the_columns_of_its_values(
    tmp_path: Path, checkpoint: Path, registry: Registry, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert multiplied(bundle)
    assert not any("context" in source for source in multiplied(bundle))
    monkeypatch.setattr(static, "attention_values", lambda *_: {})
    apart = export(checkpoint, registry, tmp_path / "out", precisions=["int8"])
    assert any("context" in source for source in multiplied(apart))
    with Encoder(bundle, precision="int8") as folded, Encoder(apart, precision="int8") as plain:
        ours, theirs = (encoder.encode(TEXTS, role="query") for encoder in (folded, plain))
    # A last bit that tips the rounding of one integer is all the difference there may be.
    assert (ours * theirs).sum(axis=1).min() > 0.9999
    assert np.median(np.abs(ours - theirs)) < 1e-6


def test_overflow_behind_a_gelu_is_computed_by_the_layer_before(
    tmp_path: Path, loud_checkpoint: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = export(loud_checkpoint, registry, tmp_path / "made")
    nodes = {node.name for node in graph(made).graph.node}
    widths = {tensor.name: list(tensor.dims) for tensor in graph(made).graph.initializer}
    inner, outer = WIDE["intermediate_size"], WIDE["hidden_size"]
    for layer in ("layer.0", "layer.1"):
        assert f"{layer}.gelu.overflow" not in nodes
        more = widths[f"{layer}.intermediate.product.int8"][1] - inner
        assert more in range(16, 64, 16)
        assert widths[f"{layer}.output.product.int8"] == [inner + more, outer]
    monkeypatch.setattr(static, "rectified_outputs", lambda *_: {})
    apart = export(loud_checkpoint, registry, tmp_path / "apart")
    assert "layer.0.gelu.overflow" in {node.name for node in graph(apart).graph.node}
    for bundle in (made, apart):
        assert bundle.manifest.precisions["int8"].certified.figures.mean_cosine > 0.9999


@pytest.mark.parametrize("kept", ["value", "attention_output", "intermediate", "output"])
def test_columns_fit_what_reads_them_though_either_layer_stays_fp32(
    kept: str, tmp_path: Path, loud_checkpoint: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False, True])
    monkeypatch.setattr(quantize_module, "_holds", lambda *_: next(answers))
    monkeypatch.setattr(Quantizer, "most_harmful", lambda *_: [f"layer.0.{kept}.product"])
    made = export(loud_checkpoint, registry, tmp_path / "out").manifest.precisions["int8"]
    assert made.quantization is not None
    assert made.quantization.kept_fp32 == [f"layer.0.{kept}.product"]
    assert made.certificate.figures.mean_cosine > 0.998


def test_layers_before_a_rectifier_are_found_only_where_nothing_else_reads_them(bundle: Bundle) -> None:
    model = onnx.load(bundle.directory / "model.fp32.onnx", load_external_data=False)
    layers = linear_layers(model)
    expected = {f"layer.{n}.gelu": f"layer.{n}.intermediate.product" for n in range(2)}
    assert linear.rectified_outputs(model, layers) == expected
    next(node for node in model.graph.node if node.name == "layer.0.gelu").op_type = "Relu"
    assert linear.rectified_outputs(model, layers) == expected
    model.graph.output.append(helper.make_empty_tensor_value_info("layer.0.gelu"))
    next(node for node in model.graph.node if node.name == "layer.1.gelu").op_type = "Tanh"
    assert linear.rectified_outputs(model, layers) == {}


def test_values_are_found_only_where_nothing_else_reads_them(bundle: Bundle) -> None:
    model = onnx.load(bundle.directory / "model.fp32.onnx", load_external_data=False)
    layers = linear_layers(model)
    expected = {f"layer.{n}.context": f"layer.{n}.value.product" for n in range(2)}
    assert linear.attention_values(model, layers) == expected
    model.graph.output.append(helper.make_empty_tensor_value_info("layer.0.value.heads"))
    assert linear.attention_values(model, layers) == {"layer.1.context": "layer.1.value.product"}
    turned = next(node for node in model.graph.node if node.name == "layer.1.rows")
    turned.attribute[0].ints[:] = [0, 1, 2, 3]
    assert linear.attention_values(model, layers) == {}


def test_values_are_found_where_tokens_come_before_texts(tmp_path: Path) -> None:
    with WeightsFile(tmp_path / "weights") as file:
        model = export_native(write_tiny_mpnet(tmp_path / "checkpoint", **WIDE), file)
    expected = {f"layer.{n}.context": f"layer.{n}.value.product" for n in range(2)}
    assert linear.attention_values(model, linear_layers(model)) == expected


def test_values_that_heads_share_are_left_alone(bundle: Bundle) -> None:
    model = onnx.load(bundle.directory / "model.fp32.onnx", load_external_data=False)
    layers = linear_layers(model)
    values = next(layer for layer in layers if layer.name == "layer.0.value.product")
    next(tensor for tensor in model.graph.initializer if tensor.name == values.weight).dims[1] = 16
    assert linear.attention_values(model, layers) == {"layer.1.context": "layer.1.value.product"}


def test_a_bias_that_is_not_a_vector_is_left_to_its_own_add() -> None:
    weight = onnx.numpy_helper.from_array(np.ones((32, 32), np.float32), "w")
    bias = onnx.numpy_helper.from_array(np.ones((1,), np.float32), "b")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], name="product"),
        helper.make_node("Add", ["p", "b"], ["y"], name="sum"),
    ]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 32]) for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight, bias]))
    assert linear_layers(model) == [linear.Linear("product", "x", "w", None, None, "p")]


# Calibration files.


def file_of(directory: Path, lines: list[str]) -> str:
    path = directory / "texts.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    "lines", [["one line"], ["", "  ", ""], ["the same"] * 500, [f"text {n}" for n in range(15)]]
)
def test_a_file_of_too_few_texts_is_refused(
    lines: list[str], tmp_path: Path, checkpoint: Path, registry: Registry
) -> None:
    with pytest.raises(InputError, match=r"texts\.txt: \d+ different texts; expected 16 or more"):
        export(checkpoint, registry, tmp_path / "out", calibration=file_of(tmp_path, lines))
    assert [path.name for path in tmp_path.iterdir()] == ["texts.txt"]


def test_a_file_of_one_language_and_long_texts_is_used_beside_the_built_in_ones(
    tmp_path: Path, checkpoint: Path, registry: Registry, bundle: Bundle
) -> None:
    lines = [f"номер {n} " + "и ещё слово " * 40 for n in range(400)]
    made = export(checkpoint, registry, tmp_path / "out", calibration=file_of(tmp_path, lines))
    used, default = (b.manifest.precisions["int8"].quantization for b in (made, bundle))
    assert used is not None
    assert default is not None
    assert used.calibration == "texts.txt, built-in"
    assert used.calibration_sha256 != default.calibration_sha256
    assert 200 <= used.texts + used.held_out.probes - default.texts - default.held_out.probes <= 256
    assert used.truncated - default.truncated >= 200
    assert "номер" not in (made.directory / "probes.json").read_text(encoding="utf-8")


def test_json_lines_are_taken_as_documents(tmp_path: Path, checkpoint: Path, registry: Registry) -> None:
    lines = [f'{{"_id": "{n}", "title": "t", "text": "text {n}"}}' for n in range(20)]
    made = export(checkpoint, registry, tmp_path / "out", calibration=file_of(tmp_path, lines))
    assert made.manifest.precisions["int8"].quantization is not None


def test_a_missing_file_is_refused(tmp_path: Path, checkpoint: Path, registry: Registry) -> None:
    with pytest.raises(InputError, match=r"nowhere\.txt: cannot be read"):
        export(checkpoint, registry, tmp_path / "out", calibration=tmp_path / "nowhere.txt")


def test_a_file_without_int8_is_refused(tmp_path: Path, checkpoint: Path, registry: Registry) -> None:
    with pytest.raises(ExportError, match="calibration is for int8"):
        export(checkpoint, registry, tmp_path / "out", precisions=["fp32"], calibration="texts.txt")


def test_the_built_in_texts_are_not_those_of_the_certificate() -> None:
    both = [built_in_texts(name) for name in ("calibration", "certificate")]
    assert not set(both[0]) & set(both[1])
    assert all(line.strip() for lines in both for line in lines)
