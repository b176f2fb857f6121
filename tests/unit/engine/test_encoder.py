"""The encoder on tiny bundles: what it takes, what it gives back, and what it promises about both."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import pickle
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.engine.runtime import session
from paritas.engine.runtime.session import Session
from paritas.engine.schedule import call
from paritas.engine.schedule.call import Stages
from paritas.errors import BundleError, InputError, ProviderError, RunError, ShapeError
from tests.unit.files import change_byte

TEXTS = ["the river", "night train to the north", "a", "", "water", "light of the city", "the river"] * 5


def test_vectors_come_in_the_callers_order(mpnet: Encoder) -> None:
    together = mpnet.encode(TEXTS, role="query")
    alone = np.concatenate([mpnet.encode([text], role="query") for text in TEXTS])
    assert np.array_equal(together, alone)
    assert together.dtype == np.float32
    assert together.shape == (len(TEXTS), 16)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    "form",
    [
        list,
        tuple,
        iter,
        np.array,
        lambda texts: np.array(texts, dtype=object),
        lambda texts: np.array(texts, dtype=np.dtypes.StringDType()),
        lambda texts: (text for text in texts),
        lambda texts: dict.fromkeys(texts).keys() if len(set(texts)) == len(texts) else texts,
    ],
    ids=["list", "tuple", "iterator", "str array", "object array", "StringDType", "generator", "keys view"],
)
def test_any_iterable_of_strings_gives_the_same_vectors(mpnet: Encoder, form) -> None:
    texts = ["the river", "a night", "north water"]
    assert np.array_equal(mpnet.encode(form(texts), role="query"), mpnet.encode(texts, role="query"))


def test_an_array_of_pairs_is_taken_as_pairs(bert: Encoder) -> None:
    pairs = [("the city", "light of the city"), ("north", "a train")]
    expected = bert.encode(pairs, role="passage")
    assert np.array_equal(bert.encode(np.array(pairs), role="passage"), expected)
    assert np.array_equal(bert.encode([list(pair) for pair in pairs], role="passage"), expected)


def test_no_texts_give_zero_by_dim(mpnet: Encoder) -> None:
    assert mpnet.encode([], role="query").shape == (0, 16)
    assert mpnet.encode(iter(()), role="query").dtype == np.float32


def test_a_text_has_the_default_title_of_its_role(bert: Encoder) -> None:
    vectors = bert.encode(["the river", ("", "the river"), ("-", "the river")], role="passage")
    assert (vectors == vectors[0]).all()
    assert not np.array_equal(vectors[:1], bert.encode([("north", "the river")], role="passage"))


def test_many_texts_cross_the_tokenizers_chunks(mpnet: Encoder) -> None:
    texts = [f"river {number % 7}" for number in range(5000)]
    vectors = mpnet.encode(iter(texts), role="query")
    assert np.array_equal(vectors[:7], vectors[4998 - 4998 % 7 - 7 : 4998 - 4998 % 7])


def test_out_is_filled_and_returned(mpnet: Encoder) -> None:
    out = np.full((len(TEXTS), 16), np.nan, np.float32)
    assert mpnet.encode(TEXTS, role="query", out=out) is out
    assert np.array_equal(out, mpnet.encode(TEXTS, role="query"))


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((2, 16), np.float32),
        np.zeros((3, 17), np.float32),
        np.zeros((3, 16), np.float64),
        np.zeros((3, 32), np.float32)[:, ::2],
        np.zeros((16, 3), np.float32).T,
        [[0.0] * 16] * 3,
    ],
    ids=["too few rows", "too wide", "float64", "strided", "transposed", "a list"],
)
def test_an_out_that_does_not_fit_is_refused(mpnet: Encoder, out) -> None:
    with pytest.raises(ShapeError, match="out"):
        mpnet.encode(["a", "b", "c"], role="query", out=out)


def test_a_read_only_out_is_refused(mpnet: Encoder) -> None:
    out = np.zeros((1, 16), np.float32)
    out.setflags(write=False)
    with pytest.raises(ShapeError, match="writeable"):
        mpnet.encode(["a"], role="query", out=out)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one string", "single string"),
        (np.array("one string"), "single string"),
        (b"bytes", "single string"),
        (["fine", None], "text 1 is NoneType None; expected a string"),
        (["fine", 7], "text 1 is int 7"),
        (["fine", float("nan")], "text 1 is float nan"),
        (["fine", b"bytes"], "text 1 is bytes"),
        (["fine", "half \ud83d"], "text 1 holds half a surrogate pair"),
        ([("a", "pair")], "text 0 is a pair"),
        ([["nested"]], r"text 0 is list \['nested'\]"),
        (42, "expected an iterable"),
        (None, "expected an iterable"),
        (np.array(7), "expected an iterable"),
    ],
)
def test_what_is_no_text_is_named_with_its_place(mpnet: Encoder, texts, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mpnet.encode(texts, role="query")


@pytest.mark.parametrize("pair", [("a",), ("a", "b", "c"), ("a", None), (None, "b"), (1, 2)])
def test_what_is_no_pair_is_refused(bert: Encoder, pair) -> None:
    with pytest.raises(InputError, match=r"text 0 is tuple .*; expected a string or a"):
        bert.encode([pair], role="passage")


def test_the_place_of_a_bad_text_counts_through_chunks(mpnet: Encoder) -> None:
    def texts() -> Iterator[object]:
        yield from ["river"] * 3000
        yield None

    with pytest.raises(InputError, match="text 3000 is NoneType"):
        mpnet.encode(texts(), role="query")


def test_an_unknown_role_names_the_nearest(bert: Encoder) -> None:
    with pytest.raises(InputError, match="unknown role 'pasage'; did you mean 'passage'"):
        bert.encode(["a"], role="pasage")


def test_stats_say_what_the_last_call_did(mpnet: Encoder) -> None:
    mpnet.encode(["the river", "the", "the north " * 40], role="query")
    stats = mpnet.last_stats
    assert stats is not None
    assert (stats.texts, stats.truncated, stats.padding, stats.batches) == (3, 1, 0, 3)
    assert stats.tokens == 4 + 3 + 40
    assert stats.padding_share == 0
    assert stats.total_s >= stats.run_s + stats.pool_s
    assert (stats + stats).tokens == 2 * stats.tokens


def test_a_repeated_text_is_computed_once(mpnet: Encoder) -> None:
    alone = [mpnet.encode([text], role="query")[0] for text in TEXTS]
    together = mpnet.encode(TEXTS, role="query")
    assert np.array_equal(together, alone)
    stats = mpnet.last_stats
    assert stats is not None
    distinct = list(dict.fromkeys(TEXTS))
    assert len(distinct) < len(TEXTS)
    mpnet.encode(distinct, role="query")
    assert mpnet.last_stats is not None
    assert (stats.texts, stats.tokens, stats.batches) == (
        len(TEXTS),
        mpnet.last_stats.tokens,
        mpnet.last_stats.batches,
    )


def test_each_repeat_of_a_truncated_text_counts(mpnet: Encoder) -> None:
    mpnet.encode(["the north " * 40, "a", "the north " * 40], role="query")
    assert mpnet.last_stats is not None
    assert mpnet.last_stats.truncated == 2


def test_a_pair_is_no_repeat_of_another_pair(bert: Encoder) -> None:
    pairs = [("the city", "light"), ("the", "city light"), ("the city", "light")]
    vectors = bert.encode(pairs, role="passage")
    assert np.array_equal(vectors[0], vectors[2])
    assert not np.array_equal(vectors[0], vectors[1])


def test_windows_are_tokenised_while_others_run(mpnet: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"river {number} {'north ' * (number % 9)}" for number in range(100)]
    expected = mpnet.encode(texts, role="query")
    monkeypatch.setattr(call, "WINDOW", 16)
    assert np.array_equal(
        mpnet.encode(texts + texts[::-1], role="query"), np.vstack([expected, expected[::-1]])
    )
    assert mpnet.last_stats is not None
    assert mpnet.last_stats.texts == 200


def test_stats_are_each_threads_own(mpnet: Encoder) -> None:
    mpnet.encode(["the river"], role="query")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: mpnet.last_stats).result() is None
        pool.submit(mpnet.encode, ["a", "b"], role="query").result()
    assert mpnet.last_stats is not None
    assert mpnet.last_stats.texts == 1


def test_a_job_returns_vectors_and_its_own_stats(mpnet: Encoder) -> None:
    texts = ["the river", "a city by the river", "the river"]
    vectors, stats = mpnet.submit(texts, role="query").result()
    assert np.array_equal(vectors, mpnet.encode(texts, role="query"))
    assert (stats.texts, stats.batches) == (3, 2)


def test_a_job_fills_the_array_given(mpnet: Encoder) -> None:
    out = np.zeros((2, 16), np.float32)
    job = mpnet.submit(["the river", "a city"], role="query", out=out)
    assert job.result().vectors is out
    assert np.array_equal(out, mpnet.encode(["the river", "a city"], role="query"))


def test_a_job_of_no_texts_has_ended(mpnet: Encoder) -> None:
    assert mpnet.submit([], role="query").result().vectors.shape == (0, 16)


def test_jobs_tell_an_event_loop(mpnet: Encoder) -> None:
    async def encode(text: str) -> Any:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        job = mpnet.submit([text], role="query")
        job.add_done_callback(lambda _job: loop.call_soon_threadsafe(ended.set))
        await ended.wait()
        return job.result().vectors[0]

    async def encode_all() -> list[Any]:
        return await asyncio.gather(*(encode(text) for text in texts))

    texts = [f"river {number}" for number in range(50)]
    assert np.array_equal(asyncio.run(encode_all()), mpnet.encode(texts, role="query"))


def test_an_error_in_a_job_is_raised_by_its_result(
    bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = failing(bundles["tiny-mpnet"], monkeypatch).submit(["the sky"], role="query")
    with pytest.raises(RunError, match="text 0, 'the sky'"):
        job.result()


@pytest.mark.parametrize("count", [1, 40])
def test_a_signal_handler_may_encode_inside_a_call(
    bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """The batch that it interrupts holds all threads, and ends after it."""
    texts = [f"river {number} {'north ' * (number % 7)}" for number in range(40)]
    with Encoder(bundles["tiny-mpnet"], threads=2, max_batch_tokens=24) as encoder:
        right = encoder.encode(texts, role="query")
        inner: list[Any] = []
        run = Stages.vectors

        def interrupted(stages: Stages, *arguments: Any) -> Any:
            if not inner and threading.current_thread() is threading.main_thread():
                inner.append(None)
                inner[0] = encoder.encode(texts[:count], role="query")
                with pytest.raises(RuntimeError, match="cannot wait for a job; call `encode` there"):
                    encoder.submit(texts, role="query").result()
            return run(stages, *arguments)

        monkeypatch.setattr(Stages, "vectors", interrupted)
        outer = encoder.encode(texts[:1], role="query")
        assert np.array_equal(outer, right[:1])
        assert np.array_equal(inner[0], right[:count])
        assert np.array_equal(encoder.encode(texts, role="query"), right)


def test_an_encoder_that_nobody_closes_goes_with_its_threads(bundles: dict[str, Bundle]) -> None:
    encoder = Encoder(bundles["tiny-mpnet"], threads=2)
    encoder.encode(["the river"], role="query")
    assert encoder._scheduler is not None
    threads, gone = list(encoder._scheduler._slots.threads), weakref.ref(encoder)
    del encoder
    gc.collect()
    assert gone() is None
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def test_padding_is_counted_and_harmless(bundles: dict[str, Bundle], mpnet: Encoder) -> None:
    with Encoder(bundles["tiny-mpnet"].directory, max_padding=0.9, max_batch_tokens=4096) as padded:
        found = padded.encode(TEXTS, role="query")
        assert padded.last_stats is not None
        assert padded.last_stats.padding > 0
        assert padded.last_stats.batches == 1
    np.testing.assert_allclose(found, mpnet.encode(TEXTS, role="query"), atol=1e-6)


def test_concurrent_encode_matches_serial(bert: Encoder) -> None:
    batches = [[f"{text} {seed}" for text in TEXTS[:seed]] for seed in range(1, 25)]
    serial = [bert.encode(batch, role="query") for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(lambda batch: bert.encode(batch, role="query"), batches))
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(threaded, serial, strict=True))


def _encode_elsewhere(encoder: Encoder, texts: list[str]) -> np.ndarray:
    return encoder.encode(texts, role="query")


def test_a_pickled_encoder_takes_no_other_model(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    shutil.copytree(bundles["tiny-bert"].directory, place)
    with Encoder(place) as encoder:
        pickled = pickle.dumps(encoder)
    shutil.rmtree(place)
    shutil.copytree(bundles["tiny-mpnet"].directory, place)
    with pytest.raises(BundleError, match="another model's bundle since the encoder was pickled"):
        pickle.loads(pickled)


def test_a_pickled_encoder_encodes_in_another_process(bert: Encoder) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        vectors = pool.apply(_encode_elsewhere, (bert, TEXTS))
    assert np.array_equal(vectors, bert.encode(TEXTS, role="query"))


def test_pickling_keeps_the_options(bundles: dict[str, Bundle]) -> None:
    options = {"precision": "fp16", "max_batch_tokens": 77, "threads": 3, "workers": 2, "cache": False}
    with Encoder(bundles["tiny-bert"].directory, **options) as encoder:
        again = pickle.loads(pickle.dumps(encoder))
    assert (again.precision, again.settings.max_batch_tokens) == ("fp16", 77)
    assert again.__reduce__() == encoder.__reduce__()


def test_a_forked_process_is_told_so_and_does_not_hang(bundles: dict[str, Bundle]) -> None:
    script = """
import os, sys
from paritas import Encoder
from paritas.errors import BundleError
encoder = Encoder(sys.argv[1], threads=4)
encoder.encode([*map(str, range(20))], role="query")
child = os.fork()
if child == 0:
    try:
        encoder.encode([*map(str, range(20))], role="query")
    except BundleError as error:
        os._exit(0 if "was forked; load it in each process" in str(error) else 2)
    os._exit(3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    command = [sys.executable, "-W", "ignore", "-c", script, str(bundles["tiny-bert"].directory)]
    subprocess.run(command, check=True, timeout=60)


@pytest.mark.parametrize("end", ["sys.exit(0)", "encoder.close(); sys.exit(0)", "del encoder; gc.collect()"])
def test_a_forked_process_ends_without_waiting_for_the_threads_it_has_not(
    bundles: dict[str, Bundle], end: str
) -> None:
    """As a server's worker ends, whose parent had loaded the encoder before it forked."""
    script = f"""
import gc, os, sys
from paritas import Encoder
encoder = Encoder(sys.argv[1], threads=4)
encoder.encode([*map(str, range(20))], role="query")
child = os.fork()
if child == 0:
    {end}
    sys.exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
encoder.encode(["the river"], role="query")
encoder.close()
sys.exit(code)
"""
    command = [sys.executable, "-W", "ignore", "-c", script, str(bundles["tiny-bert"].directory)]
    subprocess.run(command, check=True, timeout=60)


def test_a_closed_encoder_says_so(bundles: dict[str, Bundle]) -> None:
    with Encoder(bundles["tiny-bert"].directory) as encoder:
        pass
    with pytest.raises(BundleError, match="was closed"):
        encoder.encode(["a"], role="query")


def test_fp16_is_fp32_to_three_digits(bundles: dict[str, Bundle], bert: Encoder) -> None:
    with Encoder(bundles["tiny-bert"].directory, precision="fp16") as half:
        found = half.encode(TEXTS, role="query")
    expected = bert.encode(TEXTS, role="query")
    assert not np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, atol=2e-3)


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


def test_progress_goes_to_standard_error(mpnet: Encoder, capsys: pytest.CaptureFixture[str]) -> None:
    mpnet.encode(TEXTS, role="query", progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "35/35" in captured.err


def test_idle_threads_do_not_spin(bundles: dict[str, Bundle]) -> None:
    """CPU time, not wall time: half a second of waiting after a run costs next to none of it."""
    script = """
import sys, time
from paritas import Encoder
encoder = Encoder(sys.argv[1], threads=4)
encoder.encode([*map(str, range(50))], role="query")
before = time.process_time()
time.sleep(0.5)
print(time.process_time() - before)
"""
    directory = str(bundles["tiny-bert"].directory)
    run = subprocess.run(
        [sys.executable, "-c", script, directory], capture_output=True, text=True, check=True
    )
    assert float(run.stdout) < 0.1


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


# Vectors cut to their first channels.


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


# What onnxruntime raises.


class Failing:
    """A session that refuses batches which hold a token id."""

    def __init__(self, session: Session, token: int, least: int = 1) -> None:
        self.session, self.token, self.least = session, token, least

    def run(self, input_ids: NDArray[np.int64], *others: NDArray[np.int64]) -> NDArray[np.float32]:
        if (input_ids == self.token).any() and len(input_ids) >= self.least:
            raise RunError("onnxruntime cannot run it: indices element out of data bounds")
        return self.session.run(input_ids, *others)

    def release(self) -> None:
        """Nothing to give back."""


def failing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, **options: int) -> Encoder:
    """An encoder whose sessions refuse the word "sky"."""
    encoder = Encoder(bundle, workers=1)
    sky = encoder._stages.tokenizer.tokens["sky"]
    assert encoder._scheduler is not None
    slots = encoder._scheduler._slots
    monkeypatch.setattr(slots, "exclusive", Failing(slots.exclusive, sky, **options))
    return encoder


def test_what_onnxruntime_raises_names_the_text(
    bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = failing(bundles["tiny-mpnet"], monkeypatch)
    texts = ["the river", "the city", "the sky", "the water", "the sky is blue"]
    with pytest.raises(RunError) as caught:
        encoder.encode(texts * 2, role="query")
    assert str(caught.value).startswith("text 4, 'the sky is blue' (6 tokens, the highest id ")
    assert str(caught.value).endswith("onnxruntime cannot run it: indices element out of data bounds")
    assert encoder.encode(texts[:2], role="query").shape == (2, 16)


def test_texts_that_fail_only_together_are_named_together(
    bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = failing(bundles["tiny-mpnet"], monkeypatch, least=2)
    with pytest.raises(RunError, match=r"texts 0, 1 together \(2 of 4 tokens\): onnxruntime cannot run it"):
        encoder.encode(["the sky", "the city"], role="query")


def test_the_real_onnxruntime_error_becomes_ours(mpnet: Encoder) -> None:
    assert mpnet._scheduler is not None
    session = mpnet._scheduler._slots.exclusive
    ids = np.full((1, 3), 10_000, np.int64)
    with pytest.raises(RunError, match=r"onnxruntime cannot run it: .*10000"):
        session.run(ids, np.ones_like(ids), np.zeros_like(ids))
