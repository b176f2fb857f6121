"""The ASGI application: the dialects' routes, probes and metrics, and what stands around every request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Response, Router, get, route
from litestar.enums import ScopeType
from litestar.openapi.config import OpenAPIConfig
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from msgspec import Struct

from paritas import __version__
from paritas.serving.answers import answer, described
from paritas.serving.dialects import cohere, ollama, openai, own, search, tei
from paritas.serving.keys import BROWSER, PROBE, Keys
from paritas.serving.logs import begin_request, log_request
from paritas.serving.protocol import MAX_HEAD_BYTES
from paritas.serving.refusals import Refused, gone
from paritas.serving.service import Service
from paritas.serving.tracing import traced

_DIALECTS = (own, openai, tei, cohere, ollama)

# How long a request's body may take to come, in seconds.
_BODY_S = 30.0


def application(service: Service, keys: Keys, *, load_first: bool = False) -> ASGIApp:
    """Return the application; the service's models are loaded while it answers already.

    Args:
        service: what it asks.
        keys: who may ask it.
        load_first: answer only then; others answer meanwhile.
    """

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        loading = asyncio.ensure_future(service.load())
        if load_first:
            await loading
        try:
            yield
        finally:
            loading.cancel()

    dialects = _DIALECTS if service.searcher is None else (*_DIALECTS, search)
    app = Litestar(
        [*_probes(service), *(dialect.router(service) for dialect in dialects)],
        lifespan=[lifespan],
        guards=[keys.guard] if keys else [],
        request_max_body_size=service.limits.max_body_bytes,
        exception_handlers={Exception: own.told},
        openapi_config=OpenAPIConfig(
            "paritas",
            __version__,
            openapi_router=Router("/docs", route_handlers=[], opt={BROWSER: True}),
            use_handler_docstrings=True,
        ),
        logging_config=None,
    )
    paths = {route.path for route in app.routes}
    watched: ASGIApp = traced(_Watched(app, service, paths))
    return watched


class Alive(Struct):
    """The answer of `GET /livez`."""

    alive: bool


class Readiness(Struct):
    """The answer of `GET /readyz`."""

    ready: bool
    reasons: dict[str, str]
    """Why it is not, by model."""


def _probes(service: Service) -> list[Any]:
    @route("/livez", **PROBE, sync_to_thread=False, responses=described(Alive, Alive, []))
    def livez() -> Response[bytes]:
        """Say that the process answers."""
        return answer({"alive": True})

    @route("/readyz", **PROBE, sync_to_thread=False, responses=described(Readiness, Readiness, [503]))
    def readyz() -> Response[bytes]:
        """Say whether all models are loaded, and which are not and why."""
        reasons = service.unready()
        return answer({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    @get("/metrics", sync_to_thread=False)
    def metrics() -> Response[bytes]:
        """Return the figures in Prometheus's text format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    return [livez, readyz, metrics]


class _Watched:
    """Counts, names and logs every request, and lets none take long to send its body."""

    def __init__(self, app: Litestar, service: Service, paths: set[str]) -> None:
        self._app, self._service, self._paths = app, service, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500
        name = begin_request(dict(scope["headers"]).get(b"x-request-id")).encode()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", name)]
                if self._service.draining:
                    # Else the client sends its next request on a connection that is about to be closed.
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        try:
            if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEAD_BYTES:
                await _too_large_head(noted)
            else:
                await self._app(scope, _in_time(receive), noted)
        finally:
            # A path that a client made up is counted with all others of its kind.
            path = scope["path"] if scope["path"] in self._paths else "other"
            seconds = time.perf_counter() - begun
            self._service.metrics.answered(scope["method"], path, status, seconds)
            log_request(scope["method"], path, status, seconds)


async def _too_large_head(send: Send) -> None:
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 431, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _in_time(receive: Receive) -> Receive:
    """Return what receives a body within its time, and waits for ever for what comes after it."""
    until = asyncio.get_running_loop().time() + _BODY_S
    whole = False

    async def in_time() -> Any:
        nonlocal whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            raise Refused("timeout", f"the body did not come within {_BODY_S:g} s", status=408) from None
        if message["type"] == "http.disconnect":
            raise gone()
        whole = not message.get("more_body", False)
        return message

    return in_time
