"""Any mix of calls from any threads: what is saved, found and counted is always whole."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from paritas.engine.encoder import Encoder
from paritas.engine.index import VectorIndex
from paritas.errors import VectorIndexError
from tests.faults.indexes import add, check_whole, vectors_of


def until(done: threading.Event, work: Callable[[], object]) -> None:
    while not done.is_set():
        work()


def test_what_is_saved_while_another_thread_adds_is_of_one_moment(
    bert: Encoder, tmp_path: Path, whole: bool
) -> None:
    done, saves = threading.Event(), 475 if whole else 25
    with VectorIndex(bert) as index, ThreadPoolExecutor(1) as pool:

        def work() -> None:
            for start in range(0, 900, 30):
                add(index, list(range(start, start + 30)))
            index.remove([str(number) for number in range(900)])

        adding = pool.submit(until, done, work)
        try:
            for _ in range(saves):
                index.save(tmp_path / "index")
                with VectorIndex.load(tmp_path / "index") as loaded:
                    found = check_whole(loaded)
                    assert found == set(range(len(found)))
                    assert len(found) % 30 == 0, "an add is saved with all of its documents or with none"
        finally:
            done.set()
        adding.result()


def test_searches_beside_adds_and_removes_see_whole_documents(bert: Encoder, whole: bool) -> None:
    done, rounds = threading.Event(), 1500 if whole else 60
    kept = list(range(50))
    queries = vectors_of(kept)
    with VectorIndex(bert) as index, ThreadPoolExecutor(6) as pool:
        add(index, kept)

        def search() -> None:
            for exact in (False, True):
                hits = index.search(queries[:8], 20, exact=exact)
                if exact:
                    assert [found[0].id for found in hits] == [str(number) for number in kept[:8]]
                for found in hits:
                    assert len(found) == 20
                    assert all(hit.text == f"text {hit.id}" for hit in found)

        def look() -> None:
            assert len(index) >= len(kept)
            assert "7" in index
            assert index.sample(10**6).shape[1] == 16
            assert index.recall(queries[:3], 5) > 0.5

        running = [pool.submit(until, done, work) for work in (search, search, search, look)]
        try:
            for round_ in range(rounds):
                numbers = list(range(1000 + 40 * round_, 1040 + 40 * round_))
                add(index, numbers)
                index.remove([str(number) for number in numbers])
        finally:
            done.set()
        for each in running:
            each.result()
        assert check_whole(index) == set(kept)


CLOSE = """
import sys, threading
import numpy as np
from paritas.engine.index import VectorIndex
from paritas.errors import VectorIndexError

for _ in range(int(sys.argv[3])):
    index = VectorIndex.load(sys.argv[1], mmap=sys.argv[2] == "mmap")
    started, failed = threading.Barrier(9), []

    def search():
        started.wait()
        try:
            while True:
                for hits in index.search(np.eye(8, 16, dtype=np.float32), 10):
                    assert len(hits) == 10
        except VectorIndexError as error:
            if str(error) != "the index was closed":
                failed.append(repr(error))
        except BaseException as error:
            failed.append(repr(error))

    threads = [threading.Thread(target=search) for _ in range(8)]
    for thread in threads:
        thread.start()
    started.wait()
    index.search(np.eye(8, 16, dtype=np.float32), 10)
    index.close()
    for thread in threads:
        thread.join()
    assert not failed, failed
"""


@pytest.mark.parametrize("mode", ["mmap", "memory"])
def test_a_close_waits_for_the_searches_under_way(
    bert: Encoder, tmp_path: Path, mode: str, whole: bool
) -> None:
    with VectorIndex(bert) as index:
        add(index, list(range(3000)))
        index.save(tmp_path / "index")
    arguments = [str(tmp_path / "index"), mode, "400" if whole else "20"]
    run = subprocess.run(
        [sys.executable, "-c", CLOSE, *arguments], check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_a_search_waits_for_one_part_of_a_long_add_only(bert: Encoder) -> None:
    """Each of the searches comes between two parts of one add, so they see more and more of it."""
    with VectorIndex(bert) as index, ThreadPoolExecutor(1) as pool:
        numbers = list(range(6000))
        vectors = vectors_of(numbers)
        adding = pool.submit(index.add, [str(number) for number in numbers], vectors)
        seen = set()
        while not adding.done():
            seen.add(len(index))
        adding.result()
        assert len(seen) > 3
        assert len(index) == 6000


class Interrupt(BaseException):
    """Raised in a thread from outside."""


def interrupt(thread: threading.Thread) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Interrupt))


# A file just opened, and not yet in a `with`, is closed when it is collected.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_after_interrupts_at_any_instruction_everything_works_and_is_whole(
    bert: Encoder, tmp_path: Path, whole: bool
) -> None:
    """One thread adds, removes, searches and saves; another raises exceptions in it, wherever it is."""
    wanted, dice = 10_000 if whole else 300, random.Random(0)
    index, done, caught = VectorIndex(bert), threading.Event(), []
    numbers, failures = itertools.count(), []

    def one_thing() -> None:
        new = list(itertools.islice(numbers, dice.randrange(1, 5)))
        add(index, new)
        index.search(vectors_of(new), 3)
        index.remove([str(new[0])])
        if dice.random() < 0.02:
            index.save(tmp_path / "index")

    def work() -> None:
        while not done.is_set():
            try:
                while not done.is_set():
                    one_thing()
            except Interrupt:
                caught.append(1)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a failure
                failures.append(error)
                return

    def guarded() -> None:
        """Catch those that come while another is caught."""
        while not done.is_set() and not failures:
            with contextlib.suppress(Interrupt):
                work()

    thread = threading.Thread(target=guarded)
    thread.start()
    while len(caught) < wanted and thread.is_alive():
        interrupt(thread)
        for _ in range(dice.randrange(1, 4)):
            check_some(index)
    done.set()
    thread.join()
    assert not failures, failures
    assert len(caught) >= wanted
    check_whole(index)
    add(index, [10**9])
    index.remove([str(10**9)])
    index.save(tmp_path / "index")
    with VectorIndex.load(tmp_path / "index") as loaded:
        assert check_whole(loaded) == check_whole(index)
    index.close()


def check_some(index: VectorIndex) -> None:
    for hits in index.search(np.eye(2, 16, dtype=np.float32), 5):
        assert all(hit.text == f"text {hit.id}" for hit in hits)


def test_a_handler_that_uses_the_index_inside_a_call_of_it_is_told_so(bert: Encoder) -> None:
    """Waiting for the call that it interrupts, it would wait for ever."""
    with VectorIndex(bert) as index:
        add(index, [1])
        contents = index._contents
        with pytest.raises(VectorIndexError, match="not from a signal handler"):
            contents._alter(lambda: len(index))
        with pytest.raises(VectorIndexError, match="not from a signal handler"):
            contents._use(lambda: len(index))
        with pytest.raises(VectorIndexError, match="not from a signal handler"):
            contents._use(index.close)
        assert check_whole(index) == {1}


SIGNALS = """
import os, signal, sys, threading
import numpy as np
from paritas.engine.index import VectorIndex
from tests.faults.indexes import check_whole, vectors_of

index = VectorIndex.load(sys.argv[1], mmap=False)
wanted, armed, caught, done = int(sys.argv[2]), threading.Semaphore(0), threading.Event(), False
queries, new = vectors_of(list(range(400))), vectors_of(list(range(5000, 5300)))
expected = check_whole(index)

def send():
    while True:
        armed.acquire()
        if done:
            return
        caught.clear()
        os.kill(os.getpid(), signal.SIGINT)
        # One that comes in a finaliser is swallowed by Python: then another one.
        while not caught.wait(10):
            os.kill(os.getpid(), signal.SIGINT)

# Whoever started the tests in the background of a shell had SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
sender = threading.Thread(target=send, daemon=True)
sender.start()
for number in range(wanted):
    try:
        armed.release()
        while True:
            index.search(queries, 10, exact=number % 2 == 0)
            index.add([f"new {i}" for i in range(300)], new)
            index.remove([f"new {i}" for i in range(300)])
    except KeyboardInterrupt:
        caught.set()
    there = [f"new {i}" in index for i in range(300)]
    assert all(there) or not any(there)
    if any(there):
        index.remove([f"new {i}" for i in range(300)])
    assert check_whole(index) == expected
done = True
armed.release()
sender.join()
"""


def test_ctrl_c_ends_any_call_as_ctrl_c_does(bert: Encoder, tmp_path: Path, whole: bool) -> None:
    """usearch reports an interrupt as an error of its own, in which Python's exception is lost."""
    with VectorIndex(bert) as index:
        add(index, list(range(400)))
        index.save(tmp_path / "index")
    arguments = [str(tmp_path / "index"), "1000" if whole else "40"]
    run = subprocess.run(
        [sys.executable, "-c", SIGNALS, *arguments], check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
