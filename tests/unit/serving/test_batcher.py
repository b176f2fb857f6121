"""The batcher: what runs at once, what runs together, and who is next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.serving.batcher import Batcher, Request
from paritas.serving.rate import Rate
from tests.unit.serving.watched import Watched, watched

BOUND = 100_000
# Texts of n words have n + 2 tokens.
FOUR, FIVE, SIX = "the river", "in the river", "city in the river"


def send(encoder: Encoder, batcher: Batcher, texts: list[str], end: Callable[[Any], object]) -> Request:
    call = encoder.call(texts, "query", None)
    request = Request(1, end)
    batcher.admit(request)
    request.tokenized(call, call.window(slice(None)))
    batcher.start(request)
    return request


class Sent:
    """Requests sent to a batcher, and the order in which they ended."""

    def __init__(self, encoder: Encoder, batcher: Batcher) -> None:
        self.encoder, self.batcher = encoder, batcher
        self.ended: list[str] = []

    def __call__(self, name: str, *texts: str) -> Request:
        return send(self.encoder, self.batcher, list(texts), lambda _outcome: self.ended.append(name))

    def wait(self, stages: Watched, ended: int) -> None:
        """Let everything run, and wait for so many ends."""
        stages.open()
        until = time.monotonic() + 60
        while len(self.ended) < ended and time.monotonic() < until:
            time.sleep(0.002)
        assert len(self.ended) == ended


def different(count: int, words: int) -> list[str]:
    """Distinct texts of so many words: equal ones would be computed once."""
    names = "the river sky city in north a water".split()
    texts = []
    for number in range(count):
        digits = [number // len(names) ** place % len(names) for place in range(words)]
        texts.append(" ".join(names[digit] for digit in digits))
    return texts


def test_what_comes_to_an_idle_encoder_runs_at_once(bundles: dict[str, Bundle]) -> None:
    with watched(bundles["tiny-bert"], workers=1) as (encoder, stages):
        sent = Sent(encoder, Batcher(encoder, BOUND))
        sent("a", FOUR)
        assert stages.begun.acquire(timeout=60)
        assert stages.shapes == [(1, 4)]
        sent.wait(stages, 1)


def test_what_waits_shares_batches_by_length_up_to_their_most_tokens(bundles: dict[str, Bundle]) -> None:
    with watched(bundles["tiny-bert"], workers=1, max_batch_tokens=40) as (encoder, stages):
        sent = Sent(encoder, Batcher(encoder, BOUND))
        sent("first", FOUR)
        assert stages.begun.acquire(timeout=60)
        for number, text in enumerate(different(15, 2)):
            sent(f"four {number}", text)
        sent("five", FIVE)
        sent("six", SIX)
        sent.wait(stages, 18)
        assert sorted(stages.shapes[1:]) == [(1, 5), (1, 6), (5, 4), (10, 4)]


def test_a_large_request_is_split_and_short_ones_pass_it(bundles: dict[str, Bundle]) -> None:
    with watched(bundles["tiny-bert"], workers=1, max_batch_tokens=40) as (encoder, stages):
        sent = Sent(encoder, Batcher(encoder, BOUND))
        large = sent("large", *different(200, 3))
        assert stages.begun.acquire(timeout=60)
        for number in range(3):
            sent(f"short {number}", f"{SIX} north" + " water" * number)
        sent.wait(stages, 4)
        assert sent.ended == ["short 0", "short 1", "short 2", "large"]
        # One batch of the large one ran when they came, and one more was its turn, being the fourth.
        assert stages.shapes[:5].count((8, 5)) <= 2
        assert large.served == 1000


def test_a_short_request_passes_all_that_have_more_left_however_many_wait_longer(
    bundles: dict[str, Bundle],
) -> None:
    with watched(bundles["tiny-bert"], workers=1, max_batch_tokens=40) as (encoder, stages):
        sent = Sent(encoder, Batcher(encoder, BOUND))
        for words in range(4, 9):
            sent(f"large {words}", *different(300, words))
        for _ in range(10):
            assert stages.begun.acquire(timeout=60)
            stages.gate.release()
        assert stages.begun.acquire(timeout=60)
        before = len(stages.shapes)
        sent("short", f"{SIX} north water {SIX}")
        sent.wait(stages, 6)
        assert sent.ended[0] == "short"
        # At once, or after the turn of who waited longest; its length is nobody else's.
        (place,) = (place for place, shape in enumerate(stages.shapes) if shape == (1, 12))
        assert before <= place <= before + 1


def test_large_requests_end_one_after_the_other(bundles: dict[str, Bundle]) -> None:
    """In turns all of them would end last, and perhaps too late."""
    with watched(bundles["tiny-bert"], workers=1, max_batch_tokens=40) as (encoder, stages):
        sent = Sent(encoder, Batcher(encoder, BOUND))
        for number in range(4):
            sent(f"large {number}", *different(60 + 10 * number, 2 + number))
        sent.wait(stages, 4)
        lengths = [length for _, length in stages.shapes]
        last = {length: place for place, length in enumerate(lengths)}
        assert last[4] < len(lengths) / 3


def test_a_large_request_goes_on_however_many_short_ones_come(bundles: dict[str, Bundle]) -> None:
    """Each batch that begins brings a new short request, which has less left."""
    with watched(bundles["tiny-bert"], workers=1, max_batch_tokens=40) as (encoder, stages):
        sent = Sent(encoder, Batcher(encoder, BOUND))
        sent("large", *different(40, 2))
        lengths = [f"{SIX} {' water' * number}".strip() for number in range(1, 60)]
        for text in lengths:
            assert stages.begun.acquire(timeout=60)
            sent("short", text)
            sent("short", f"{text} north city")
            stages.gate.release()
            if "large" in sent.ended:
                break
        else:
            pytest.fail("the large request starved")
        assert len(stages.shapes) <= 4 * 5


def test_a_request_that_is_dropped_leaves_the_others_in_their_batches(bundles: dict[str, Bundle]) -> None:
    with watched(bundles["tiny-bert"], workers=1) as (encoder, stages):
        batcher = Batcher(encoder, BOUND)
        sent = Sent(encoder, batcher)
        sent("first", FOUR)
        assert stages.begun.acquire(timeout=60)
        dropped = sent("dropped", "a city", FIVE)
        sent("kept", "a water", "the north water")
        batcher.drop(dropped)
        batcher.drop(dropped)
        sent.wait(stages, 2)
        assert sent.ended == ["first", "kept"]
        assert sorted(stages.shapes[1:]) == [(1, 4), (1, 5)]
        assert batcher.queued_tokens == 0


def test_a_batch_that_breaks_down_is_told_to_its_callers_and_the_next_one_runs(
    bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched(bundles["tiny-bert"], workers=1) as (encoder, stages):
        batcher = Batcher(encoder, BOUND)
        outcomes: list[Any] = []
        run = stages.run

        def broken(*_arguments: Any) -> Any:
            monkeypatch.setattr(stages, "run", run)
            raise MemoryError("no more")

        monkeypatch.setattr(stages, "run", broken)
        stages.open()
        for _ in range(2):
            send(encoder, batcher, [FOUR], outcomes.append)
            until = time.monotonic() + 60
            while not outcomes and time.monotonic() < until:
                time.sleep(0.002)
        until = time.monotonic() + 60
        while len(outcomes) < 2 and time.monotonic() < until:
            time.sleep(0.002)
        assert isinstance(outcomes[0], MemoryError)
        assert outcomes[1].vectors.shape == (1, 16)


def test_the_rate_is_of_busy_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rate = Rate()
    assert rate.per_s == 0
    for _ in range(5):
        now[0] += 1_000  # a pause
        rate.begin()
        for _ in range(20):
            now[0] += 0.5
            rate.add(50)
    assert rate.per_s == pytest.approx(100)
    for _ in range(200):
        now[0] += 0.5
        rate.add(200)
    assert rate.per_s == pytest.approx(400, rel=0.01)


def test_short_requests_go_in_the_order_of_arrival_whatever_their_lengths(bundles: dict[str, Bundle]) -> None:
    with watched(bundles["tiny-bert"], workers=1, max_batch_tokens=40) as (encoder, stages):
        sent = Sent(encoder, Batcher(encoder, BOUND))
        sent("first", FOUR)
        assert stages.begun.acquire(timeout=60)
        texts = [" ".join(SIX.split() * 2)[: 60 - 8 * number] for number in range(5)]  # the longest first
        for number, text in enumerate(texts):
            sent(f"{number}", text)
        sent.wait(stages, 6)
        # But for every fourth batch, which is whose turn it is anyhow.
        assert sent.ended == ["first", "0", "1", "2", "3", "4"]


def test_whoever_has_vectors_finds_a_rate(bert: Encoder) -> None:
    batcher, ended = Batcher(bert, BOUND), threading.Event()
    rates: list[float] = []

    def end(_outcome: Any) -> None:
        rates.append(batcher.rate.per_s)
        ended.set()

    send(bert, batcher, [FOUR], end)
    assert ended.wait(60)
    assert rates[0] > 0
