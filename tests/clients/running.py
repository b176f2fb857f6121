"""A server's process, and what it should answer, written where the clients' scripts read it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np

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


@contextmanager
def running(
    bundles: Mapping[str, Bundle], directory: Path, *options: str, **variables: str
) -> Iterator[Running]:
    """Yield a server of these models. In the end it must not have failed once, and exit with 0.

    Args:
        bundles: by name; the first is the one that is meant where a request names none.
        directory: empty; for what the scripts are given, and for the server's log.
        options: of `paritas serve`.
        variables: of the server's environment.
    """
    port = _free_port()
    server = Running(f"http://127.0.0.1:{port}", directory)
    _write_facts(server, bundles)
    models = [str(bundle.directory) for bundle in bundles.values()]
    limits = ["--precision", "fp32", "--port", str(port), "--max-texts", str(MAX_TEXTS), "--grace", "0"]
    environment = {
        **os.environ,
        "PARITAS_HOME": str(directory / "home"),
        "PARITAS_API_KEYS": KEY,
        **variables,
    }
    with _process(["serve", *models, *limits, *options], environment, directory) as process:
        _wait_until_ready(server, process)
        yield server
        _check_for_failures(server)


@contextmanager
def _process(
    arguments: list[str], environment: dict[str, str], directory: Path
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "paritas", *arguments]
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


def _wait_until_ready(server: Running, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert process.poll() is None, _log(server.directory)
        try:
            if httpx2.get(f"{server.url}/readyz").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"not ready: {_log(server.directory)}")


def _check_for_failures(server: Running) -> None:
    with server.client() as client:
        figures = client.get("/metrics").text
    answered = [line for line in figures.splitlines() if line.startswith("paritas_requests_total{")]
    assert answered
    # While the models are being loaded, /readyz says 503.
    failed = [line for line in answered if 'status="5' in line and "/readyz" not in line]
    assert failed == [], _log(server.directory)


def _log(directory: Path) -> str:
    return (directory / "log").read_text(encoding="utf-8", errors="replace")[-4000:]


def _write_facts(server: Running, bundles: Mapping[str, Bundle]) -> None:
    """Write the server's facts and the vectors of TEXTS for each model and role."""
    cut = {}
    for name, bundle in bundles.items():
        with Encoder(bundle, precision="fp32") as encoder:
            for role in ("query", "passage"):
                vectors = encoder.encode(TEXTS, role=role)
                np.save(server.directory / f"{name}.{role}.npy", vectors)
                cut[name, role] = encoder.last_stats.truncated if encoder.last_stats else 0
    names = list(bundles)
    facts = {
        "url": server.url,
        "key": KEY,
        "models": names,
        "cut_queries": cut[names[0], "query"],
        "texts": TEXTS,
        "max_texts": MAX_TEXTS,
    }
    (server.directory / "served.json").write_text(json.dumps(facts), encoding="utf-8")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
