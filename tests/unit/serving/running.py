"""A server that runs in a thread of the test, on a port of its own, or in a process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from paritas import AsyncEncoder
from paritas.engine.encoder import Encoder
from paritas.serving.app import application
from paritas.serving.keys import Keys
from paritas.serving.searching import Searcher
from paritas.serving.server import Server, ServerOptions
from paritas.serving.service import Limits, Service
from paritas.serving.token_input import Decode


@contextmanager
def running(
    models: Mapping[str, Callable[[], AsyncEncoder] | Encoder],
    *,
    keys: tuple[str, ...] = (),
    max_queue_tokens: int = 131_072,
    ready: bool = True,
    max_connections: int = 1024,
    drain_s: float = 5,
    searcher: Searcher | None = None,
    decode: Decode | None = None,
    **limits: Any,
) -> Iterator[httpx2.Client]:
    """Yield a client of a server with these models."""

    def load(model: Callable[[], AsyncEncoder] | Encoder) -> Callable[[], AsyncEncoder]:
        if isinstance(model, Encoder):
            return lambda: AsyncEncoder(model, max_queue_tokens=max_queue_tokens)
        return model

    service = Service(
        {name: load(model) for name, model in models.items()},
        Limits(**limits),
        searcher=searcher,
        decode=decode,
    )
    options = ServerOptions(port=0, drain_s=drain_s, max_connections=max_connections)
    server = Server(application(service, Keys(keys)), service, options)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not (server.started and server.servers) and time.monotonic() < until:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as client:
        while ready and client.get("/readyz").status_code != 200 and time.monotonic() < until:
            time.sleep(0.01)
        try:
            yield client
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def command(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start `paritas serve` in a process of its own."""
    environment = {**os.environ, "PARITAS_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)}
    return subprocess.Popen(
        [sys.executable, "-m", "paritas", "serve", *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
