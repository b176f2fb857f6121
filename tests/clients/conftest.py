"""A server of its own process, and what it should answer, written where the clients' scripts read it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np
import pytest

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder

KEY = "a-key-of-the-tests"
MAX_TEXTS = 64
TEXTS = [
    "the river",
    "a city in the north",
    "the river",
    "",
    "why is the sky blue 😀",
    "The ferry leaves the island in the morning. " * 4,
    "naïve café, 東京",
]


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    url: str
    directory: Path
    """What the scripts are given."""

    def client(self) -> httpx2.Client:
        """Return a client that has the key."""
        return httpx2.Client(base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)


@pytest.fixture(scope="session")
def server(bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Serve two models. In the end the server must not have failed once, and exit with 0."""
    directory = tmp_path_factory.mktemp("clients")
    port = _free_port()
    running = Running(f"http://127.0.0.1:{port}", directory)
    _write(running, bundles)
    with _process(bundles, port, directory) as process:
        _wait_until_ready(running, process)
        yield running
        with running.client() as client:
            figures = client.get("/metrics").text
        answered = [line for line in figures.splitlines() if line.startswith("paritas_requests_total{")]
        assert answered
        # While the models are being loaded, /readyz says 503.
        assert [line for line in answered if 'status="5' in line and "/readyz" not in line] == []


@contextmanager
def _process(bundles: dict[str, Bundle], port: int, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    models = [str(bundle.directory) for bundle in bundles.values()]
    options = ["--precision", "fp32", "--port", str(port), "--max-texts", str(MAX_TEXTS), "--grace", "0"]
    environment = {**os.environ, "PARITAS_HOME": str(directory / "home"), "PARITAS_API_KEYS": KEY}
    command = [sys.executable, "-m", "paritas", "serve", *models, *options]
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, _log(directory)
        finally:
            process.kill()


def _wait_until_ready(running: Running, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert process.poll() is None, _log(running.directory)
        try:
            if httpx2.get(f"{running.url}/readyz").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"not ready: {_log(running.directory)}")


def _log(directory: Path) -> str:
    return (directory / "log").read_text(encoding="utf-8", errors="replace")[-4000:]


def _write(running: Running, bundles: dict[str, Bundle]) -> None:
    """Write the server's facts and the vectors of TEXTS for each model and role."""
    cut = {}
    for name, bundle in bundles.items():
        with Encoder(bundle, precision="fp32") as encoder:
            for role in ("query", "passage"):
                np.save(running.directory / f"{name}.{role}.npy", encoder.encode(TEXTS, role=role))
                cut[name, role] = encoder.last_stats.truncated if encoder.last_stats else 0
    names = list(bundles)
    facts = {
        "url": running.url,
        "key": KEY,
        "models": names,
        "cut_queries": cut[names[0], "query"],
        "texts": TEXTS,
        "max_texts": MAX_TEXTS,
    }
    (running.directory / "served.json").write_text(json.dumps(facts), encoding="utf-8")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
