"""Runs a script that may ask no other host, from its first import on: `stay_here.py SCRIPT ARGUMENT...`."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def stay_here() -> list[str]:
    """Refuse every connection that leaves this machine.

    Returns:
        The hosts that were asked; it grows. Some clients catch the error.
    """
    asked: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.getaddrinfo":
            host = arguments[0]
        elif event == "socket.connect" and isinstance(arguments[1], tuple):
            host = arguments[1][0]
        else:
            return
        if host not in LOOPBACK:
            asked.append(str(host))
            raise ConnectionRefusedError(f"{host}: the tests ask no other host")

    sys.addaudithook(hook)
    return asked


if __name__ == "__main__":
    others = stay_here()
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).parent)  # as Python itself would have it
    runpy.run_path(sys.argv[0], run_name="__main__")
    assert not others, f"other hosts were asked: {others}"
