"""A server among 64 clients that ask at once and often go away: no vector is wrong, lost or another's.

The whole form sends 100,000 requests, the short one 4,000. A tenth of them are cut off midway.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import httpx2
import numpy as np
from numpy.typing import NDArray

from kernels_bench._load import Connection, request
from paritas import Encoder
from paritas.engine.bundle.directory import Bundle
from tests.unit.serving.running import command, free_port

CLIENTS = 64
WORDS = "the river sky city in north a water why is blue".split()
# What the allocators of Python and of the system keep besides, in MB.
_MARGIN_MB = 20


def resident_mb(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS:"))) / 1024


def made_up(count: int) -> list[str]:
    """Return texts from one word to more than the model takes."""
    chosen = random.Random(1)
    return [" ".join(chosen.choices(WORDS, k=chosen.choice([1, 2, 3, 5, 8, 13, 40]))) for _ in range(count)]


class Clients:
    """What they ask, and how often they got the right vectors."""

    def __init__(self, port: int, texts: Sequence[str], expected: dict[str, NDArray[np.float32]]) -> None:
        self._port, self._texts, self._expected = port, texts, expected
        self.right = self.cut_off = 0

    async def ask(self, requests: int) -> None:
        """Send so many requests, a 64th of them each."""
        await asyncio.gather(*(self._one(number, requests // CLIENTS) for number in range(CLIENTS)))

    async def _one(self, number: int, requests: int) -> None:
        mine, connection = random.Random(number), Connection(self._port)
        for _ in range(requests):
            start = mine.randrange(len(self._texts))
            rows = slice(start, start + mine.choice([1, 1, 1, 1, 6]))
            role = mine.choice(["query", "passage"])
            asked = request("/v1/encode", {"texts": self._texts[rows], "role": role})
            if mine.random() < 0.1:
                await self._leave(connection, asked, mine.random() * 0.02)
                connection = Connection(self._port)
                continue
            status, _, body = await connection.ask(asked)
            assert status == 200, body
            vectors = np.array(json.loads(body)["vectors"], np.float32)
            assert np.array_equal(vectors, self._expected[role][rows])
            self.right += 1
        connection.close()

    async def _leave(self, connection: Connection, asked: bytes, after_s: float) -> None:
        """Send a request, or the first half of it, and go away."""
        self.cut_off += 1
        part = asked if after_s > 0.005 else asked[: len(asked) // 2]
        try:
            async with asyncio.timeout(after_s):
                await connection.ask(part)
        except TimeoutError:
            pass
        connection.close()


def test_no_vector_is_lost_or_swapped_and_memory_stays_flat(
    tmp_path: Path, bundles: dict[str, Bundle], bert: Encoder, whole: bool
) -> None:
    requests, texts = 100_000 if whole else 4_000, made_up(3_000)
    expected = {role: bert.encode(texts, role=role) for role in ("query", "passage")}
    port = free_port()
    with command(
        tmp_path, str(bundles["tiny-bert"].directory), "--port", str(port), "--grace", "0"
    ) as process:
        base = f"http://127.0.0.1:{port}"
        wait_until_ready(base)
        clients = Clients(port, texts, expected)
        asyncio.run(clients.ask(requests // 4))
        before = resident_mb(process.pid)
        asyncio.run(clients.ask(requests - requests // 4))
        after = resident_mb(process.pid)
        figures = httpx2.get(f"{base}/metrics").text
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    print(f"{clients.right} right, {clients.cut_off} cut off; {before:.0f} MB, later {after:.0f}")
    assert clients.right + clients.cut_off >= requests - 2 * CLIENTS
    assert clients.cut_off > requests / 20
    assert after < before + _MARGIN_MB
    assert 'paritas_queue_tokens{model="tiny-bert"} 0.0' in figures
    assert 'status="5' not in "".join(line for line in figures.splitlines() if "/v1/encode" in line)


def wait_until_ready(base: str) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if httpx2.get(f"{base}/readyz").status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(0.05)
    raise AssertionError("was not ready within a minute")
