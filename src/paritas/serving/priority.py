"""Threads that encode come after those that answer: a refusal does not wait for a batch."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TypeVar

T = TypeVar("T")


def lower_priority(niceness: int) -> None:
    """Make the calling thread, and those that it starts, less urgent: on Linux, by so many steps of 0 to 19.

    Elsewhere niceness is the whole process's, and nothing is done.
    """
    if niceness and sys.platform == "linux":
        with suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


def called_at(niceness: int, call: Callable[[], T]) -> T:
    """Return what a function returns in a thread of its own, whose threads keep that priority."""
    with ThreadPoolExecutor(1, initializer=partial(lower_priority, niceness)) as pool:
        return pool.submit(call).result()
