"""How a long command is watched and stopped: a bar on a terminal, and what signals mean to it."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any

from paritas.interrupts import leave_at_once


class Signals:
    """Ctrl-C and SIGTERM: the first one ends the job after the shards at hand, the second one at once.

    Where no shards are at hand the first one ends it at once.
    Whatever does not end even then, such as a store that does not answer, the third one leaves where it is.
    """

    def __init__(self) -> None:
        self.stop, self.abort = threading.Event(), threading.Event()
        self.number = 0
        self.at_shards = False
        """Shards are under way."""

    def __enter__(self) -> Signals:
        # What a shell's background job ignores stays ignored.
        self._former = {
            number: signal.signal(number, self._told)
            for number in (signal.SIGINT, signal.SIGTERM)
            if signal.getsignal(number) != signal.SIG_IGN
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _told(self, number: int, frame: FrameType | None) -> None:
        if self.abort.is_set():
            leave_at_once()
        self.number = number
        if not self.at_shards or self.stop.is_set():
            self.stop.set()
            self.abort.set()
            former = self._former[signal.Signals(number)]
            assert callable(former)
            former(number, frame)
            return
        self.stop.set()
        with suppress(OSError):  # standard error may be closed
            os.write(2, b"\nparitas: finishing the shards at hand; once more to leave at once\n")


class Bar:
    """A bar on standard error: rows done, tokens a second, and the time that is left."""

    def __init__(self, signals: Signals, *, shown: bool) -> None:
        self._signals, self._shown = signals, shown
        self._bar: Any = None
        self._tokens = 0
        self._begun_s = 0.0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def planning(self, done_bytes: int, total_bytes: int) -> None:
        """As `Progress.planning`."""
        if self._shown and self._bar is None:
            self._bar = self._new(total=total_bytes, unit="B", unit_scale=True, desc="reading")
        if self._bar is not None:
            self._bar.update(done_bytes - self._bar.n)

    def begin(self, rows: int, done: int) -> None:
        """As `Progress.begin`."""
        self.__exit__()
        self._signals.at_shards = True
        self._begun_s = time.monotonic()
        if self._shown:
            self._bar = self._new(total=rows, initial=done, unit=" rows", desc="encoding")

    def encoded(self, rows: int, tokens: int) -> None:
        """As `Progress.encoded`."""
        self._tokens += tokens
        if self._bar is not None:
            rate = self._tokens / max(time.monotonic() - self._begun_s, 1e-3)
            self._bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
            self._bar.update(rows)

    def finishing(self) -> None:
        """As `Progress.finishing`."""
        self._signals.at_shards = False
        self.__exit__()
        self._bar = None

    def indexed(self, rows: int, total: int) -> None:
        """As `Progress.indexed`."""
        if self._shown and self._bar is None:
            self._bar = self._new(total=total, unit=" rows", desc="indexing")
        if self._bar is not None:
            self._bar.update(rows)

    def _new(self, **options: Any) -> Any:
        from tqdm import tqdm  # here, for it takes 55 ms to import

        return tqdm(**options)
