"""Which batch runs when: first come, first served, and a long call gives way after each of its batches.

A batch runs in one of two ways. An exclusive batch has all threads inside it, and nothing else runs. A shared
batch runs beside others, with few threads inside each. Each way has a session of its own.

Threads inside a batch meet at the end of every operator and wait for the slowest; batches side by side do
not. Two workers with one thread each encode 1.16 times as many tokens a second as one with two threads
(all-mpnet-base-v2 in INT8, 2 CPUs). They encode 1.3 times as many as two that run in a session of two
threads, so there are two sessions. A single query has no other batch to run beside. It is done soonest with
all threads inside it. However many callers ask at once, no more threads run than CPUs.

A queue holds each job once. Whoever takes a job from its head runs one batch of it and puts it back at the
end. So a query waits for the batches that run, and for one batch of each job that came before it.

Callers put jobs into the queue and wait. Only the scheduler's own threads count what runs, and no signal
handler runs in them. So an exception raised in a caller, at any moment, leaves every count right. A short
query that nothing runs beside runs in its caller's thread, which holds a lock in a `with` and counts nothing.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import threading
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from paritas.engine.runtime.session import Session
from paritas.engine.schedule.job import Job, Run, T, Work
from paritas.errors import BundleError

_log = logging.getLogger("paritas")

# An idle scheduler gives back what its runs left, once, after so long ...
_IDLE_S = 1.0
# ... if a batch had as many tokens. Texts of up to 200 tokens left 27 MB (all-MiniLM-L6-v2 in INT8); queries
# leave less than the next one would have to fetch again.
_LARGE = 64


class Scheduler:
    """The sessions of one graph, and the threads that run batches in them.

    May be used by many threads at once. The threads end when nothing refers to it any longer; each job that
    has not ended does.
    """

    def __init__(
        self, exclusive: Session, load: Callable[[int], Session], *, threads: int, workers: int
    ) -> None:
        """Take a session, and how to load a second one when many batches ask for it.

        Args:
            exclusive: a session with all threads inside, for exclusive batches; shared ones need another.
            load: loads the same graph with so many threads inside.
            threads: threads at most, in all.
            workers: batches at most that run side by side, each with threads // workers threads inside.
        """
        self._slots = _Slots(exclusive, load, max(1, threads // workers), workers)
        _all_slots.add(self._slots)
        weakref.finalize(self, self._slots.stop).atexit = False
        self._slots.start_thread()

    def submit(self, batches: Iterable[Work], run: Run, then: Callable[[], T]) -> Job[T]:
        """Make a job and start it; see `Job`."""
        job = Job(batches, run, then)
        self.start(job)
        return job

    def start(self, job: Job[T]) -> None:
        """Run a job's batches when their turn comes; each job may be started once.

        Raises:
            BundleError: the interpreter is ending, and the threads have gone.
        """
        job._scheduler = self
        if job._left:
            self._slots.queue.put(job)
        else:
            job._end()
        if self._slots.stopped:
            job.abandon()
            raise BundleError("nothing can be encoded any longer: the interpreter is ending")

    def run_exclusive(self, batch: Work, run: Run) -> bool:
        """Run a short batch in the calling thread, with all threads inside, if nothing else runs or waits.

        A single query is spared two changes of threads: 40 of 590 µs (all-MiniLM-L6-v2 in INT8).

        Returns:
            Whether it ran; where it did not, `start` a job.
        """
        short = batch.cells < _LARGE or self._slots.is_within()
        return short and self._slots.run_exclusive(lambda session: run(session, batch))

    def is_within(self) -> bool:
        """Say whether this is a signal handler that interrupts `run_exclusive` in the same thread."""
        return self._slots.is_within()

    def runs_here(self) -> bool:
        """Say whether the calling thread is one of the scheduler's."""
        return threading.current_thread() in self._slots.threads

    def release(self) -> None:
        """Give the memory that earlier runs and the tokenizer left back to the system."""
        self._slots.release()


class _Slots:
    """What a scheduler's threads share; they refer to it, and not to the scheduler."""

    def __init__(
        self, exclusive: Session, load: Callable[[int], Session], shared_threads: int, workers: int
    ) -> None:
        self.queue: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self.exclusive = exclusive
        self._shared: Session | None = exclusive if workers == 1 else None
        self._load, self._shared_threads = load, shared_threads
        self._loading = threading.Lock()
        self._workers = workers
        self.threads: list[threading.Thread] = []
        self._first = threading.Lock()
        # Held by an exclusive batch, and for a moment by whoever begins or ends a shared one.
        self._exclusive_lock = threading.Lock()
        self._within: set[int] = set()
        """The caller's thread that holds that lock, and those that are about to ask for it."""
        self._claimed = False
        """Whether a thread with a job waits for that lock: nobody may come before it."""
        self._running = 0
        """Shared batches that run."""
        self._largest = 0
        self.stopped = False

    def start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name="paritas", daemon=True)
        thread.start()
        self.threads.append(thread)

    def stop(self) -> None:
        """Let each thread end after the batch it is at."""
        self.stopped = True
        self.queue.put(None)

    def join(self) -> None:
        """Stop the threads and wait for their ends."""
        self.stop()
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join()
        with suppress(Empty):
            while True:
                job = self.queue.get_nowait()
                if job is not None:
                    job.abandon()

    def _work(self) -> None:
        while True:
            with self._first:  # one thread at a time waits at the queue's head
                job = self._next()
                if job is None or self.stopped:
                    self.queue.put(None)  # for the next thread
                    if job is not None:
                        self.queue.put(job)  # for `join` to end
                    return
                batch, exclusive = self._begin(job)
            if batch is not None:
                self._run(job, batch, exclusive=exclusive)
            del job, batch  # an idle thread keeps nobody's arrays

    def _next(self) -> Job[Any] | None:
        """Wait for the queue's next job, and give memory back where none comes."""
        while True:
            with suppress(Empty):
                return self.queue.get(timeout=_IDLE_S if self._largest >= _LARGE else None)
            if self._running or self._exclusive_lock.locked():
                continue  # what runs may leave more
            try:
                self.release()
            except Exception:  # noqa: BLE001 - a thread less would be worse
                _log.exception("memory could not be given back")

    def _begin(self, job: Job[Any]) -> tuple[Work | None, bool]:
        """Wait for a slot, take the job's next batch, and say whether it is exclusive."""
        self._claimed = True
        self._exclusive_lock.acquire()  # no signal handler runs in this thread
        self._claimed = False
        self._within.clear()  # nobody is, whatever an exception in a caller left
        batch = job._take()
        if batch is not None:  # now, for the thread that waits next is to wait no longer than _IDLE_S
            self._largest = max(self._largest, batch.cells)
        waiting = len(job._left) + self.queue.qsize()
        # Fewer batches than workers run one after the other: a batch with all threads is done soonest.
        few = not self._running and waiting + 1 < max(2, self._workers)
        exclusive = batch is not None and (few or self._workers == 1)
        if batch is not None and not exclusive:
            self._running += 1
        if not exclusive:
            self._exclusive_lock.release()
        if job._left:
            self.queue.put(job)
        if len(self.threads) < self._workers:
            with suppress(RuntimeError):  # no thread to be had: those there are go on
                self.start_thread()
        return batch, exclusive

    def _run(self, job: Job[Any], batch: Work, *, exclusive: bool) -> None:
        error = None
        try:
            job._run(self.exclusive if exclusive else self._shared_session(), batch)
        except BaseException as failed:  # noqa: BLE001 - the caller's to see
            error = failed
        if exclusive:
            self._exclusive_lock.release()
        else:
            with self._exclusive_lock:
                self._running -= 1
        # Only now: whoever waited may come back at once, and finds the slot free.
        job._give_back(error)
        del job, error  # else the error's traceback, which holds this frame, would hold them

    def run_exclusive(self, run: Callable[[Session], None]) -> bool:
        """Run something in the exclusive session and the calling thread, if nothing else runs or waits."""
        if self.is_within():
            run(self.exclusive)
            return True
        if not self._is_idle() or self._exclusive_lock.locked():
            return False
        thread = threading.get_ident()
        self._within.add(thread)  # before the lock: a signal handler may come right after it
        try:
            with self._exclusive_lock:
                self._within.add(thread)
                idle = self._is_idle()
                if idle:
                    run(self.exclusive)
                return idle
        finally:
            self._within.discard(thread)

    def is_within(self) -> bool:
        """Say whether the calling thread is in `run_exclusive`: a signal handler may interrupt it there."""
        return threading.get_ident() in self._within and self._exclusive_lock.locked()

    def _is_idle(self) -> bool:
        return not self._running and not self._claimed and self.queue.empty()

    def _shared_session(self) -> Session:
        """Return the session for shared batches; where it cannot be loaded, the exclusive one."""
        with self._loading:
            if self._shared is None:
                try:
                    self._shared = self._load(self._shared_threads)
                except (BundleError, MemoryError, OSError) as error:
                    _log.warning("many batches run slower, in the session of single ones: %s", error)
                    self._shared = self.exclusive
            return self._shared

    def release(self) -> None:
        self._largest = 0
        for session in dict.fromkeys((self.exclusive, self._shared)):
            if session is not None:
                session.release()
        _trim()


_all_slots: weakref.WeakSet[_Slots] = weakref.WeakSet()


@atexit.register
def _join_all() -> None:
    """Wait for what runs when the interpreter ends: a thread that comes out of C++ after it would crash."""
    for slots in list(_all_slots):
        slots.join()


def _trim() -> None:
    """Let the C library give back what was freed, where it is one that can be told (glibc).

    It keeps pages for every thread that ever allocated: 20 to 80 MB after 16 callers at once.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
