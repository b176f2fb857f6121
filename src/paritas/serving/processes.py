"""Several processes behind one port: each answers with a part of the CPUs, and one that dies is replaced."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess

_log = logging.getLogger("paritas")

# One that died sooner after its start is replaced later: what killed it may do so again.
_SOON_S = 5.0
_PAUSE_S = 1.0
# How soon it is seen that a signal came.
_LOOK_S = 0.1
_PR_SET_PDEATHSIG = 1


class Supervisor:
    """Keeps so many processes running until it is told to end, by SIGTERM or Ctrl-C."""

    def __init__(self, run: Callable[[], object], count: int, died: Callable[[int], object]) -> None:
        """Take what runs.

        Args:
            run: called in each process, which is forked from this one; it ends after SIGTERM.
            count: of processes.
            died: called with the number of a process that has ended.
        """
        self._run, self._count, self._died = run, count, died
        self._context = multiprocessing.get_context("fork")
        self._processes: dict[ForkProcess, float] = {}
        """When each was started."""
        # A signal handler counts and does no more: it may come while a process is being started.
        self._asked = self._told = 0

    def run(self) -> None:
        """Return when all have ended.

        Raises:
            KeyboardInterrupt: by Ctrl-C, once all have ended.
        """
        with self._signals():
            try:
                self._keep()
            except KeyboardInterrupt:
                self._asked += 1
                self._keep()
                raise

    def _keep(self) -> None:
        while self._processes or not self._asked:
            while len(self._processes) < self._count and not self._asked:
                self._start()
            while self._told < self._asked:
                self._told += 1
                for process in self._processes:
                    process.terminate()
            wait([process.sentinel for process in self._processes], timeout=_LOOK_S)
            for process in [each for each in self._processes if not each.is_alive()]:
                self._ended(process)

    def _start(self) -> None:
        process = self._context.Process(target=self._forked, args=(os.getpid(),), daemon=True)
        process.start()
        self._processes[process] = time.monotonic()

    def _ended(self, process: ForkProcess) -> None:
        lived_s = time.monotonic() - self._processes.pop(process)
        self._died(process.pid or 0)
        if not self._asked:
            _log.error("process %s died, exit code %s; another one is started", process.pid, process.exitcode)
            time.sleep(_PAUSE_S if lived_s < _SOON_S else 0)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def ask(_signal: int, _frame: object) -> None:
            self._asked += 1

        before = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _forked(self, parent: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Nobody would end it after its parent was killed.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            return
        try:
            self._run()
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
