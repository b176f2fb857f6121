"""An idle scheduler gives back what large batches left, once, whichever thread waits for the next job."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from paritas.engine.schedule import scheduler as scheduler_module
from paritas.engine.schedule.batching import Batch
from paritas.engine.schedule.scheduler import Scheduler


class Loaded:
    """Stands in for a session: counts how often it gave memory back."""

    def __init__(self) -> None:
        self.released = 0

    def release(self) -> None:
        self.released += 1


def waited_for(condition: Callable[[], bool]) -> bool:
    for _ in range(6000):
        if condition():
            return True
        threading.Event().wait(0.01)
    return False


def submit(scheduler: Scheduler, tokens: list[int], run: Callable[[], object] = lambda: None) -> Any:
    batches = [Batch(np.arange(1), length) for length in tokens]
    return scheduler.submit(batches, lambda _session, _batch: run(), lambda: None)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler_module, "_IDLE_S", 0.001)


def test_memory_is_given_back_once_and_after_large_batches_only() -> None:
    session: Any = Loaded()
    scheduler = Scheduler(session, None, threads=1, workers=1)  # type: ignore[arg-type]
    submit(scheduler, [59] * 60).result()
    assert scheduler._slots._largest == 59
    submit(scheduler, [300] * 3).result()
    assert waited_for(lambda: session.released == 1)
    submit(scheduler, [59] * 60).result()
    threading.Event().wait(0.05)
    assert session.released == 1


def test_memory_is_given_back_where_another_thread_waited_all_along() -> None:
    session: Any = Loaded()
    scheduler = Scheduler(session, lambda _threads: session, threads=2, workers=2)

    def until_the_other_waits() -> None:
        assert waited_for(lambda: len(scheduler._slots.threads) == 2 and scheduler._slots._first.locked())
        threading.Event().wait(0.05)

    submit(scheduler, [300], until_the_other_waits).result()
    assert waited_for(lambda: session.released >= 1)


def test_nothing_is_given_back_under_a_batch_that_runs() -> None:
    session: Any = Loaded()
    scheduler = Scheduler(session, lambda _threads: session, threads=2, workers=2)
    submit(scheduler, [59]).result()
    go_on = threading.Event()
    job = submit(scheduler, [300], go_on.wait)
    threading.Event().wait(0.05)
    assert session.released == 0
    go_on.set()
    job.result()
    assert waited_for(lambda: session.released == 1)
