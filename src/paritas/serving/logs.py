"""What a server logs: its own life, and on demand a line a request. Never a text, a key or a query string."""

from __future__ import annotations

import itertools
import logging
import os
import re
import uuid
from contextvars import ContextVar
from typing import Literal

from pythonjsonlogger.orjson import OrjsonFormatter

LogFormat = Literal["text", "json"]

_REQUESTS = logging.getLogger("paritas.requests")
_ID = re.compile(rb"[\w.:-]{1,128}", re.ASCII)

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that is being answered; empty outside of one."""


class _Ids:
    """Numbers one by one from a random beginning; a random one for each would be a call of the system."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self._numbers = itertools.count(uuid.uuid4().int)

    def next(self) -> int:
        return next(self._numbers)


_ids = _Ids()
os.register_at_fork(after_in_child=_ids.begin)  # a process for each CPU has numbers of its own


def configure(style: LogFormat, *, requests: bool) -> None:
    """Send logs to standard error.

    Args:
        style: one line of text, or one JSON object, for each message.
        requests: log each request too.
    """
    handler = logging.StreamHandler()
    handler.addFilter(_with_request_id)
    handler.setFormatter(_json() if style == "json" else _text())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httptools").setLevel(logging.WARNING)
    _REQUESTS.setLevel(logging.INFO if requests else logging.WARNING)


def begin_request(given: bytes | None) -> str:
    """Return the id of a request, which its log lines and spans carry from now on.

    Args:
        given: by the client; one that is no plain word of up to 128 characters is not taken.
    """
    name = given.decode() if given is not None and _ID.fullmatch(given) else f"{_ids.next():032x}"
    request_id.set(name)
    return name


def log_request(method: str, path: str, status: int, seconds: float) -> None:
    """Log a request that was answered."""
    if _REQUESTS.isEnabledFor(logging.INFO):
        milliseconds = round(1000 * seconds, 1)
        fields = {"method": method, "path": path, "status": status, "duration_ms": milliseconds}
        _REQUESTS.info("%s %s %d %s ms", method, path, status, milliseconds, extra=fields)


def _with_request_id(record: logging.LogRecord) -> bool:
    record.request_id = request_id.get() or None
    return True


def _json() -> logging.Formatter:
    names = {"levelname": "level", "name": "logger"}
    return OrjsonFormatter(
        "%(levelname)s %(name)s %(message)s %(request_id)s", rename_fields=names, timestamp="time"
    )


def _text() -> logging.Formatter:
    return logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
