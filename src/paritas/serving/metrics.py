"""What Prometheus is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from paritas.engine.schedule.stats import EncodeStats
from paritas.serving.async_encoder import AsyncEncoder
from paritas.serving.te_metrics import TeMetrics
from paritas.serving.tracing import stages

_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The figures of one server."""

    def __init__(self, directory: Path | None = None) -> None:
        """Begin with none.

        Args:
            directory: where several processes write theirs, that of PROMETHEUS_MULTIPROC_DIR.
        """
        self.registry, self._directory = CollectorRegistry(), directory
        self._encoders: dict[str, AsyncEncoder] = {}

        def counter(name: str, text: str, *labels: str) -> Callable[..., Counter]:
            # What has these labels is kept: to find it takes the library 3 µs, and a request has 11 of them.
            return cache(Counter(f"paritas_{name}", text, labels, registry=self.registry).labels)

        def histogram(name: str, text: str, label: str, buckets: Sequence[float]) -> Callable[..., Histogram]:
            made = Histogram(f"paritas_{name}", text, [label], buckets=buckets, registry=self.registry)
            return cache(made.labels)

        def gauge(
            name: str, text: str, *labels: str, mode: Literal["livesum", "livemax"] = "livesum"
        ) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry, multiprocess_mode=mode)

        self._queue_tokens = gauge("paritas_queue_tokens", "Tokens that wait.", "model")
        self._queue_seconds = gauge(
            "paritas_queue_seconds", "How long they will take.", "model", mode="livemax"
        )
        self._rate = gauge("paritas_tokens_per_second", "Encoded while busy.", "model")
        self._under_way = gauge("te_queue_size", "Requests under way.")
        # One thread, that of the event loop, counts; batches alone are counted in theirs.
        self._requests = counter("requests", "Requests by their status.", "path", "status")
        self._seconds = histogram("request_seconds", "Time of a request.", "path", _SECONDS)
        self._texts = counter("texts", "Texts encoded.", "model")
        self._tokens = counter("tokens", "Tokens encoded.", "model")
        self._truncated = counter("truncated_texts", "Texts cut to max_length.", "model")
        self._stages = counter("stage_seconds", "Time by stage.", "model", "stage")
        self._batch_texts = histogram("batch_texts", "Texts a batch.", "model", _TEXTS)
        self._batch_tokens = histogram("batch_tokens", "Tokens a batch.", "model", _TOKENS)
        self._theirs = TeMetrics(self.registry)

    def watch(self, name: str, encoder: AsyncEncoder) -> None:
        """Tell what waits for a model, and what its batches are, from now on."""
        texts, tokens = self._batch_texts(name), self._batch_tokens(name)

        def ran(rows: int, length: int) -> None:
            texts.observe(rows)
            tokens.observe(rows * length)
            self._theirs.ran(rows, rows * length)
            if self._directory is not None:  # others are asked, who cannot see what waits here
                self._note_queues()

        encoder.on_batch(ran)
        self._encoders[name] = encoder

    def answered(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count a request; the path is that of the route, so that a client cannot make up new ones."""
        if method == "POST":  # and no probe
            self._theirs.failed(status)
        self._requests(path, str(status)).inc()
        self._seconds(path).observe(seconds)

    def begun(self, texts: int) -> None:
        """Count a request for vectors."""
        self._theirs.begun(texts)

    def encoded(self, name: str, stats: EncodeStats) -> None:
        """Count what was encoded for a request."""
        self._theirs.encoded(stats)
        self._texts(name).inc(stats.texts)
        self._tokens(name).inc(stats.tokens)
        self._truncated(name).inc(stats.truncated)
        for stage, seconds in stages(stats).items():
            self._stages(name, stage).inc(seconds)

    def _note_queues(self) -> None:
        for name, encoder in self._encoders.items():
            tokens, per_s = encoder.waiting_tokens, encoder.tokens_per_s
            self._queue_tokens.labels(name).set(tokens)
            self._queue_seconds.labels(name).set(tokens / max(per_s, 1))
            self._rate.labels(name).set(per_s)
        self._under_way.set(sum(encoder.calls for encoder in self._encoders.values()))

    def died(self, process: int) -> None:
        """Count no longer what waits in a process."""
        if self._directory is not None:
            mark_process_dead(process, str(self._directory))  # type: ignore[no-untyped-call]

    def text(self) -> bytes:
        """Return all figures in Prometheus's text format, of all processes together."""
        self._note_queues()
        if self._directory is None:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together, str(self._directory))  # type: ignore[no-untyped-call]
        return generate_latest(together)
