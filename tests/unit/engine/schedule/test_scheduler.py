"""Slots to run in: first come, first served, never more threads than CPUs, and none is ever lost."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from paritas.engine.schedule.batching import Batch
from paritas.engine.schedule.job import Job
from paritas.engine.schedule.scheduler import Scheduler
from paritas.errors import BundleError


class Loaded:
    """Stands in for a session: says with how many threads it was loaded."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.released = threading.Event()

    def release(self) -> None:
        self.released.set()


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


def scheduler(threads: int, side_by_side: int, load: Callable[[int], Any] = Loaded) -> Scheduler:
    return Scheduler(load(threads), load, threads=threads, workers=side_by_side)


def run(scheduler: Scheduler, count: int, one: Any) -> None:
    scheduler.submit(batches(count), one, lambda: None).result()


def test_a_batch_alone_has_all_threads_inside() -> None:
    running = Running()
    run(scheduler(4, 4), 1, running.one)
    assert running.threads == [4]


def test_fewer_batches_than_workers_run_one_after_the_other() -> None:
    running = Running()
    run(scheduler(4, 4), 3, running.one)
    assert running.threads == [4, 4, 4]


@pytest.mark.parametrize(("threads", "side_by_side", "inside"), [(2, 2, 1), (8, 2, 4), (8, 3, 2), (3, 3, 1)])
def test_many_batches_run_side_by_side_within_the_cpus(threads: int, side_by_side: int, inside: int) -> None:
    running = Running()
    run(scheduler(threads, side_by_side), 40, running.one)
    assert sorted(running.done) == list(range(40))
    # The last ones, where fewer are left than workers, may have all threads.
    assert set(running.threads[: 40 - 2 * side_by_side]) == {inside}
    assert inside < running.most <= threads


def test_one_worker_loads_one_session() -> None:
    loaded: list[int] = []
    running = Running()
    one = scheduler(2, 1, lambda threads: loaded.append(threads) or Loaded(threads))
    run(one, 5, running.one)
    assert loaded == [2]
    assert running.done == [0, 1, 2, 3, 4]


def test_the_second_session_is_loaded_when_it_is_needed_and_once() -> None:
    loaded: list[int] = []
    running = Running()
    two = scheduler(2, 2, lambda threads: loaded.append(threads) or Loaded(threads))
    for _ in range(5):
        run(two, 1, running.one)
    assert loaded == [2]
    run(two, 9, running.one)
    run(two, 9, running.one)
    assert loaded == [2, 1]


def test_where_the_second_session_cannot_be_loaded_the_first_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def load(threads: int) -> Any:
        if threads == 1:
            raise BundleError("the bundle was replaced")
        return Loaded(threads)

    running = Running()
    with caplog.at_level(logging.WARNING):
        run(scheduler(2, 2, load), 9, running.one)
    assert sorted(running.done) == list(range(9))
    assert [record.message for record in caplog.records] == [
        "many batches run slower, in the session of single ones: the bundle was replaced"
    ]


def test_many_callers_at_once_never_run_more_threads_than_cpus() -> None:
    running = Running()
    two = scheduler(2, 2)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda count: run(two, count, running.one), [1, 7, 1, 2, 30, 1, 1, 9] * 4))
    assert running.most <= 2
    assert len(running.done) == 4 * 52


@pytest.mark.parametrize("count", [1, 60])
def test_an_error_ends_the_others_and_is_raised(count: int) -> None:
    two = scheduler(2, 2)
    done: list[int] = []

    def one(_session: Any, batch: Batch) -> None:
        if batch.length == min(3, count - 1):
            raise MemoryError("batch 3")
        threading.Event().wait(0.01)
        done.append(batch.length)

    with pytest.raises(MemoryError, match="batch 3"):
        run(two, count, one)
    assert len(done) <= 6
    running = Running()
    run(two, 9, running.one)  # every slot was given back
    run(two, 1, running.one)
    assert running.threads[-1] == 2


# First come, first served.


class Stepwise:
    """Batches that begin when they are let, and end at once; notes the order in which they ran."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.begun = threading.Semaphore(0)
        self.let = threading.Semaphore(0)

    def job(self, name: str, count: int) -> Job[None]:
        def one(_session: Any, _batch: Batch) -> None:
            self.begun.release()
            self.let.acquire()
            self.order.append(name)

        return Job(batches(count), one, lambda: None)


def test_a_query_waits_for_what_runs_and_one_batch_of_what_came_before() -> None:
    steps = Stepwise()
    two = scheduler(2, 2)
    bulk, query = steps.job("bulk", 1000), steps.job("query", 1)
    two.start(bulk)
    steps.begun.acquire()
    steps.begun.acquire()  # two batches run
    two.start(query)
    steps.let.release(10)
    query.result()
    assert steps.order.index("query") <= 3  # the two, one more, and a thread's turn to note its name
    bulk._left.clear()
    steps.let.release(10)
    bulk.result()


def test_jobs_take_turns_in_the_order_they_came() -> None:
    steps = Stepwise()
    one = scheduler(1, 1)
    jobs = [steps.job("first", 1), steps.job("a", 3), steps.job("b", 2), steps.job("c", 1)]
    one.start(jobs[0])
    steps.begun.acquire()  # the others wait together
    for job in jobs[1:]:
        one.start(job)
    steps.let.release(10)
    for job in jobs:
        job.result()
    assert steps.order == ["first", "a", "b", "c", "a", "b", "a"]


# A short batch in its caller's thread.


def test_a_short_batch_that_meets_nobody_runs_in_its_callers_thread() -> None:
    two, ran = scheduler(2, 2), []

    def one(session: Any, batch: Batch) -> None:
        ran.append((threading.current_thread(), session.threads, two.is_within()))

    assert two.run_exclusive(Batch(np.arange(1), 10), one)
    assert ran == [(threading.current_thread(), 2, True)]
    assert not two.is_within()
    assert not two.run_exclusive(Batch(np.arange(1), 1000), one), (
        "what a long one leaves is given back by a thread"
    )
    assert len(ran) == 1


def test_a_short_batch_takes_its_turn_where_others_run_or_wait() -> None:
    steps = Stepwise()
    for count in (1, 2, 5):
        two = scheduler(2, 2)
        job = steps.job("bulk", count)
        two.start(job)
        steps.begun.acquire()
        assert not two.run_exclusive(Batch(np.arange(1), 1), steps.job("query", 1)._run)
        steps.let.release(count)
        job.result()
        assert two.run_exclusive(Batch(np.arange(1), 1), lambda _session, batch: None)
        while steps.begun.acquire(blocking=False):
            pass


def test_an_error_in_a_callers_thread_leaves_the_slots_free() -> None:
    two, running = scheduler(2, 2), Running()
    with pytest.raises(ZeroDivisionError):
        two.run_exclusive(Batch(np.arange(1), 1), lambda _session, batch: 1 / 0)
    assert two.run_exclusive(Batch(np.arange(1), 1), running.one)
    run(two, 9, running.one)


# Jobs.


def test_a_cancelled_job_runs_no_more_and_returns_when_nothing_runs() -> None:
    steps = Stepwise()
    two = scheduler(2, 2)
    job = steps.job("bulk", 1000)
    two.start(job)
    steps.begun.acquire()
    steps.begun.acquire()
    cancelling = threading.Thread(target=job.cancel)
    cancelling.start()
    while job._left:
        threading.Event().wait(0.001)
    assert cancelling.is_alive()
    assert not job.done()
    steps.let.release(2)
    cancelling.join()
    assert steps.order == ["bulk", "bulk"]
    with pytest.raises(CancelledError):
        job.result()
    run(two, 5, Running().one)


def test_a_job_cancelled_while_it_waits_never_runs() -> None:
    steps = Stepwise()
    one = scheduler(1, 1)
    first, second = steps.job("first", 1), steps.job("second", 1)
    one.start(first)
    one.start(second)
    second.cancel()
    with pytest.raises(CancelledError):
        second.result()
    steps.let.release(2)
    first.result()
    run(one, 1, lambda _session, _batch: None)
    assert steps.order == ["first"]


def test_a_result_stays_when_the_job_is_cancelled_late() -> None:
    job = scheduler(1, 1).submit(batches(1), lambda _session, _batch: None, lambda: "result")
    assert job.result() == "result"
    job.cancel()
    assert job.result() == "result"
    assert job.done()


def test_callbacks_are_called_once_and_one_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    steps = Stepwise()
    one = scheduler(1, 1)
    job = steps.job("job", 1)
    called: list[str] = []
    job.add_done_callback(lambda _job: called.append("before"))
    job.add_done_callback(lambda _job: 1 / 0)
    job.add_done_callback(lambda _job: sys.exit("no thread of yours"))
    one.start(job)
    steps.let.release()
    job.result()
    run(one, 1, lambda _session, _batch: None)  # the thread is past the callbacks, and lives
    job.add_done_callback(lambda _job: called.append("after"))
    assert called == ["before", "after"]
    assert "a callback of a job failed" in caplog.text


def test_a_callback_that_would_wait_for_itself_is_told() -> None:
    one = scheduler(1, 1)
    told = threading.Event()

    def callback(_job: Any) -> None:
        another = one.submit(batches(1), lambda _session, _batch: None, lambda: None)
        for wait in (another.result, lambda: another.wait(0.01)):
            with pytest.raises(RuntimeError, match="a job's callback cannot wait for another job"):
                wait()
        told.set()

    job = Job(batches(1), lambda _session, _batch: None, lambda: None)
    job.add_done_callback(callback)
    one.start(job)
    assert told.wait(60)


def test_what_comes_after_the_last_batch_may_fail() -> None:
    job = scheduler(1, 1).submit(batches(2), lambda _session, _batch: None, lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        job.result()


def test_a_job_is_not_waited_for_after_a_fork() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (
        0,
        "the job began before this process was forked, and never ends here\n",
    )


FORKS = """
import os, threading
import numpy as np
from paritas.engine.schedule.batching import Batch
from paritas.engine.schedule.scheduler import Scheduler
from paritas.errors import BundleError

go = threading.Event()
scheduler = Scheduler(None, None, threads=1, workers=1)
job = scheduler.submit([Batch(np.arange(1), 1)], lambda session, batch: go.wait(), lambda: None)
if os.fork() == 0:
    try:
        job.cancel()
        job.result()
    except BundleError as error:
        os.write(1, f"{error}\\n".encode())
    os._exit(0)
os.wait()
go.set()
job.result()
"""


def test_an_error_that_was_raised_keeps_nothing_alive() -> None:
    def fail(_session: Any, _batch: Batch) -> None:
        raise MemoryError

    one = scheduler(1, 1)
    gone = weakref.ref(one)
    gc.collect()
    gc.disable()
    try:
        with suppress(MemoryError):
            run(one, 1, fail)
        threads = list(one._slots.threads)
        del one
        for thread in threads:
            thread.join(60)
        assert gone() is None
    finally:
        gc.enable()


def test_a_waiter_hides_no_end() -> None:
    """Whoever has waited holds the lock for a moment: a callback given then is called, nothing ends twice."""
    job = scheduler(1, 1).submit(batches(1), lambda _session, _batch: None, lambda: "result")
    assert job.result() == "result"
    called: list[str] = []
    with job._ended:  # as another thread does that comes out of its wait
        assert job.done()
        assert job.wait(0)
        job.add_done_callback(lambda job: called.append(job.result()))
        job.cancel()
    assert called == ["result"]
    assert job.result() == "result"


def test_a_cancel_waits_for_what_comes_after_the_last_batch() -> None:
    begun, go, ended = threading.Event(), threading.Event(), []

    def then() -> None:
        begun.set()
        go.wait()
        ended.append(True)

    job = scheduler(1, 1).submit(batches(1), lambda _session, _batch: None, then)
    begun.wait()
    cancelling = threading.Thread(target=lambda: (job.cancel(), ended.append(False)))
    cancelling.start()
    while job._error is None:
        threading.Event().wait(0.001)
    assert not job.done()
    go.set()
    cancelling.join()
    assert ended == [True, False]


# The threads' own lives.


def test_the_threads_end_with_the_scheduler() -> None:
    two = scheduler(2, 2)
    run(two, 9, Running().one)
    threads = list(two._slots.threads)
    assert len(threads) == 2
    del two
    gc.collect()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def test_a_job_under_way_keeps_its_scheduler() -> None:
    steps = Stepwise()
    job = steps.job("job", 5)
    scheduler(2, 2).start(job)
    gc.collect()
    steps.let.release(5)
    job.result()
    assert steps.order == ["job"] * 5


LEAVES = """
import threading
import numpy as np
from paritas.engine.schedule.batching import Batch
from paritas.engine.schedule.scheduler import Scheduler

begun = threading.Event()

def one(session, batch):
    begun.set()
    threading.Event().wait(0.3)
    print("ran", flush=True)

Scheduler(None, None, threads=1, workers=1).submit([Batch(np.arange(1), 1)] * 50, one, lambda: None)
begun.wait()
"""


def test_the_interpreter_waits_for_the_batch_that_runs_and_no_other() -> None:
    done = subprocess.run([sys.executable, "-c", LEAVES], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")


ENCODES_LATE = """
import atexit

def late():
    try:
        scheduler.submit([Batch(np.arange(1), 1)], print, lambda: None).result()
    except Exception as error:
        print(type(error).__name__, error, flush=True)

atexit.register(late)  # before the scheduler's own, and so after it
import numpy as np
from paritas.engine.schedule.batching import Batch
from paritas.engine.schedule.scheduler import Scheduler

scheduler = Scheduler(None, None, threads=1, workers=1)
"""


def test_what_is_asked_for_at_the_interpreters_end_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENCODES_LATE], capture_output=True, text=True, timeout=60, check=False
    )
    told = "BundleError nothing can be encoded any longer: the interpreter is ending\n"
    assert (done.returncode, done.stdout) == (0, told)
