"""The server's life: uvicorn in this process, which serves on for a while after SIGTERM and then drains.

Under granian 2.8 in its place, 64 clients got 0.89 as many vectors (four interleaved rounds).
"""

from __future__ import annotations

import asyncio
import math
import signal
import sys
from socket import AddressFamily, create_server, socket
from types import FrameType

import uvicorn
from litestar.types import ASGIApp
from msgspec import Struct

from paritas.errors import InputError
from paritas.serving.protocol import Protocol
from paritas.serving.service import Service

_BACKLOG = 2048
# What refusals may take, after the time for answers is over.
_LATE_S = 2
# How long a thread may keep the interpreter from one that waits for it, as after a batch: 48 clients get 1.08
# times as many vectors as with the default of 5 ms.
_SWITCH_S = 0.001


class ServerOptions(Struct, frozen=True, kw_only=True):
    """Where and how a server listens, and how it ends."""

    host: str = "127.0.0.1"
    port: int = 8000
    max_connections: int = 1024
    """Beyond them a request for a model gets 503 at once; probes and figures are answered."""
    grace_s: float = 3.0
    """Served after SIGTERM, so that who sends requests learns of it from /readyz."""
    drain_s: float = 30.0
    """What accepted requests may take after that."""


class Server(uvicorn.Server):
    """uvicorn's server, with a grace before it ends."""

    def __init__(self, app: ASGIApp, service: Service, options: ServerOptions) -> None:
        """Take what is served, and how."""
        self._service, self._options = service, options
        service.connections = lambda: len(self.server_state.connections)
        service.max_connections = options.max_connections
        super().__init__(
            uvicorn.Config(
                app,
                host=options.host,
                port=options.port,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=math.ceil(options.drain_s) + _LATE_S,
                http=Protocol,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="on",
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End: readiness goes off at once, and after the grace no connection is accepted any longer."""
        if sig == signal.SIGINT:
            super().handle_exit(sig, frame)
            return
        if self._service.draining:  # again: the grace is over
            self.should_exit = True
            return
        self._service.draining = True
        asyncio.get_event_loop().call_soon_threadsafe(self._end_after_grace)

    def _end_after_grace(self) -> None:
        asyncio.get_running_loop().call_later(self._options.grace_s, setattr, self, "should_exit", True)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Let accepted requests end; those that are late get an error in their dialect."""
        self._service.draining = True
        late = asyncio.create_task(self._refuse_late())
        await super().shutdown(sockets)
        late.cancel()
        await self._service.close(0)

    async def _refuse_late(self) -> None:
        await asyncio.sleep(self._options.drain_s)
        await self._service.close(0)


def listen(options: ServerOptions) -> socket:
    """Return a socket that listens; what comes waits until it is served.

    Raises:
        InputError: the address is taken, or none of this machine's.
    """
    family = AddressFamily.AF_INET6 if ":" in options.host else AddressFamily.AF_INET
    try:
        return create_server((options.host, options.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise InputError(
            f"{options.host}:{options.port}: cannot be listened at: {error.strerror or error}; choose "
            "another with --host and --port"
        ) from error


def serve(app: ASGIApp, service: Service, options: ServerOptions, listening: socket) -> None:
    """Serve what comes to a socket until SIGTERM or Ctrl-C."""
    sys.setswitchinterval(_SWITCH_S)
    Server(app, service, options).run([listening])
