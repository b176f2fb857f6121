"""Several processes behind one port: one that dies is replaced, figures are of all, and all end together."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from paritas.engine.bundle.directory import Bundle
from tests.unit.serving.running import command, free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are for Linux")


@contextmanager
def serving(tmp_path: Path, bundle: Bundle) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Yield a server of two processes, and its address; nothing of it stays."""
    port = free_port()
    options = ("--port", str(port), "--processes", "2", "--grace", "0", "--drain", "5")
    with command(tmp_path, str(bundle.directory), *options) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            until(lambda: answers(address))
            yield process, address
        finally:
            process.kill()


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def answers(address: str) -> bool:
    try:
        return httpx2.get(f"{address}/readyz", timeout=5).status_code == 200
    except httpx2.TransportError:
        return False


def children(process: int) -> set[int]:
    """Return the processes that a process started and that have not ended."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[1]) == process and words[0] != "Z":
            found.add(int(stat.parent.name))
    return found


def embedded(address: str) -> int:
    """Return how many requests for vectors were answered, by the server's figures."""
    text = httpx2.get(f"{address}/metrics", timeout=30).text
    found = re.findall(r'^paritas_requests_total\{path="/v1/embeddings",status="200"\} (\S+)', text, re.M)
    return int(sum(map(float, found)))


def embed(address: str) -> str:
    """Return a request's id."""
    answer = httpx2.post(f"{address}/v1/embeddings", json={"input": "the river"}, timeout=30)
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-request-id"])


def test_a_process_that_dies_is_replaced_and_its_requests_get_an_error(
    tmp_path: Path, bundles: dict[str, Bundle]
) -> None:
    with serving(tmp_path, bundles["tiny-bert"]) as (server, address):
        until(lambda: len(children(server.pid)) == 2)
        ids = {embed(address) for _ in range(20)}
        assert len(ids) == 20
        assert embedded(address) == 20
        before = children(server.pid)
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=30) as begun:
            begun.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{")
            time.sleep(0.2)  # one of them has it by now
            for process in before:
                os.kill(process, signal.SIGKILL)
            with suppress(ConnectionResetError):
                assert begun.recv(100) == b""  # at once, and not after 30 seconds
        until(lambda: len(children(server.pid)) == 2 and not children(server.pid) & before)
        assert embed(address) not in ids
        assert embedded(address) == 21  # those of the dead ones too
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        assert server.stderr is not None
        told = server.stderr.read()
    for process in before:
        assert f"process {process} died, exit code -9; another one is started" in told


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_all_of_them_end_with_the_first(
    tmp_path: Path, bundles: dict[str, Bundle], sent: signal.Signals, code: int
) -> None:
    with serving(tmp_path, bundles["tiny-bert"]) as (server, address):
        until(lambda: len(children(server.pid)) == 2)
        started = children(server.pid)
        server.send_signal(sent)
        assert server.wait(30) == code
        assert not any(Path(f"/proc/{process}").exists() for process in started)
        with pytest.raises(httpx2.TransportError):
            httpx2.get(f"{address}/livez")
        assert server.stderr is not None
        assert "Traceback" not in server.stderr.read()


def test_none_outlives_a_first_one_that_was_killed(tmp_path: Path, bundles: dict[str, Bundle]) -> None:
    with serving(tmp_path, bundles["tiny-bert"]) as (server, _):
        until(lambda: len(children(server.pid)) == 2)
        started = children(server.pid)
        server.kill()
        until(lambda: not any(Path(f"/proc/{process}").exists() for process in started))
