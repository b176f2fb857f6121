"""Places to run in: never more threads than CPUs, and an error ends them all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from paritas.engine.batching import Batch
from paritas.engine.workers import Workers


class Loaded:
    """Stands in for a session: says with how many threads it was loaded."""

    def __init__(self, threads: int) -> None:
        self.threads = threads


class Running:
    """Counts the threads that run at once, and the sessions they run in."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = self.most = 0
        self.done: list[int] = []
        self.threads: list[int] = []

    def one(self, session: Any, batch: Batch) -> None:
        with self.lock:
            self.now += session.threads
            self.most = max(self.most, self.now)
        threading.Event().wait(0.002)
        with self.lock:
            self.now -= session.threads
            self.done.append(batch.length)
            self.threads.append(session.threads)


def batches(count: int) -> list[Batch]:
    return [Batch(np.arange(1), number) for number in range(count)]


def workers(threads: int, side_by_side: int, load: Callable[[int], Any] = Loaded) -> Workers:
    return Workers(load(threads), load, threads=threads, workers=side_by_side)


def test_a_batch_alone_has_all_threads_inside() -> None:
    running = Running()
    workers(4, 4).run(batches(1), running.one)
    assert running.threads == [4]


def test_fewer_batches_than_workers_run_one_after_the_other() -> None:
    running = Running()
    workers(4, 4).run(batches(3), running.one)
    assert running.threads == [4, 4, 4]


@pytest.mark.parametrize(("threads", "side_by_side", "inside"), [(2, 2, 1), (8, 2, 4), (8, 3, 2), (3, 3, 1)])
def test_many_batches_run_side_by_side_within_the_cpus(threads: int, side_by_side: int, inside: int) -> None:
    running = Running()
    workers(threads, side_by_side).run(batches(40), running.one)
    assert sorted(running.done) == list(range(40))
    assert set(running.threads) == {inside}
    assert inside < running.most <= threads


def test_one_worker_loads_one_session() -> None:
    loaded: list[int] = []
    running = Running()
    one = workers(2, 1, lambda threads: loaded.append(threads) or Loaded(threads))
    one.run(batches(5), running.one)
    assert loaded == [2]
    assert running.done == [0, 1, 2, 3, 4]


def test_the_second_session_is_loaded_when_it_is_needed_and_once() -> None:
    loaded: list[int] = []
    running = Running()
    two = workers(2, 2, lambda threads: loaded.append(threads) or Loaded(threads))
    two.run(batches(1), running.one)
    assert loaded == [2]
    two.run(batches(9), running.one)
    two.run(batches(9), running.one)
    assert loaded == [2, 1]


def test_many_callers_at_once_never_run_more_threads_than_cpus() -> None:
    running = Running()
    two = workers(2, 2)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda count: two.run(batches(count), running.one), [1, 7, 1, 2, 30, 1, 1, 9] * 4))
    assert running.most <= 2
    assert len(running.done) == 4 * 52


@pytest.mark.parametrize("count", [1, 60])
def test_an_error_ends_the_others_and_is_raised(count: int) -> None:
    two = workers(2, 2)
    done: list[int] = []

    def one(_session: Any, batch: Batch) -> None:
        if batch.length == min(3, count - 1):
            raise MemoryError("batch 3")
        threading.Event().wait(0.01)
        done.append(batch.length)

    with pytest.raises(MemoryError, match="batch 3"):
        two.run(batches(count), one)
    assert len(done) <= 6
    running = Running()
    two.run(batches(9), running.one)  # every place was given back
    two.run(batches(1), running.one)
    assert running.threads[-1] == 2
