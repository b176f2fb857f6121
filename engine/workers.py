"""Who runs which batch: all CPUs inside a batch that is alone, a worker for each CPU where there are many.

Threads inside a batch meet at the end of every operator and wait for the slowest; batches side by side do
not. Two workers with one thread each encode 1.16 times as many tokens a second as one with two threads
(all-mpnet-base-v2 in INT8, 2 CPUs), and 1.3 times as many as two that share a session of two threads, which
is why there are two sessions. A single query has no other batch to run beside, and is done soonest with all
threads inside it. Whatever many callers ask for at once, no more threads run than CPUs.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from paritas.engine.batching import Batch
from paritas.engine.runtime import Session

Run = Callable[[Session, Batch], None]


class Workers:
    """The sessions of one graph and the places to run in. May be used by many threads at once."""

    def __init__(self, alone: Session, load: Callable[[int], Session], *, threads: int, workers: int) -> None:
        """Take a session, and how to load a second one when many batches ask for it.

        Args:
            alone: a session with all threads inside.
            load: loads the same graph with so many threads inside.
            threads: threads at most, in all.
            workers: batches at most that run side by side, each with threads // workers threads inside.
        """
        self.workers = workers
        self._load = load
        self._alone = alone
        self._threads_beside = max(1, threads // workers)
        self._beside = self._alone if workers == 1 else None
        self._loading = threading.Lock()
        self._free = workers
        self._change = threading.Condition()

    def run(self, batches: Sequence[Batch], one: Run) -> None:
        """Call `one` with every batch and the session to run it in, from one thread or several.

        An error in any of them ends the others after the batch they are at, and is raised here.
        """
        if self.workers == 1 or len(batches) < self.workers:
            for batch in batches:
                with self.place(alone=True) as session:
                    one(session, batch)
            return
        left = deque(batches)

        def work() -> None:
            try:
                while left:
                    with self.place() as session:
                        batch = _next(left)
                        if batch is not None:
                            one(session, batch)
            except BaseException:
                left.clear()
                raise

        with ThreadPoolExecutor(self.workers - 1, thread_name_prefix="paritas") as pool:
            others = [pool.submit(work) for _ in range(self.workers - 1)]
            work()
            for other in others:
                other.result()

    @contextmanager
    def place(self, *, alone: bool = False) -> Iterator[Session]:
        """Wait for a place and yield the session to run in.

        Args:
            alone: take all places, for all threads inside, unless somebody has one.
        """
        with self._change:
            wanted = self.workers if alone and self._free == self.workers else 1
            while self._free < wanted:
                self._change.wait()
            self._free -= wanted
        try:
            yield self._alone if wanted == self.workers else self._side_by_side()
        finally:
            with self._change:
                self._free += wanted
                self._change.notify(wanted)

    def release(self) -> None:
        """Give the memory that earlier runs and the tokenizer left back to the system."""
        for session in dict.fromkeys((self._alone, self._beside)):
            if session is not None:
                session.release()
        _trim()

    def _side_by_side(self) -> Session:
        with self._loading:
            if self._beside is None:
                self._beside = self._load(self._threads_beside)
        return self._beside


def _trim() -> None:
    """Let the C library give back what was freed, where it is one that can be told (glibc).

    It keeps pages for every thread that ever allocated: 20 to 80 MB after 16 callers at once.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _next(left: deque[Batch]) -> Batch | None:
    try:
        return left.popleft()
    except IndexError:  # another worker took the last one
        return None
