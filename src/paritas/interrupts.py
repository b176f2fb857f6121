"""Ctrl-C: one line and exit code 130, wherever it comes, and what was begun is cleared away first.

The first one raises KeyboardInterrupt. C code may make another exception of it, and a finaliser swallow it;
both are known by what is kept here. The second one is taken for the first, for it would leave half-cleared
folders: a terminal and a supervisor often send one each. The third ends the process at once.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

CODE = 130
_AT_ONCE = 3


class _Interrupts:
    """What this process was sent, and whether it is leaving already."""

    def __init__(self) -> None:
        self.count = 0
        self.leaving = False
        self.told = False

    def __call__(self, _signum: int, _frame: object) -> None:
        self.count += 1
        if self.leaving or self.count >= _AT_ONCE:
            self.leave_at_once()
        if self.count == 1:
            raise KeyboardInterrupt

    def tell(self) -> None:
        if not self.told:
            self.told = True
            with suppress(OSError):  # standard error may be closed
                os.write(2, b"paritas: interrupted\n")

    def leave_at_once(self) -> NoReturn:
        self.tell()
        os._exit(CODE)


_state = _Interrupts()


def leave_at_once() -> NoReturn:
    """End the process, whatever it is at."""
    _state.leave_at_once()


def seen() -> bool:
    """Say whether the process was interrupted, whatever became of the exception."""
    return _state.count > 0


def guarded(call: Callable[[], None]) -> None:
    """Run a command, which ends by SystemExit or by returning; where it was interrupted, exit with 130.

    Whatever it raises otherwise is left as it is.
    """
    # A shell's background job ignores SIGINT, and so do its children.
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _state)
        # Registered first, it runs last: the end of the interpreter takes no handler, and a few milliseconds.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    sys.unraisablehook = _unraisable
    try:
        call()
    finally:
        # From here on nothing is raised: no function was called since, so no handler ran.
        _state.leaving = True
        signal.setitimer(signal.ITIMER_REAL, 0)  # what a finaliser left behind
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        if _state.count:
            _state.tell()
            sys.exit(CODE)


def _unraisable(unraisable: Any) -> None:
    """Raise what a finaliser swallowed once more, when the finaliser is done."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    if _state.leaving:
        return
    signal.signal(signal.SIGALRM, _again)
    signal.setitimer(signal.ITIMER_REAL, 0.001)


def _again(_signum: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
