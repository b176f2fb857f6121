"""INT8 with dynamic inputs: one bundle for machines with our kernels and for those without."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.engine.runtime import kernels
from paritas.engine.runtime import precision as precision_module
from paritas.engine.runtime.cpus import available_cpus
from paritas.engine.runtime.kernels import Kernels, available_kernels
from paritas.engine.runtime.precision import certified_elsewhere
from paritas.engine.tuned import Tuned, keep_tuned
from paritas.errors import BundleError, ExportError
from paritas.export import export_model
from paritas.export.certificate.certify import verify
from paritas.export.int8 import quantize
from paritas.export.int8.calibration import built_in_texts
from paritas.export.int8.quantizer import Quantizer
from paritas.registry import Registry
from tests.unit.export.entries import entry
from tests.unit.tiny import WIDE, write_tiny_bert, write_tiny_mpnet

OWN = available_kernels().own
TEXTS = [line[:60] for line in built_in_texts("certificate")]
FORMS = [available_kernels().name, "onnxruntime"] if OWN else ["onnxruntime"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("wide") / "wide", **WIDE)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return entry(tmp_path_factory.mktemp("registry"), dim=64, pooling="mean", max_length=24)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, registry: Registry) -> Bundle:
    """FP32 and INT8. Not to be changed."""
    return export(checkpoint, registry, tmp_path_factory.mktemp("dynamic") / "bundle")


def export(checkpoint: Path, registry: Registry, out: Path) -> Bundle:
    return export_model(
        "mine",
        source=str(checkpoint),
        out=out,
        registry=registry,
        precisions=["fp32", "int8"],
        int8_inputs="dynamic",
    )


def vectors(bundle: Bundle, precision: str = "int8", *, own: bool = True, cache: bool = True) -> np.ndarray:
    with Encoder(bundle, precision=precision, kernels=own, cache=cache) as encoder:
        return encoder.encode(TEXTS, role="query")


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARITAS_KERNELS", "none")


def test_a_layer_of_the_network_is_five_of_our_operators(bundle: Bundle) -> None:
    for name, attention in (
        ("model.int8.onnx", "BiasedAttention"),
        ("model.int8.equal_length.onnx", "Attention"),
    ):
        model = onnx.load(bundle.directory / name, load_external_data=False)
        ours = [node.op_type for node in model.graph.node if node.domain == "paritas"]
        assert ours == ["LinearInt8", attention, "LinearNormInt8", "LinearGeluInt8", "LinearNormInt8"] * 2
        assert {function.name for function in model.functions} == set(ours)
        kinds = {node.op_type for node in model.graph.node}
        assert not kinds & {"MatMul", "Gelu", "Softmax", "Split", "QuantizeLinear", "MultiHeadAttention"}
    assert (bundle.directory / "model.int8.onnx.data").stat().st_size < (
        bundle.directory / "model.fp32.onnx.data"
    ).stat().st_size * 0.5


def test_the_certificate_is_of_both_forms(bundle: Bundle) -> None:
    made = bundle.manifest.precisions["int8"]
    assert made.quantization is not None
    assert (made.quantization.inputs, made.quantization.overflow_columns) == ("dynamic", 0)
    assert made.certified.kernels == FORMS
    assert bundle.manifest.precisions["fp32"].certified.kernels == ["onnxruntime"]
    assert verify(bundle)["int8"].kernels == FORMS


def test_a_form_that_is_off_fails_the_export_whichever_it_is(
    tmp_path: Path, checkpoint: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures are over both: here the second form's vectors are turned around."""
    from paritas.export.certificate import certify

    encode, seen = certify.encode_probes, []

    def turned(encoder: Encoder, probes: list) -> np.ndarray:
        seen.append(encoder.contract.kernels)
        sign = -1 if encoder.precision == "int8" and encoder.contract.kernels == FORMS[-1] else 1
        return sign * encode(encoder, probes)

    monkeypatch.setattr(certify, "encode_probes", turned)
    with pytest.raises(ExportError, match="int8: smallest cosine -"):
        export(checkpoint, registry, tmp_path / "out")
    assert seen[-2 * len(FORMS) :] == [form for form in FORMS for _ in range(2)]
    assert not (tmp_path / "out").exists()


def test_both_forms_are_near_fp32_and_nearer_to_each_other(bundle: Bundle) -> None:
    exact, ours, theirs = vectors(bundle, "fp32"), vectors(bundle), vectors(bundle, own=False)
    assert (ours * exact).sum(axis=1).min() > 0.999
    assert (theirs * exact).sum(axis=1).min() > 0.999
    assert (ours * theirs).sum(axis=1).min() > 0.99995
    assert np.square(ours - theirs).sum() <= np.square(ours - exact).sum() / 2
    assert bool((ours != theirs).any()) is OWN


def test_the_contract_says_whose_kernels_run_and_why(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with Encoder(bundle, precision="int8") as encoder:
        found = available_kernels()
        assert (encoder.contract.kernels, encoder.contract.kernels_reason) == (found.name, found.reason)
    with Encoder(bundle, precision="int8", kernels=False) as encoder:
        assert encoder.contract.kernels == "onnxruntime"
    with Encoder(bundle) as encoder:
        assert encoder.contract.kernels == "onnxruntime"
        assert encoder.contract.kernels_reason == "its graphs hold onnxruntime's operators alone"
    monkeypatch.setenv("PARITAS_KERNELS", "none")
    with Encoder(bundle, precision="int8") as encoder:
        assert encoder.contract.kernels_reason == "PARITAS_KERNELS is none"


def test_each_form_has_an_optimized_graph_of_its_own(
    bundle: Bundle, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {}
    for own in (True, False, True):
        made[own] = vectors(bundle, own=own)
        assert np.array_equal(made[own], vectors(bundle, own=own, cache=False))
    assert len(list((home / "cache" / "prepared").iterdir())) == len(FORMS)
    monkeypatch.setenv("PARITAS_KERNELS", "none")
    assert np.array_equal(vectors(bundle), made[False])


@pytest.mark.skipif(not OWN, reason=f"no kernels of ours run here: {available_kernels().reason}")
def test_an_encoder_keeps_its_kernels_whatever_the_environment_says_later(
    bundle: Bundle, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its second session is loaded later: it was made anew without our kernels, and kept in their place."""
    expected = vectors(bundle, cache=False)
    for word in ("none", "a typing error"):
        with Encoder(bundle, precision="int8", workers=2) as encoder:
            monkeypatch.setenv("PARITAS_KERNELS", word)
            assert np.array_equal(encoder.encode(TEXTS * 8, role="query")[: len(TEXTS)], expected)
            assert encoder.contract.kernels == FORMS[0]
        monkeypatch.delenv("PARITAS_KERNELS")
        assert np.array_equal(vectors(bundle), expected)
    assert len(list((home / "cache" / "prepared").iterdir())) == 1


def test_a_choice_of_the_caller_counts_for_all_that_follows_from_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision_module, "instructions", lambda: ["avx2"])
    found = {"model": "mine", "cpu": "", "onnxruntime": "", "date": "", "gain": 2.0, "races": []}
    keep_tuned(
        bundle, Tuned(precision="int8", cpus=available_cpus(), workers=1, max_batch_tokens=64, **found)
    )
    with Encoder(bundle, precision="auto", kernels=False) as encoder:
        assert encoder.contract.reason == "no others were wanted: INT8 runs like FP32"
    with Encoder(bundle, precision="int8", kernels=False) as encoder:
        assert encoder.settings.origin == ("default" if OWN else "tuned")
    with Encoder(bundle, precision="int8") as encoder:
        assert encoder.settings.origin == "tuned"
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.skipif(not OWN, reason=f"no kernels of ours run here: {available_kernels().reason}")
def test_another_library_makes_another_optimized_graph(
    bundle: Bundle, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = vectors(bundle)
    found = available_kernels()._replace(identity="0" * 64)
    monkeypatch.setattr(kernels, "_library_kernels", lambda: found)
    assert np.array_equal(vectors(bundle), expected)
    assert len(list((home / "cache" / "prepared").iterdir())) == 2


@pytest.mark.skipif(not OWN, reason=f"no kernels of ours run here: {available_kernels().reason}")
def test_bits_depend_on_no_batch_and_no_thread(bundle: Bundle) -> None:
    expected = vectors(bundle)
    with Encoder(bundle, precision="int8", threads=2, workers=1, max_batch_tokens=64) as encoder:
        assert np.array_equal(encoder.encode(TEXTS, role="query"), expected)
        assert np.array_equal(encoder.encode(TEXTS[3:4], role="query")[0], expected[3])


def test_auto_takes_int8_where_our_kernels_run(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_module, "instructions", lambda: ["avx2"])
    with Encoder(bundle, precision="auto") as encoder:
        assert encoder.precision == ("int8" if OWN else "fp32")
        expected = available_kernels().reason + ("; certified, mean" if OWN else ": INT8 runs like FP32")
        assert encoder.contract.reason.startswith(expected)


@pytest.mark.skipif(not OWN, reason=f"no kernels of ours run here: {available_kernels().reason}")
def test_auto_takes_fp32_where_that_has_wider_instructions(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision_module, "instructions", lambda: ["avx2", "avx512f"])
    monkeypatch.setattr(
        kernels, "_library_kernels", lambda: Kernels("avx2", "paritas has kernels for avx2", "0")
    )
    with Encoder(bundle, precision="auto") as encoder:
        assert encoder.precision == "fp32"
        assert encoder.contract.reason.startswith("FP32 runs with AVX-512 here")


@pytest.mark.usefixtures("no_kernels")
def test_auto_takes_fp32_where_they_do_not(bundle: Bundle) -> None:
    with Encoder(bundle, precision="auto") as encoder:
        assert encoder.precision == "fp32"
        assert encoder.contract.reason == "PARITAS_KERNELS is none: INT8 runs like FP32"


def test_a_certificate_of_other_kernels_is_logged(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "paritas"):
        vectors(bundle)
    assert caplog.text == ""
    of_bytes = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp")
    for alike in of_bytes if FORMS[0] in of_bytes else ():
        found = available_kernels()._replace(name=alike, identity="0" * 64)
        monkeypatch.setattr(kernels, "_library_kernels", lambda found=found: found)
        assert certified_elsewhere(bundle.variant("int8")) == ""
    found = available_kernels()._replace(name="avx1024", identity="0" * 64)
    monkeypatch.setattr(kernels, "_library_kernels", lambda: found)
    with caplog.at_level(logging.WARNING, "paritas"):
        vectors(bundle)
    made = " and ".join(FORMS)
    assert f"INT8 was certified with the kernels of {made}, here it runs with those of avx1024" in caplog.text


def test_layers_that_hurt_stay_fp32_here_too(
    tmp_path: Path, checkpoint: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False, True])
    monkeypatch.setattr(quantize, "_holds", lambda *_: next(answers))
    monkeypatch.setattr(Quantizer, "most_harmful", lambda *_: ["layer.1.output.product"])
    made = export(checkpoint, registry, tmp_path / "out")
    assert made.manifest.precisions["int8"].quantization.kept_fp32 == ["layer.1.output.product"]
    model = onnx.load(made.directory / "model.int8.onnx", load_external_data=False)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert (kinds["MatMul"], kinds["LinearNormInt8"], kinds["LayerNormalization"]) == (1, 3, 2)
    assert (vectors(made) * vectors(made, "fp32")).sum(axis=1).min() > 0.999


@pytest.fixture(scope="module")
def spiky(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, np.ndarray], Bundle]:
    """The weights of an MPNet with one weight, and one channel of its words and positions, far too large."""
    directory = tmp_path_factory.mktemp("spiky")
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4}
    source = write_tiny_mpnet(directory / "checkpoint", **sizes)
    weights = load_file(source / "model.safetensors")
    weights["encoder.layer.0.output.dense.weight"][5, 7] = 30
    for table in ("word_embeddings", "position_embeddings"):
        weights[f"embeddings.{table}.weight"][:, 100] *= 50
    save_file(weights, source / "model.safetensors")
    registry = entry(directory, network="mpnet", dim=128, pooling="mean", max_length=24)
    return weights, export(source, registry, directory / "bundle")


def tensors(bundle: Bundle) -> dict[str, np.ndarray]:
    model = onnx.load(bundle.directory / "model.int8.equal_length.onnx")
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_a_weight_far_too_large_leaves_the_others_of_its_output_their_steps(
    spiky: tuple[dict[str, np.ndarray], Bundle],
) -> None:
    weights, made = spiky
    name, found = "layer.0.output.product", tensors(made)
    assert found[f"{name}.outlier_places"].tolist() == [[7, 5]]
    np.testing.assert_array_equal(found[f"{name}.outlier_weights"], np.float32([30]))
    others = np.delete(weights["encoder.layer.0.output.dense.weight"][5], 7)
    assert found[f"{name}.scales"][5] == np.abs(others).max() / np.float32(127)
    assert (vectors(made) * vectors(made, "fp32")).sum(axis=1).min() > 0.999


def test_a_channel_far_too_large_takes_the_steps_of_its_block_alone(
    spiky: tuple[dict[str, np.ndarray], Bundle],
) -> None:
    weights, made = spiky
    found, exact = tensors(made), weights["embeddings.word_embeddings.weight"]
    assert found["word_embeddings.int8"].shape == (128, 2, 64)
    words = (found["word_embeddings.int8"] * found["word_embeddings.scales"][:128]).reshape(128, 128)
    assert np.abs(words - exact)[:, :64].max() < np.abs(exact[:, :64]).max() / 250
    np.testing.assert_array_equal(
        found["position_embeddings"], weights["embeddings.position_embeddings.weight"]
    )


def test_a_weights_file_that_changed_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(bundle.directory, tmp_path / "copy"))
    data = bytearray((copy / "model.int8.onnx.data").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "model.int8.onnx.data").write_bytes(data)
    with pytest.raises(BundleError, match=r"model\.int8\.onnx\.data"):
        vectors(Bundle(copy))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"int8_inputs": "fast"}, "unknown int8_inputs 'fast'; expected static or dynamic"),
        ({"int8_inputs": None}, "unknown int8_inputs None"),
        ({"int8_inputs": "static", "precisions": ["fp32"]}, "int8_inputs is for int8; add it"),
    ],
)
def test_wrong_options(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export_model("mine", out=tmp_path / "out", **{"precisions": ["int8"], **options})
