"""A server of S3's protocol, on this machine alone, and a proxy before it that breaks connections."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from moto.server import ThreadedMotoServer


@contextmanager
def s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the address of a server that the environment names; it has the bucket "bucket"."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    set_environment(monkeypatch, address)
    put_bucket(address)
    try:
        yield address
    finally:
        server.stop()


def set_environment(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    from paritas.bulk.objects import open_store

    open_store.cache_clear()
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)


def put_bucket(address: str) -> None:
    import urllib.request

    # All servers of a process share what they hold.
    for path, method in (("/moto-api/reset", "POST"), ("/bucket", "PUT")):
        request = urllib.request.Request(f"{address}{path}", method=method)
        urllib.request.urlopen(request).read()


@contextmanager
def breaking_proxy(
    address: str, *, share: float, lost: threading.Event | None = None
) -> Iterator[tuple[str, list[int]]]:
    """Yield the address of a proxy that ends a share of connections somewhere in an answer, and how many.

    While `lost` is set it ends all of them.
    """
    lost = lost or threading.Event()
    host, _, port = address.removeprefix("http://").partition(":")
    listener = socket.create_server(("127.0.0.1", 0))
    drawn, broken = random.Random(0), [0]

    def forward(source: socket.socket, target: socket.socket, most: int | None) -> None:
        with suppress(OSError):
            while block := source.recv(65536):
                if lost.is_set() or (most is not None and (most := most - len(block)) < 0):
                    broken[0] += 1
                    break
                target.sendall(block)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # the other direction ends too

    def serve(client: socket.socket) -> None:
        most = drawn.randrange(2000) if drawn.random() < share else None
        with client, socket.create_connection((host, int(port))) as server:
            there = threading.Thread(target=forward, args=(client, server, None), daemon=True)
            there.start()
            forward(server, client, most)
            there.join()

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                if lost.is_set():
                    client.close()
                    continue
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", broken
    finally:
        listener.close()
