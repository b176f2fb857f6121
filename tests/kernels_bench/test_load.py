"""The clients of the load benchmark, against a server whose answers are known."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from kernels_bench import _load

VECTOR = np.arange(3, dtype="<f4")


async def with_server(
    answer: Callable[[int, bytes], bytes], use: Callable[[int], Awaitable[object]]
) -> list[bytes]:
    """Serve answers by the request's number and body while `use` runs, and return the bodies."""
    bodies: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    int(line.split(b":")[1])
                    for line in head.splitlines()
                    if line.startswith(b"content-length")
                )
                bodies.append(await reader.readexactly(length))
                number, body = len(bodies), bodies[-1]
                await asyncio.sleep(0.002)
                writer.write(answer(number, body))
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        await use(server.sockets[0].getsockname()[1])
    return bodies


def ok(_number: int, _body: bytes) -> bytes:
    content = json.dumps({"data": [{"embedding": base64.b64encode(VECTOR.tobytes()).decode()}]}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(content) + content


def every_third_is_refused(number: int, body: bytes) -> bytes:
    if number % 3:
        return ok(number, body)
    retry = b"" if number % 2 else b"Retry-After: 1\r\n"
    return b"HTTP/1.1 429 Too Many Requests\r\n" + retry + b"content-length: 0\r\n\r\n"


ASKED = _load.requests("/v1/embeddings", "model", ["one", "zwölf"])


def test_a_request_holds_its_text_and_answers_come_in_order() -> None:
    async def use(port: int) -> None:
        found.extend(await _load.ask_each(port, ASKED))

    found: list[bytes] = []
    bodies = asyncio.run(with_server(ok, use))
    assert [json.loads(body)["input"] for body in bodies] == ["one", "zwölf"]
    assert len(found) == 2
    assert "data" in json.loads(found[0])


@pytest.mark.parametrize("clients", [1, 5])
def test_a_closed_loop_counts_what_comes_in_its_time(clients: int) -> None:
    async def use(port: int) -> None:
        answers.append(await _load.closed_loop(port, ASKED, clients, 0.4))

    answers: list[_load.Answers] = []
    bodies = asyncio.run(with_server(ok, use))
    (found,) = answers
    # The first quarter of the time fills the queue and does not count.
    assert 0 < len(found.seconds) < len(bodies)
    assert min(found.seconds) >= 0.002
    assert found.milliseconds(0.5) >= 2
    assert (found.refused_s, found.other) == ([], {})


def test_an_open_loop_sends_what_is_due_and_tells_refusals_apart() -> None:
    async def use(port: int) -> None:
        answers.append(await _load.open_loop(port, ASKED, 200, 0.5, seed=1))

    answers: list[_load.Answers] = []
    bodies = asyncio.run(with_server(every_third_is_refused, use))
    (found,) = answers
    assert len(bodies) == len(found.seconds) + len(found.refused_s) > 50
    assert len(found.refused_s) == len(bodies) // 3
    assert found.without_retry_after == pytest.approx(len(found.refused_s) / 2, abs=1)
    assert found.other == {}


def test_a_server_that_is_not_there_is_told() -> None:
    found = asyncio.run(_load.open_loop(1, ASKED, 100, 0.2, seed=1))
    assert (found.seconds, set(found.other)) == ([], {0})
