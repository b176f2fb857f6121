"""Spans for OpenTelemetry where `opentelemetry-instrumentation-asgi` is installed."""

from __future__ import annotations

from typing import Any

from paritas.engine.schedule.stats import EncodeStats
from paritas.serving.logs import request_id

try:
    from opentelemetry import trace
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
except ModuleNotFoundError:
    _IS_THERE = False
else:
    _IS_THERE = True


def traced(app: Any) -> Any:
    """Return an ASGI application with a span for each request; itself where spans go nowhere.

    `opentelemetry-instrument` says where, before the program starts. A span for nobody would cost 0.26 ms.
    """
    if not _IS_THERE or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return app
    return OpenTelemetryMiddleware(app, exclude_spans=["receive", "send"])


def note(model: str, stats: EncodeStats) -> None:
    """Write what was encoded into the request's span."""
    if not _IS_THERE:
        return
    trace.get_current_span().set_attributes(
        {
            "paritas.request_id": request_id.get(),
            "paritas.model": model,
            "paritas.texts": stats.texts,
            "paritas.tokens": stats.tokens,
            "paritas.truncated": stats.truncated,
            **{f"paritas.{stage}_s": seconds for stage, seconds in stages(stats).items()},
        }
    )


def stages(stats: EncodeStats) -> dict[str, float]:
    """Return the seconds of a call by stage; what is left of it is waiting."""
    named = {"tokenize": stats.tokenize_s, "run": stats.run_s, "pool": stats.pool_s}
    return named | {"wait": max(0.0, stats.total_s - sum(named.values()))}
