"""The figures under text-embeddings-inference's names, so that its dashboards go on working.

Its counters have no `_total` at the end, which Prometheus's library gives to every counter. So they are
gauges here that only grow; `rate` and `increase` take them.
"""

from __future__ import annotations

from functools import cache

from prometheus_client import CollectorRegistry, Gauge, Histogram

from paritas.engine.schedule.stats import EncodeStats
from paritas.serving.tracing import stages

_SECONDS = [1.5**power / 100_000 for power in range(1, 36)]
_LENGTHS = [2.0**power for power in range(14)]
_FAILURES = {
    408: "timeout",
    413: "validation",
    422: "validation",
    400: "validation",
    424: "inference",
    429: "overloaded",
    499: "dropped",
    500: "inference",
    503: "unhealthy",
    504: "timeout",
}


class TeMetrics:
    """The figures of one server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Begin with none, in a registry."""

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"te_{name}", text, labels, registry=registry, multiprocess_mode="sum")

        def histogram(name: str, text: str, buckets: list[float]) -> Histogram:
            return Histogram(f"te_{name}", text, buckets=buckets, registry=registry)

        self._count = cache(gauge("request_count", "Requests.", "method").labels)
        self._success = cache(gauge("request_success", "Requests that got vectors.", "method").labels)
        self._failure = cache(gauge("request_failure", "Requests that got none.", "err").labels)
        self._embed_count = gauge("embed_count", "Texts.")
        self._embed_success = gauge("embed_success", "Texts that got vectors.")
        self._durations = {
            "total": histogram("request_duration", "Of a request, in seconds.", _SECONDS),
            "tokenize": histogram("request_tokenization_duration", "Tokenising, in seconds.", _SECONDS),
            "wait": histogram("request_queue_duration", "Waiting, in seconds.", _SECONDS),
            "run": histogram("request_inference_duration", "In onnxruntime, in seconds.", _SECONDS),
        }
        self._length = histogram("request_input_length", "Tokens a text, the mean of a request.", _LENGTHS)
        self._batch_texts = histogram("batch_next_size", "Texts a batch.", _LENGTHS)
        self._batch_tokens = histogram("batch_next_tokens", "Tokens a batch.", [2.0**p for p in range(21)])

    def begun(self, texts: int) -> None:
        """Count a request for so many texts."""
        self._count(_method(texts)).inc()
        self._embed_count.inc(texts)

    def encoded(self, stats: EncodeStats) -> None:
        """Count a request that got its vectors."""
        self._success(_method(stats.texts)).inc()
        self._embed_success.inc(stats.texts)
        seconds = stages(stats) | {"total": stats.total_s}
        for stage, histogram in self._durations.items():
            histogram.observe(seconds[stage])
        self._length.observe(stats.tokens / max(stats.texts, 1))

    def failed(self, status: int) -> None:
        """Count a request that was refused, by its status."""
        if status in _FAILURES:
            self._failure(_FAILURES[status]).inc()

    def ran(self, texts: int, tokens: int) -> None:
        """Count a batch; in any thread."""
        self._batch_texts.observe(texts)
        self._batch_tokens.observe(tokens)


def _method(texts: int) -> str:
    return "single" if texts == 1 else "batch"
