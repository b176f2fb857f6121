"""AsyncEncoder: what comes back, what is refused, what is dropped, and what it takes to end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import os
import random
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paritas import AsyncEncoder, Encoder, errors
from paritas.engine.bundle.directory import Bundle
from paritas.engine.schedule.call import Encoded
from paritas.errors import InputError
from paritas.serving import async_encoder
from paritas.serving.rate import Rate
from tests.unit.engine.failing import failing
from tests.unit.serving.watched import watched

WORDS = "the river sky city in north a water".split()


def sentences(count: int, longest: int = 12) -> list[str]:
    chosen = random.Random(7)
    return [" ".join(chosen.choices(WORDS, k=chosen.randint(1, longest))) for _ in range(count)]


# What comes back.


def test_vectors_are_the_encoders_and_stats_are_the_calls_own(mpnet: Encoder) -> None:
    texts = ["the river", "a city in the river", "the river", ""]

    async def call() -> Encoded:
        return await AsyncEncoder(mpnet).encode(texts, role="query")

    vectors, stats = asyncio.run(call())
    assert np.array_equal(vectors, mpnet.encode(texts, role="query"))
    expected = mpnet.last_stats
    assert expected is not None
    assert (stats.texts, stats.tokens, stats.truncated) == (4, expected.tokens, expected.truncated)
    assert stats.padding == 0
    assert stats.batches >= 1
    assert 0 < stats.run_s <= stats.total_s


@pytest.mark.parametrize("texts", [[], ()])
def test_no_texts_have_no_vectors(mpnet: Encoder, texts: Any) -> None:
    vectors, stats = asyncio.run(AsyncEncoder(mpnet).encode(texts, role="query"))
    assert (vectors.shape, stats.texts) == ((0, 16), 0)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("model", ["tiny-bert", "tiny-mpnet"])
def test_no_vector_is_lost_or_swapped_among_many_calls_a_tenth_of_them_cancelled(
    bundles: dict[str, Bundle], model: str, workers: int, precision: Any
) -> None:
    """Roles and lengths are mixed, and calls of one text with calls of many."""
    texts = sentences(2_000)
    with Encoder(bundles[model], workers=workers, precision=precision) as encoder:
        pair = encoder.contract.roles["passage"].pair
        expected = {role: encoder.encode(texts, role=role) for role in ("query", "passage")}

        async def client(number: int, wide: AsyncEncoder) -> int:
            chosen, ended = random.Random(number), 0
            for _ in range(40):
                start, role = chosen.randrange(len(texts)), chosen.choice(["query", "passage"])
                part = texts[start : start + chosen.choice([1, 1, 1, 3, 40])]
                given: list[Any] = [("-", text) for text in part] if pair and role == "passage" else part
                call = asyncio.ensure_future(wide.encode(given, role=role))
                if chosen.random() < 0.1:
                    await asyncio.sleep(chosen.random() * 0.002)
                    call.cancel()
                try:
                    vectors, stats = await call
                except asyncio.CancelledError:
                    continue
                assert np.array_equal(vectors, expected[role][start : start + len(part)])
                assert stats.texts == len(part)
                ended += 1
            return ended

        async def run() -> int:
            async with AsyncEncoder(encoder) as wide:
                ended = sum(await asyncio.gather(*(client(number, wide) for number in range(32))))
                assert wide.queued_tokens == 0
                assert wide.tokens_per_s > 0
                return ended

        assert asyncio.run(run()) > 32 * 40 * 0.8


def test_event_loops_in_several_threads_share_one_encoder(bert: Encoder) -> None:
    wide, texts = AsyncEncoder(bert), sentences(60)
    expected = bert.encode(texts, role="query")
    wrong: list[int] = []

    async def all_of_them() -> None:
        found = await asyncio.gather(*(wide.encode([text], role="query") for text in texts))
        wrong.extend(n for n, each in enumerate(found) if not np.array_equal(each.vectors[0], expected[n]))

    threads = [threading.Thread(target=lambda: asyncio.run(all_of_them())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("texts", "inline"),
    [
        (["short"], True),
        (["short"] * 64, True),
        (["short"] * 65, False),
        (["x" * 5_000], False),
        ([("title", "x" * 5_000)], False),
        ([("title", "text")], True),
    ],
)
def test_long_texts_are_tokenised_beside_the_event_loop(
    bert: Encoder, monkeypatch: pytest.MonkeyPatch, texts: Any, inline: bool
) -> None:
    threads: list[threading.Thread] = []
    call = Encoder.call

    def noted(*arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return call(*arguments)

    monkeypatch.setattr(Encoder, "call", noted)
    vectors, _ = asyncio.run(AsyncEncoder(bert).encode(texts, role="passage"))
    assert len(vectors) == len(texts)
    assert (threads == [threading.main_thread()]) is inline


def test_a_finished_call_keeps_nothing_alive(bert: Encoder) -> None:
    wide = AsyncEncoder(bert)
    vectors, _ = asyncio.run(wide.encode(["the river", "the river", "a city"], role="query"))
    gone = weakref.ref(vectors)
    del vectors
    gc.collect()
    assert gone() is None


# What is refused.


@pytest.mark.parametrize(
    ("texts", "role", "message"),
    [
        ("one", "query", "texts is str, a single string; expected several"),
        (["fine", 7], "query", "text 1 is int 7; expected a string"),
        ([("a", "pair")], "query", "text 0 is a pair, and this role takes single strings"),
        (["cut \ud83d"], "query", "text 0 holds half a surrogate pair"),
        (["fine"], "question", "unknown role 'question'"),
        ({"a": 1}, "query", "texts is dict, which yields its keys"),
    ],
)
def test_bad_input_is_refused_as_the_encoder_does(bert: Encoder, texts: Any, role: str, message: str) -> None:
    async def call() -> None:
        wide = AsyncEncoder(bert)
        with pytest.raises(errors.InputError, match=message):
            await wide.encode(texts, role=role)
        assert wide.queued_tokens == 0
        assert (await wide.encode(["fine"], role="query")).vectors.shape == (1, 16)

    asyncio.run(call())


@pytest.mark.parametrize("value", [0, -1, 1.5, "many", True, None])
def test_a_bound_that_is_none_is_refused(bert: Encoder, value: Any) -> None:
    with pytest.raises(errors.InputError, match="max_queue_tokens is"):
        AsyncEncoder(bert, max_queue_tokens=value)


def test_options_beside_an_encoder_are_refused(bert: Encoder) -> None:
    with pytest.raises(errors.InputError, match="has its options already; leave out threads"):
        AsyncEncoder(bert, threads=1)


def test_options_and_errors_of_loading_are_the_encoders(bundles: dict[str, Bundle]) -> None:
    wide = AsyncEncoder(bundles["tiny-bert"], precision="fp16", truncate_dim=4)
    assert (wide.encoder.precision, wide.dim) == ("fp16", 4)
    with pytest.raises(errors.BundleError, match="no precision 'int8'"):
        AsyncEncoder(bundles["tiny-bert"], precision="int8")


def test_a_text_that_cannot_run_fails_its_own_call_alone(
    bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All four have one length, and run in one batch."""
    encoder = failing(bundles["tiny-bert"], monkeypatch)
    texts = ["the river", "the sky", "the city", "in river"]

    async def run() -> list[Any]:
        wide = AsyncEncoder(encoder)
        calls = (
            wide.encode(["the water" if n else text, text], role="query") for n, text in enumerate(texts)
        )
        return await asyncio.gather(*calls, return_exceptions=True)

    found = asyncio.run(run())
    assert [isinstance(each, Exception) for each in found] == [False, True, False, False]
    assert isinstance(found[1], errors.RunError)
    assert str(found[1]).startswith("text 1, 'the sky'")


def test_over_the_bound_a_call_is_refused_at_once_and_whole(bundles: dict[str, Bundle]) -> None:
    async def run() -> None:
        with watched(bundles["tiny-bert"], workers=1) as (encoder, stages):
            wide = AsyncEncoder(encoder, max_queue_tokens=80)
            first = asyncio.ensure_future(wide.encode(["the river"], role="query"))
            await asyncio.to_thread(stages.begun.acquire)
            # Each has 4 tokens.
            waiting = [asyncio.ensure_future(wide.encode(["the river"], role="query")) for _ in range(20)]
            await asyncio.sleep(0)
            assert wide.queued_tokens == 80
            with pytest.raises(
                errors.Overloaded, match="80 tokens wait, and at most 80 may; try again in"
            ) as e:
                await wide.encode(["a city"], role="query")
            assert 0.1 <= e.value.retry_after_s <= 60
            assert wide.queued_tokens == 80
            stages.open()
            await asyncio.gather(first, *waiting)
            assert (await wide.encode(["a city"], role="query")).stats.texts == 1

    asyncio.run(run())


class FixedRate(Rate):
    """A rate of so many tokens a second, whatever runs."""

    per_s = 8.0


def test_what_waits_is_bounded_in_seconds_too(bundles: dict[str, Bundle]) -> None:
    async def run() -> None:
        with watched(bundles["tiny-bert"], workers=1, max_batch_tokens=32) as (encoder, stages):
            wide = AsyncEncoder(encoder, max_queue_s=10)
            first = asyncio.ensure_future(wide.encode(["the river"], role="query"))
            await asyncio.to_thread(stages.begun.acquire)
            waiting = [asyncio.ensure_future(wide.encode(["the river"], role="query")) for _ in range(30)]
            await asyncio.sleep(0)
            assert wide.queued_tokens == 120  # no rate is known yet
            wide._batcher.rate = FixedRate()
            with pytest.raises(errors.Overloaded, match=r"120 tokens wait, and at most 80 may; .* 15.0 s"):
                await wide.encode(["a city"], role="query")
            stages.open()
            await asyncio.gather(first, *waiting)

    asyncio.run(run())


def test_large_calls_of_a_wider_bound_leave_half_of_a_narrower_one(bundles: dict[str, Bundle]) -> None:
    async def run() -> None:
        with watched(bundles["tiny-bert"], workers=1, max_batch_tokens=32) as (encoder, stages):
            wide = AsyncEncoder(encoder, max_queue_tokens=3_200, max_queue_s=20)
            large = [asyncio.ensure_future(wide.encode(sentences(500), role="query")) for _ in range(8)]
            while not stages.shapes:
                await asyncio.sleep(0.01)
            assert wide.queued_tokens == 1_600
            wide._batcher.rate = FixedRate()
            assert wide.queued_tokens == 80  # half of 160
            short = [asyncio.ensure_future(wide.encode(["the river"], role="query")) for _ in range(20)]
            await asyncio.sleep(0)
            with pytest.raises(errors.Overloaded, match="160 tokens wait, and at most 160 may"):
                await wide.encode(["the river"], role="query")
            stages.open()
            await asyncio.gather(*short, *large)
            assert wide.queued_tokens == 0

    asyncio.run(run())


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "10", True])
def test_a_bound_in_seconds_is_a_time(bert: Encoder, value: Any) -> None:
    with pytest.raises(InputError, match=r"max_queue_s is .*; expected seconds, more than 0"):
        AsyncEncoder(bert, max_queue_s=value)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no priority of its own")
def test_threads_that_encode_are_less_urgent_than_the_event_loops(bundles: dict[str, Bundle]) -> None:
    def niceness() -> dict[int, int]:
        found = {}
        for thread in (int(task.name) for task in Path("/proc/self/task").iterdir()):
            with contextlib.suppress(ProcessLookupError):  # another test's thread that ends just now
                found[thread] = os.getpriority(os.PRIO_PROCESS, thread)
        return found

    async def new(**options: Any) -> set[int]:
        before = niceness()
        async with AsyncEncoder(bundles["tiny-bert"], threads=2, workers=2, **options) as wide:
            await asyncio.gather(*(wide.encode(sentences(100), role="query") for _ in range(4)))
            after = niceness()
        own = threading.get_native_id()
        assert after[own] == before[own]
        return {after[thread] - before[own] for thread in after.keys() - before.keys()}

    assert asyncio.run(new()) == {10}
    assert asyncio.run(new(niceness=3)) == {3}
    assert asyncio.run(new(niceness=0)) == {0}
    with pytest.raises(InputError, match="niceness is 20; expected 19 or less"):
        AsyncEncoder(bundles["tiny-bert"], niceness=20)


def test_large_calls_count_for_a_sixteenth_and_short_ones_keep_half_of_the_queue(
    bundles: dict[str, Bundle],
) -> None:
    texts = sentences(500)

    async def run() -> None:
        with watched(bundles["tiny-bert"], workers=1) as (encoder, stages):
            wide = AsyncEncoder(encoder, max_queue_tokens=800)
            large = [asyncio.ensure_future(wide.encode(texts, role="query")) for _ in range(8)]
            while not stages.shapes:
                await asyncio.sleep(0.01)
            assert wide.queued_tokens == 400
            with pytest.raises(errors.Overloaded, match="8 large calls are under way, as many as may"):
                await wide.encode(texts, role="query")
            short = [asyncio.ensure_future(wide.encode(["the river"], role="query")) for _ in range(100)]
            await asyncio.sleep(0)
            assert wide.queued_tokens == 800
            with pytest.raises(errors.Overloaded, match="800 tokens wait, and at most 800 may"):
                await wide.encode(["the river"], role="query")
            stages.open()
            await asyncio.gather(*short, *large)
            assert wide.queued_tokens == 0

    asyncio.run(run())


def test_a_call_that_is_being_tokenised_counts_and_does_not_hold_the_event_loop_or_others(
    bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two large ones hold both threads that tokenise; what is short, and the loop's own threads, go on."""
    texts, gate = sentences(500), threading.Event()
    call = Encoder.call

    def held(self: Encoder, given: Any, *arguments: Any) -> Any:
        if len(given) > 64:
            gate.wait(60)
        return call(self, given, *arguments)

    monkeypatch.setattr(Encoder, "call", held)

    async def run() -> None:
        async with AsyncEncoder(bundles["tiny-bert"], max_queue_tokens=800) as wide:
            large = [asyncio.ensure_future(wide.encode(texts, role="query")) for _ in range(8)]
            await asyncio.sleep(0)
            assert wide.queued_tokens == 400
            with pytest.raises(errors.Overloaded):
                await wide.encode(texts, role="query")
            async with asyncio.timeout(30):
                assert (await wide.encode(["the river"], role="query")).stats.texts == 1
                await asyncio.to_thread(len, "the loop's own threads are free")
            closing = asyncio.ensure_future(wide.aclose())
            await asyncio.sleep(0.05)
            gate.set()
            for vectors, _ in await asyncio.gather(*large):
                assert len(vectors) == 500, "a call that was taken ends, though it was not tokenised yet"
            await closing

    asyncio.run(run())


def test_calls_that_ended_hold_nothing_while_others_go_on(bundles: dict[str, Bundle]) -> None:
    """Large calls end among many short ones, which keep coming before them."""
    texts = sentences(400)

    async def run() -> None:
        with watched(bundles["tiny-bert"], workers=1, max_batch_tokens=64) as (encoder, stages):
            wide = AsyncEncoder(encoder, max_queue_tokens=32_000)
            short = [asyncio.ensure_future(wide.encode([text], role="query")) for text in sentences(300)]
            await asyncio.to_thread(stages.begun.acquire)
            requests = []
            for _ in range(3):
                large = asyncio.ensure_future(wide.encode(texts, role="query"))
                while len(wide._batcher._requests) < 301:
                    await asyncio.sleep(0.005)
                while not any(each.tokens > 1_000 for each in wide._batcher._waiting.values()):
                    await asyncio.sleep(0.005)
                (request,) = (each for each in wide._batcher._requests if each.tokens > 1_000)
                requests.append(weakref.ref(request))
                del request
                large.cancel()
                await asyncio.gather(large, return_exceptions=True)
                del large
            await asyncio.sleep(0.01)  # the loop lets go of what it called
            gc.collect()
            assert [request() for request in requests] == [None] * 3
            stages.open()
            await asyncio.gather(*short)

    asyncio.run(run())


def test_closing_lets_memory_and_threads_go_though_the_object_stays(bundles: dict[str, Bundle]) -> None:
    async def run() -> AsyncEncoder:
        wide = AsyncEncoder(bundles["tiny-bert"])
        await wide.encode(["the river"], role="query")
        await wide.aclose()
        return wide

    before = {thread.ident for thread in threading.enumerate()}
    wide = asyncio.run(run())
    gc.collect()
    assert wide._batcher._scheduler is None
    until = time.monotonic() + 30
    while {thread.ident for thread in threading.enumerate()} - before and time.monotonic() < until:
        time.sleep(0.01)
    assert {thread.ident for thread in threading.enumerate()} <= before


@pytest.mark.parametrize("timeout", ["soon", [1]])
def test_a_time_to_close_in_that_is_none_is_refused_and_nothing_closed(bert: Encoder, timeout: Any) -> None:
    async def run() -> None:
        wide = AsyncEncoder(bert)
        with pytest.raises(errors.InputError, match="timeout_s is"):
            await wide.aclose(timeout)
        assert (await wide.encode(["the river"], role="query")).stats.texts == 1

    asyncio.run(run())


def test_a_call_larger_than_the_queue_is_taken_where_nothing_waits(bert: Encoder) -> None:
    texts = sentences(300)
    vectors, _ = asyncio.run(AsyncEncoder(bert, max_queue_tokens=1).encode(texts, role="query"))
    assert np.array_equal(vectors, bert.encode(texts, role="query"))


# What is dropped.


@pytest.mark.parametrize("by_timeout", [True, False])
def test_what_is_cancelled_never_runs(bundles: dict[str, Bundle], by_timeout: bool) -> None:
    async def run() -> None:
        with watched(bundles["tiny-bert"], workers=1) as (encoder, stages):
            wide = AsyncEncoder(encoder)
            first = asyncio.ensure_future(wide.encode(["the river"], role="query"))
            await asyncio.to_thread(stages.begun.acquire)
            call = wide.encode(["a city in the river"] * 2 + ["north"], role="query")
            if by_timeout:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await call
            else:
                task = asyncio.ensure_future(call)
                await asyncio.sleep(0)
                assert wide.queued_tokens > 0
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert wide.queued_tokens == 0
            stages.open()
            await first
            await wide.encode(["the water"], role="query")
            assert stages.shapes == [(1, 4), (1, 4)]

    asyncio.run(run())


def test_a_loop_that_is_closed_meanwhile_leaves_the_encoder_at_work(bundles: dict[str, Bundle]) -> None:
    with watched(bundles["tiny-bert"], workers=1) as (encoder, stages):
        wide = AsyncEncoder(encoder)
        loop = asyncio.new_event_loop()
        task = loop.create_task(wide.encode(["the river"], role="query"))
        loop.run_until_complete(asyncio.sleep(0.01))
        assert stages.begun.acquire(timeout=60)
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()
        stages.open()
        assert asyncio.run(wide.encode(["the river"], role="query")).stats.texts == 1


# The end.


def test_closing_lets_what_was_taken_end_and_takes_no_more(bundles: dict[str, Bundle]) -> None:
    async def run() -> None:
        wide = AsyncEncoder(bundles["tiny-bert"])
        calls = [asyncio.ensure_future(wide.encode([text], role="query")) for text in sentences(50)]
        await asyncio.sleep(0)
        await wide.aclose()
        assert all(call.done() for call in calls) or len(await asyncio.gather(*calls)) == 50
        with pytest.raises(errors.BundleError, match="was closed"):
            await wide.encode(["the river"], role="query")
        await wide.aclose()
        with pytest.raises(errors.BundleError, match="was closed"):
            wide.encoder.encode(["the river"], role="query")

    asyncio.run(run())


def test_what_has_not_ended_in_time_is_told_so(bundles: dict[str, Bundle]) -> None:
    async def run() -> None:
        with watched(bundles["tiny-bert"], workers=1) as (encoder, stages):
            wide = AsyncEncoder(encoder)
            calls = [asyncio.ensure_future(wide.encode([text], role="query")) for text in sentences(10)]
            await asyncio.to_thread(stages.begun.acquire)
            await wide.aclose(timeout_s=0.02)
            for outcome in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(outcome, errors.BundleError)
            stages.open()
            assert len(encoder.encode(["the river"], role="query")) == 1, "the caller's own is not closed"

    asyncio.run(run())


def test_an_encoder_closed_under_it_refuses_new_calls(bundles: dict[str, Bundle]) -> None:
    encoder = Encoder(bundles["tiny-bert"])
    wide = AsyncEncoder(encoder)
    encoder.close()
    with pytest.raises(errors.BundleError, match="was closed"):
        asyncio.run(wide.encode(["the river"], role="query"))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_is_told_to_load_its_own(bert: Encoder) -> None:
    wide = AsyncEncoder(bert)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            asyncio.run(wide.aclose())
            asyncio.run(wide.encode(["the river"], role="query"))
        except errors.BundleError as error:
            code = 0 if "before this process was forked" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_default_bound_takes_512_callers(bert: Encoder) -> None:
    assert AsyncEncoder(bert)._batcher._bound() == async_encoder.MAX_QUEUE_TOKENS == 512 * 256
