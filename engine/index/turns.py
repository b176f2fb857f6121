"""Turns: many readers at once or one writer alone, first come first served.

A turn is over when its thread lets go of its lock. `with` takes and releases a lock of `threading` in one
step in C. So every turn ends, at whatever instruction an exception is raised. `threading.Condition` is
written in Python: an exception inside it can leave a turn that never ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from paritas.errors import VectorIndexError

Result = TypeVar("Result")


class _Turn:
    """One call's turn. Its thread holds `over` from before it queues until it is done or gives up."""

    __slots__ = ("before", "over", "thread")

    def __init__(self) -> None:
        self.over = threading.Lock()
        self.thread = threading.get_ident()
        self.before: tuple[_Turn, ...] = ()
        """The turns it waits for; empty as soon as all of them are over."""

    def wait(self) -> None:
        ahead = list(self.before)
        while ahead:
            turn = ahead.pop()
            self.refuse(turn)
            with turn.over:
                pass
            # A turn that gave up waiting leaves the turns before it, which must still be waited for.
            ahead += turn.before
        for turn in self.before:
            turn.before = ()
        self.before = ()

    def refuse(self, turn: _Turn) -> None:
        """Refuse to wait for a call that cannot go on before this one returns."""
        if turn.thread == self.thread and turn.over.locked():
            raise VectorIndexError(
                "the index is in the middle of a call that this one interrupts; call it after that one has "
                "returned, not from a signal handler"
            )


class Turns:
    """Gives turns in the order in which they are asked for. Shared ones in a row run at once."""

    def __init__(self) -> None:
        """Begin with nobody in line."""
        # A signal handler may ask for a turn while its thread is in here: it would wait for itself.
        self._line = threading.RLock()
        self._last: tuple[_Turn, ...] = ()
        """The last exclusive turn."""
        self._shared: set[_Turn] = set()
        """The shared ones after it."""

    def shared(self, work: Callable[[], Result]) -> Result:
        """Do something beside other shared turns, and return what it returns.

        Raises:
            VectorIndexError: this thread has a turn already, which a signal handler interrupts.
        """
        turn = _Turn()
        with turn.over:
            try:
                with self._line:
                    for other in tuple(self._shared):
                        turn.refuse(other)
                    turn.before = self._last
                    self._shared.add(turn)
                turn.wait()
                return work()
            finally:
                self._shared.discard(turn)

    def exclusive(self, work: Callable[[], Result]) -> Result:
        """Do something while nobody else has a turn, and return what it returns.

        Raises:
            VectorIndexError: this thread has a turn already, which a signal handler interrupts.
        """
        turn = _Turn()
        with turn.over:
            with self._line:
                turn.before = (*self._last, *tuple(self._shared))
                self._last, self._shared = (turn,), set()
            turn.wait()
            return work()
