"""A job: batches that run in one graph, to wait for, to cancel, and to be told of the end."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from typing import Any, Generic, Protocol, TypeVar

from paritas.engine.runtime.session import Session
from paritas.errors import BundleError

_log = logging.getLogger("paritas")

T = TypeVar("T")


class Work(Protocol):
    """What runs in one go: a `Batch`, or what becomes one when its turn has come."""

    @property
    def cells(self) -> int:
        """Tokens computed, padding included; asked for when it has run."""


Run = Callable[[Session, Any], None]


class Threads(Protocol):
    """What a job has to know of its scheduler, lest it waits for itself."""

    def runs_here(self) -> bool:
        """Say whether the calling thread is one of the scheduler's."""

    def is_within(self) -> bool:
        """Say whether this is a signal handler that interrupts a batch in the same thread."""


class Job(Generic[T]):
    """Batches that run in one graph, to wait for."""

    def __init__(self, batches: Iterable[Work], run: Run, then: Callable[[], T]) -> None:
        """Take what `Scheduler.start` will run.

        Args:
            batches: in the order to run them.
            run: called with each and its session, in threads of the scheduler, in several at once.
            then: called once after the last, in such a thread; what it returns is the result.
        """
        self._left = deque(batches)
        self._run, self._then = run, then
        self._lock = threading.Lock()
        self._running = 0
        self._result: T
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Job[T]], object]] = []
        # Held until the job has ended. Of all ways to wait, a bare lock alone cannot be left half-taken by an
        # exception in the thread that waits, as `threading.Condition` and all that is built on it can.
        self._ended = threading.Lock()
        self._ended.acquire()
        # The lock does not say so itself: whoever has waited holds it for a moment.
        self._done = False
        self._scheduler: Threads | None = None
        self._process = os.getpid()

    def done(self) -> bool:
        """Say whether it has ended: with its result, an error, or cancelled."""
        return self._done

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end at most so long, and say whether it has come; errors as `result`'s first two."""
        self._check_wait()
        if not self._done and self._ended.acquire(timeout=timeout_s):
            self._ended.release()
        return self._done

    def result(self) -> T:
        """Wait for the end and return what `then` returned.

        Raises:
            RuntimeError: a callback waits for a job of its own scheduler, or a signal handler inside
                `encode` for a job of that encoder. They would wait for themselves.
            BundleError: this process was forked since the job began, and has none of its threads.
            concurrent.futures.CancelledError: it was cancelled.
            Exception: whatever the first batch that failed raised.
        """
        self._check_wait()
        self._wait()
        try:
            if self._error is not None:
                raise self._error
            return self._result
        finally:
            del self  # else the error's traceback holds this frame, and through it the job and the error

    def _wait(self) -> None:
        if not self._done:
            with self._ended:
                pass

    def _check_wait(self) -> None:
        if self._done:
            return
        if self._process != os.getpid():
            raise BundleError("the job began before this process was forked, and never ends here")
        scheduler = self._scheduler
        if scheduler is not None and scheduler.runs_here():
            raise RuntimeError("a job's callback cannot wait for another job; hand it to a thread of yours")
        if scheduler is not None and scheduler.is_within():
            raise RuntimeError("a signal handler inside `encode` cannot wait for a job; call `encode` there")

    def cancel(self) -> None:
        """Run no more of its batches, and return when none runs any longer; what has ended stays as it is."""
        if self._process != os.getpid():
            return  # a forked child has none of the threads
        with self._lock:
            self._left.clear()
            running = self._running
            if not self._done:
                self._error = self._error or CancelledError()
        if running:
            self._wait()
        else:
            self._end()

    def abandon(self) -> None:
        """Cancel, whatever is raised meanwhile: when this returns, nothing runs for the job any longer."""
        while True:
            try:
                return self.cancel()
            except BaseException:  # noqa: BLE001, S112 - the caller is on its way out with another one
                continue

    def add_done_callback(self, callback: Callable[[Job[T]], object]) -> None:
        """Call `callback(job)` at the end, in a thread of the scheduler; now and here where it has come.

        Batches wait while it runs: it should pass the news on, and no more.
        """
        with self._lock:
            if not self._done:
                self._callbacks.append(callback)
                return
        callback(self)

    def _take(self) -> Work | None:
        """Take the next batch; None where none is left."""
        with self._lock:
            if not self._left:
                return None
            self._running += 1
            return self._left.popleft()

    def _give_back(self, error: BaseException | None) -> None:
        """Note that a batch has run. An error drops the batches that are left."""
        with self._lock:
            if error is not None:
                self._left.clear()
                self._error = self._error or error
            # The last one counts as running until all has ended: `cancel` waits for what comes after it too.
            last = self._running == 1 and not self._left
            if not last:
                self._running -= 1
        if last:
            self._end()

    def _end(self) -> None:
        try:
            if self._error is None:
                self._result = self._then()
        except BaseException as failed:  # noqa: BLE001 - the caller's to see, and not the thread's
            self._error = failed
        with self._lock:
            if self._done:
                return
            self._scheduler = None
            self._done = True
            self._ended.release()
        for callback in self._callbacks:
            try:
                callback(self)
            except BaseException:  # noqa: BLE001 - whoever gave it is not here to see, and the thread goes on
                _log.exception("a callback of a job failed")
