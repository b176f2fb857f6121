"""An encoder's options: what they do, and what is refused."""

from __future__ import annotations

import inspect
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.engine.options import EncoderOptions
from paritas.engine.runtime import session
from paritas.errors import BundleError, InputError, ProviderError
from tests.unit.files import change_byte

TEXTS = ["the river", "night train to the north", "a", "", "water", "light of the city", "the river"] * 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "unknown precision 'int4'; expected one of fp32, fp16, int8, auto"),
        ({"threads": 0}, "threads is 0"),
        ({"workers": 0}, "workers is 0"),
        ({"max_batch_tokens": 0}, "max_batch_tokens is 0"),
        ({"max_padding": 1.0}, "max_padding is 1.0"),
    ],
)
def test_options_out_of_range_are_refused(bundles: dict[str, Bundle], options, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Encoder(bundles["tiny-bert"].directory, **options)


def test_fp16_is_fp32_to_three_digits(bundles: dict[str, Bundle], bert: Encoder) -> None:
    with Encoder(bundles["tiny-bert"].directory, precision="fp16") as half:
        found = half.encode(TEXTS, role="query")
    expected = bert.encode(TEXTS, role="query")
    assert not np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_padding_is_counted_and_harmless(bundles: dict[str, Bundle], mpnet: Encoder) -> None:
    with Encoder(bundles["tiny-mpnet"].directory, max_padding=0.9, max_batch_tokens=4096) as padded:
        found = padded.encode(TEXTS, role="query")
        assert padded.last_stats is not None
        assert padded.last_stats.padding > 0
        assert padded.last_stats.batches == 1
    np.testing.assert_allclose(found, mpnet.encode(TEXTS, role="query"), atol=1e-6)


def test_a_provider_that_fails_is_named_and_prints_nothing(
    bundles: dict[str, Bundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """onnxruntime would say "EP Error" on standard output, among our JSON, and go on with the CPU."""
    create = onnxruntime.InferenceSession._create_inference_session

    def failing(session: Any, providers: Any, *rest: Any, **options: Any) -> Any:
        if "OpenVINO" in str(providers):
            raise RuntimeError("no driver")
        return create(session, providers, *rest, **options)

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", failing)
    monkeypatch.setattr(
        session, "available_providers", lambda: ["OpenVINOExecutionProvider", "CPUExecutionProvider"]
    )
    with pytest.raises(ProviderError, match=r"provider 'openvino' .* cannot load .*: no driver"):
        Encoder(bundles["tiny-bert"].directory, provider="openvino")
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    for provider in ("cpu", "openvino"):
        with pytest.raises(BundleError, match=r"broken\.onnx: onnxruntime cannot load it"):
            session.Session(tmp_path / "broken.onnx", provider=provider, threads=1)
    assert capfd.readouterr().out == ""


def test_a_provider_that_is_missing_is_an_error_not_the_cpu(bundles: dict[str, Bundle]) -> None:
    with pytest.raises(ProviderError, match=r"'cuda' .*is not in the installed onnxruntime.*paritas\[gpu\]"):
        Encoder(bundles["tiny-bert"].directory, provider="cuda")
    with pytest.raises(ProviderError, match="unknown provider 'cpuu'; did you mean 'cpu'"):
        Encoder(bundles["tiny-bert"].directory, provider="cpuu")


@pytest.mark.parametrize("dim", [1, 7, 16])
def test_cut_vectors_are_the_first_channels_at_unit_length(bundles: dict[str, Bundle], dim: int) -> None:
    texts = ["the river", "why is the sky blue", ""]
    whole = Encoder(bundles["tiny-mpnet"]).encode(texts, role="query")[:, :dim]
    with Encoder(bundles["tiny-mpnet"], truncate_dim=dim) as encoder:
        found = encoder.encode(texts, role="query")
        assert encoder.dim == dim
        assert pickle.loads(pickle.dumps(encoder)).dim == dim
    expected = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dim", [0, -1, 17, 2.0, True, "5"])
def test_a_width_that_is_not_there_is_refused(bundles: dict[str, Bundle], dim: Any) -> None:
    with pytest.raises(InputError, match=f"truncate_dim is {dim!r}; expected 1 to 16"):
        Encoder(bundles["tiny-mpnet"], truncate_dim=dim)


def test_a_bundle_is_all_it_takes(bundles: dict[str, Bundle], tmp_path: Path, bert: Encoder) -> None:
    import shutil

    copy = shutil.copytree(bundles["tiny-bert"].directory, tmp_path / "elsewhere")
    with Encoder(copy) as moved:
        assert np.array_equal(moved.encode(TEXTS, role="query"), bert.encode(TEXTS, role="query"))


def test_an_opened_bundle_is_checked_once_and_again_when_asked(
    bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    bundle = Bundle(shutil.copytree(bundles["tiny-bert"].directory, tmp_path / "bundle"))
    change_byte(bundle.directory / "model.fp32.onnx.data")
    with pytest.raises(BundleError, match="changed since the export"):
        Encoder(bundle)
    bundle = Bundle(shutil.copytree(bundles["tiny-bert"].directory, tmp_path / "other"))
    bundle.verify()
    with Encoder(bundle) as encoder:
        assert encoder.bundle is bundle
    change_byte(bundle.directory / "tokenizer.json")
    with pytest.raises(BundleError, match="changed since the export"):
        bundle.verify()


def test_the_help_of_an_encoder_tells_every_option() -> None:
    told = inspect.getdoc(Encoder)
    assert told is not None
    options = list(EncoderOptions.__struct_fields__)
    assert [name for name in options if f"\n    {name}: " not in told] == []
    parameters = inspect.signature(Encoder).parameters
    assert list(parameters) == ["model", *options]
    defaults = EncoderOptions()
    assert all(parameters[name].default == getattr(defaults, name) for name in options)


def test_options_are_checked_when_they_are_made() -> None:
    assert EncoderOptions(threads=np.int64(2)).threads == 2
    assert type(EncoderOptions(threads=np.int64(2)).threads) is int
    with pytest.raises(InputError, match="workers is 0"):
        EncoderOptions(workers=0)
    with pytest.raises(InputError, match="memory_limit is for CPUs"):
        EncoderOptions(provider="cuda", memory_limit="1GB")
