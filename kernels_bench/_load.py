"""Load over HTTP: many clients that ask for one text each, and what each request took.

The requests' bytes are made before, and answers are read by their length alone, so that the clients take
little of the CPUs that they share with the server.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@dataclass
class Answers:
    """What came back within the time of a measurement."""

    seconds: list[float] = field(default_factory=list)
    """Of each request that got its vectors; in an open loop from when it was due."""
    refused_s: list[float] = field(default_factory=list)
    """Of each request that got 429."""
    without_retry_after: int = 0
    """Of the refusals."""
    other: dict[int, int] = field(default_factory=dict)
    """Answers of any other status; 0 where the connection ended."""

    def note(self, status: int, head: bytes, seconds: float) -> None:
        """Count an answer."""
        if status == 200:
            self.seconds.append(seconds)
        elif status == 429:
            self.refused_s.append(seconds)
            self.without_retry_after += b"retry-after" not in head.lower()
        else:
            self.other[status] = self.other.get(status, 0) + 1

    def milliseconds(self, share: float) -> float:
        """Return what so large a share of the requests took at most."""
        return percentile(self.seconds, share)


def percentile(seconds: Sequence[float], share: float) -> float:
    """Return a percentile in milliseconds; NaN of none."""
    return 1000 * float(np.quantile(seconds, share)) if seconds else math.nan


def requests(path: str, model: str, texts: Sequence[str]) -> list[bytes]:
    """Return the bytes of a request for each text."""
    return [request(path, {"model": model, "input": text, "encoding_format": "base64"}) for text in texts]


def request(path: str, body: dict[str, Any]) -> bytes:
    """Return the bytes of a request with a JSON body."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return head.encode() + b"content-length: %d\r\n\r\n" % len(content) + content


class Connection:
    """A connection that is kept open."""

    def __init__(self, port: int) -> None:
        """Take the server's port on this machine."""
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes, bytes]:
        """Return an answer's status, head and body; status 0 where the connection ended."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            body = await reader.readexactly(int(length[1]) if length is not None else 0)
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 0, b"", b""
        return int(head[9:12]), head, body

    def close(self) -> None:
        """End the connection; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def ask_each(port: int, asked: Sequence[bytes]) -> list[bytes]:
    """Return the bodies of the answers, one request after the other."""
    connection = Connection(port)
    bodies = [(await connection.ask(request))[2] for request in asked]
    connection.close()
    return bodies


async def closed_loop(port: int, asked: Sequence[bytes], clients: int, seconds: float) -> Answers:
    """Let clients ask, each for the next text as soon as it has an answer.

    Answers count that come within the time, after the first quarter of it, which fills the queue.
    """
    answers, turn = Answers(), itertools.cycle(asked)
    begun = time.perf_counter()
    counted, end = begun + seconds / 4, begun + seconds

    async def client() -> None:
        connection = Connection(port)
        try:
            while (sent := time.perf_counter()) < end:
                status, head, _ = await connection.ask(next(turn))
                if counted <= (now := time.perf_counter()) < end:
                    answers.note(status, head, now - sent)
        finally:
            connection.close()

    tasks = [asyncio.ensure_future(client()) for _ in range(clients)]
    # Where a request takes longer than the measurement, its answer does not count and is not waited for.
    _, late = await asyncio.wait(tasks, timeout=seconds + 1)
    for task in late:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return answers


async def open_loop(port: int, asked: Sequence[bytes], per_s: float, seconds: float, seed: int) -> Answers:
    """Send requests when they are due, whether or not the former ones were answered.

    They are due at random times, `per_s` of them in a second (a Poisson process).
    """
    answers = Answers()
    idle: list[Connection] = []
    due_at, turn = _arrivals(per_s, seconds, seed), itertools.cycle(asked)
    begun = time.perf_counter()

    async def one(due: float, request: bytes) -> None:
        connection = idle.pop() if idle else Connection(port)
        status, head, _ = await connection.ask(request)
        answers.note(status, head, time.perf_counter() - begun - due)
        idle.append(connection)

    tasks = []
    for due in due_at:
        await asyncio.sleep(max(0.0, begun + due - time.perf_counter()))
        tasks.append(asyncio.ensure_future(one(due, next(turn))))
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return answers


def _arrivals(per_s: float, seconds: float, seed: int) -> Iterator[float]:
    generator, due = np.random.default_rng(seed), 0.0
    while (due := due + float(generator.exponential(1 / per_s))) < seconds:
        yield due
