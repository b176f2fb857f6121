"""What an operator sees: ids and logs of requests, spans, batch sizes, and te_* figures."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from paritas import Encoder
from paritas.engine.bundle.directory import Bundle
from paritas.serving.metrics import Metrics
from tests.unit.serving.running import command, free_port, running


def embed(client: httpx2.Client, text: Any = "the river", **headers: str) -> httpx2.Response:
    return client.post("/v1/embeddings", json={"input": text}, headers=headers)


def figures(client: httpx2.Client) -> dict[str, float]:
    lines = [line for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


# Ids and logs.


def test_a_request_keeps_its_id_or_gets_one(client: httpx2.Client) -> None:
    assert embed(client, **{"X-Request-Id": "order-7.a:b_c"}).headers["x-request-id"] == "order-7.a:b_c"
    made = {embed(client).headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    for bad in ("two words", "x" * 129, "", "{}"):
        assert embed(client, **{"X-Request-Id": bad}).headers["x-request-id"] not in (bad, "")
    assert "x-request-id" in client.get("/no/such/path").headers


@contextmanager
def served(tmp_path: Path, bundle: Bundle, *options: str) -> Iterator[tuple[httpx2.Client, list[str]]]:
    """Yield a client of a server in a process, and the lines that it logs, there once it has ended."""
    port, lines = free_port(), []
    process = command(tmp_path, str(bundle.directory), "--port", str(port), "--grace", "0", *options)
    with process, httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            with suppress(httpx2.TransportError):
                if client.get("/readyz").status_code == 200:
                    break
            time.sleep(0.05)  # each request is a line in a pipe that nobody reads yet
        yield client, lines
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        lines += process.stderr.read().splitlines()
        assert process.wait(30) == 0


def test_logs_are_json_with_ids_and_no_word_of_a_user(tmp_path: Path, bundles: dict[str, Bundle]) -> None:
    options = ("--log-format", "json", "--log-requests")
    with served(tmp_path, bundles["tiny-bert"], *options) as (client, lines):
        embed(client, "a secret text", **{"X-Request-Id": "first"})
        embed(client, 7, **{"X-Request-Id": "second"})
        client.get("/v1/models?secret=1")
        client.get("/a/secret/path")
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    assert any(each["message"] == "tiny-bert: ready" and each["level"] == "INFO" for each in logged)
    requests = {each["request_id"]: each for each in logged if each["logger"] == "paritas.requests"}
    first, second = requests["first"], requests["second"]
    assert (first["method"], first["path"], first["status"]) == ("POST", "/v1/embeddings", 200)
    assert (second["status"], second["duration_ms"] >= 0) == (400, True)
    assert {"/v1/models", "other"} <= {each["path"] for each in requests.values()}
    assert "secret" not in "\n".join(lines)


def test_requests_are_logged_where_they_are_asked_for_only(
    tmp_path: Path, bundles: dict[str, Bundle]
) -> None:
    with served(tmp_path, bundles["tiny-bert"]) as (client, lines):
        embed(client)
    assert any("INFO paritas: tiny-bert: ready" in line for line in lines)
    assert not any("/v1/embeddings" in line for line in lines)


def test_a_fault_is_logged_with_the_requests_id(
    bert: Encoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from paritas.serving import logs
    from paritas.serving.service import Service

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a fault of ours")

    seen: list[logging.LogRecord] = []
    with running({"bert": bert}) as client:
        monkeypatch.setattr(Service, "embed", broken)
        handler = logging.Handler()
        handler.addFilter(logs._with_request_id)
        handler.emit = seen.append  # type: ignore[method-assign]
        logging.getLogger("paritas").addHandler(handler)
        try:
            assert embed(client, **{"X-Request-Id": "mine"}).status_code == 500
        finally:
            logging.getLogger("paritas").removeHandler(handler)
    faults = [record for record in seen if record.levelno == logging.ERROR]
    assert [record.__dict__["request_id"] for record in faults] == ["mine"]


# Spans.


def test_a_request_is_a_span_with_what_was_encoded(bert: Encoder) -> None:
    spans = InMemorySpanExporter()
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with running({"bert": bert}) as client:
        embed(client, ["the river", "a city"], traceparent=parent, **{"X-Request-Id": "traced"})
    finished = [span for span in spans.get_finished_spans() if span.kind == trace.SpanKind.SERVER]
    (span,) = [span for span in finished if span.attributes and "paritas.texts" in span.attributes]
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" in parent
    assert span.attributes is not None
    assert (span.attributes["paritas.request_id"], span.attributes["paritas.texts"]) == ("traced", 2)
    assert span.attributes["paritas.run_s"]


@pytest.mark.parametrize("before", ["", "import sys; sys.modules['opentelemetry'] = None\n"])
def test_where_spans_go_nowhere_there_are_none(before: str) -> None:
    script = (
        before + "from paritas.serving import tracing, app\n"
        "from paritas.engine.schedule.stats import EncodeStats\n"
        "assert tracing.traced(app) is app\n"
        "tracing.note('model', EncodeStats(1, 1, 0, 0, 1, 0.0, 0.0, 0.0, 0.0))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Figures.


def test_batches_are_counted_by_their_texts_and_tokens(bert: Encoder) -> None:
    with running({"bert": bert}) as client:
        embed(client, ["the river", "a city", "north"])
        found = figures(client)
    assert found['paritas_batch_texts_sum{model="bert"}'] == 3
    assert found['paritas_batch_tokens_sum{model="bert"}'] == found['paritas_tokens_total{model="bert"}']
    assert found['paritas_batch_texts_count{model="bert"}'] == found["te_batch_next_size_count"] > 0
    assert found["te_batch_next_tokens_sum"] == found['paritas_tokens_total{model="bert"}']


def test_a_probe_that_says_no_is_no_failed_request() -> None:
    metrics = Metrics()
    metrics.answered("GET", "/readyz", 503, 0.1)
    assert b'err="unhealthy"' not in metrics.text()
    metrics.answered("POST", "/embed", 503, 0.1)
    assert b'te_request_failure{err="unhealthy"} 1.0' in metrics.text()


def test_text_embeddings_inferences_figures_are_there(bert: Encoder) -> None:
    with running({"bert": bert}) as client:
        embed(client)
        embed(client, ["a", "b", "c"])
        client.post("/embed", json={"inputs": [], "truncate": True})
        found = figures(client)
    assert found['te_request_count{method="single"}'] == found['te_request_success{method="single"}'] == 1
    assert found['te_request_success{method="batch"}'] == 1
    assert found['te_request_failure{err="validation"}'] == 1
    assert (found["te_embed_count"], found["te_embed_success"], found["te_queue_size"]) == (4, 4, 0)
    for stage in ("", "_tokenization", "_queue", "_inference"):
        assert found[f"te_request{stage}_duration_count"] == 2
    assert found["te_request_duration_sum"] >= found["te_request_inference_duration_sum"] > 0
    assert found["te_request_input_length_count"] == 2


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health"])
def test_probes_may_ask_for_no_body(client: httpx2.Client, path: str) -> None:
    asked = client.head(path)
    assert (asked.status_code, asked.content) == (200, b"")
    assert asked.headers["content-length"] == client.get(path).headers["content-length"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/embeddings", {"OPTIONS", "POST"}),
        ("PUT", "/v1/models/org/mpnet", {"GET", "OPTIONS"}),
        ("DELETE", "/livez", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_another_method_is_told_which_there_are(
    client: httpx2.Client, method: str, path: str, allowed: set[str]
) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, allowed)
