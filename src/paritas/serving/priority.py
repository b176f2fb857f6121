"""Threads that encode come after those that answer: a refusal does not wait for a batch."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

T = TypeVar("T")

_log = logging.getLogger("paritas")


def lower_priority(niceness: int) -> None:
    """Make the calling thread, and those that it starts, less urgent: on Linux, by so many steps of 0 to 19.

    Elsewhere niceness is the whole process's, and nothing is done.
    """
    if niceness and sys.platform == "linux":
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
        except OSError as error:  # a sandbox may forbid it
            _log.warning("threads that encode are as urgent as all others: %s", error)


def called_at(niceness: int, call: Callable[[], T]) -> T:
    """Return what a function returns in a thread of its own, whose threads keep that priority."""
    with ThreadPoolExecutor(1, initializer=partial(lower_priority, niceness)) as pool:
        return pool.submit(call).result()
