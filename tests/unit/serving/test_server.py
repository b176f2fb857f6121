"""The server under fire: readiness, keys, limits, overload, clients that go away, and the end."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from paritas import AsyncEncoder, Encoder, errors
from paritas.engine.bundle.directory import Bundle
from paritas.serving import app as app_module
from paritas.serving import protocol
from paritas.serving.keys import Keys, read_keys
from paritas.serving.service import Service
from tests.unit.engine.failing import failing
from tests.unit.serving.running import command, free_port, running
from tests.unit.serving.watched import watched


def embed(client: httpx2.Client, text: Any = "the river", **more: Any) -> httpx2.Response:
    return client.post("/v1/embeddings", json={"input": text, **more})


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def metric(client: httpx2.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith(name + " ")]
    return float(line.split()[-1])


# Readiness.


def test_it_lives_while_a_model_is_loaded_and_is_ready_afterwards(bert: Encoder) -> None:
    gate = threading.Event()

    def load() -> AsyncEncoder:
        gate.wait(30)
        return AsyncEncoder(bert)

    with running({"bert": load}, ready=False) as client:
        assert client.get("/livez").status_code == 200
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()) == (
            503,
            {"ready": False, "reasons": {"bert": "is being loaded"}},
        )
        early = embed(client)
        assert (early.status_code, early.json()["error"]["code"]) == (503, "model_not_ready")
        assert int(early.headers["retry-after"]) > 0
        gate.set()
        until(lambda: client.get("/readyz").status_code == 200)
        assert embed(client).status_code == 200


def test_a_model_that_fails_to_load_keeps_it_unready_with_the_reason(bert: Encoder) -> None:
    def load() -> AsyncEncoder:
        raise errors.BundleError("model.int8.onnx: changed since the export")

    with running({"good": bert, "bad": load}, ready=False) as client:
        until(lambda: "changed" in client.get("/readyz").text)
        assert client.get("/readyz").json()["reasons"] == {"bad": "model.int8.onnx: changed since the export"}
        assert embed(client, model="good").status_code == 200
        assert embed(client, model="bad").status_code == 503


def test_a_fault_while_a_model_is_loaded_is_a_reason_too(
    bert: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    def load() -> AsyncEncoder:
        raise ValueError("nobody expected this")

    with running({"bad": load, "good": bert}, ready=False) as client:
        until(lambda: "cannot be loaded" in client.get("/readyz").text)
        until(lambda: embed(client, model="good").status_code == 200)
        assert "nobody expected this" not in client.get("/readyz").text
        assert "nobody expected this" in caplog.text


def test_a_text_that_cannot_run_is_told_to_its_sender_and_not_to_the_log(
    bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with running({"bert": failing(bundles["tiny-bert"], monkeypatch)}) as client:
        answer = embed(client, "the blue sky", role="query")
        assert (answer.status_code, "the blue sky" in answer.text) == (500, True)
        assert "cannot run a text" in caplog.text
        assert "blue sky" not in caplog.text
        assert embed(client, "the river", role="query").status_code == 200


def test_metrics_count_what_was_done(bert: Encoder) -> None:
    with running({"bert": bert}) as client:
        embed(client, ["the river", "a city"], role="query")
        embed(client, 7)
        client.get("/made/up/by/a/client")
        assert metric(client, 'paritas_texts_total{model="bert"}') == 2
        assert metric(client, 'paritas_tokens_total{model="bert"}') == 8
        assert metric(client, 'paritas_requests_total{path="/v1/embeddings",status="200"}') == 1
        assert metric(client, 'paritas_requests_total{path="/v1/embeddings",status="400"}') == 1
        assert metric(client, 'paritas_requests_total{path="other",status="404"}') == 1
        assert metric(client, 'paritas_queue_tokens{model="bert"}') == 0
        assert metric(client, 'paritas_stage_seconds_total{model="bert",stage="run"}') > 0
        assert "made/up" not in client.get("/metrics").text


def test_every_route_is_described(client: httpx2.Client) -> None:
    description = client.get("/docs/openapi.json").json()
    routes = {"/v1/embeddings", "/v1/models", "/v1/encode", "/embed", "/", "/invocations", "/info", "/readyz"}
    assert routes <= set(description["paths"])
    assert "EmbeddingRequest" in str(description["components"]["schemas"])
    assert client.get("/docs").status_code == 200


def test_as_many_connections_as_may_are_served(bert: Encoder) -> None:
    with running({"bert": bert}, max_connections=3) as client:
        port = client.base_url.port
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        assert embed(client).status_code == 200
        held.append(socket.create_connection(("127.0.0.1", port)))
        until(lambda: embed(client).status_code == 503)
        refused = client.post("/embed", json={"inputs": "a"})
        assert (refused.json()["error_type"], refused.headers["retry-after"]) == ("Unhealthy", "1")
        for path in ("/livez", "/readyz", "/metrics"):  # else a busy server would be restarted
            assert client.get(path).status_code == 200
        for connection in held:
            connection.close()
        until(lambda: embed(client).status_code == 200)


# Keys.


def test_without_one_of_the_keys_only_the_probes_answer(
    bert: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with running({"bert": bert}, keys=("first secret", "second")) as client:
        assert embed(client).status_code == 200
        for header in ("Bearer second", "bearer second"):
            assert client.get("/v1/models", headers={"Authorization": header}).status_code == 200
        for header in ("Bearer third", "Bearer", "Basic second", "second", ""):
            refused = client.get("/v1/models", headers={"Authorization": header})
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key"), header
            assert refused.headers["www-authenticate"] == "Bearer"
            assert client.get("/docs", headers={"Authorization": header}).status_code == 401
            assert client.get("/metrics", headers={"Authorization": header}).status_code == 401
            assert client.get("/livez", headers={"Authorization": header}).status_code == 200
            assert client.get("/readyz", headers={"Authorization": header}).status_code == 200
        assert "secret" not in caplog.text
        assert "secret" not in client.get("/metrics").text


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_text("# ours\none\n\n two \n", encoding="utf-8")
    assert len(read_keys(path, "three, four")._digests) == 4
    assert not read_keys(None, None)
    assert not Keys([])
    path.write_text("# none\n", encoding="utf-8")
    with pytest.raises(errors.InputError, match=r"keys\.txt: holds no key; expected one a line"):
        read_keys(path, "three")
    with pytest.raises(errors.InputError, match="cannot be read"):
        read_keys(tmp_path / "missing", None)
    for variable in ("", " , "):
        with pytest.raises(errors.InputError, match="PARITAS_API_KEYS is set and holds no key"):
            read_keys(None, variable)
    with pytest.raises(errors.InputError, match="not ASCII"):
        read_keys(None, "schlüssel")
    path.write_bytes(b"\xef\xbb\xbfone\n")
    assert read_keys(path, None)._digests == Keys(["one"])._digests


# Limits.


def test_a_body_that_is_too_large_is_refused_and_the_next_one_served(bert: Encoder) -> None:
    with running({"bert": bert}, max_body_bytes=10_000) as client:
        refused = embed(client, "x" * 11_000)
        assert (refused.status_code, set(refused.json())) == (413, {"error"})
        assert embed(client).status_code == 200


def raw(client: httpx2.Client, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Send bytes, and return what comes back until the connection ends."""
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=30) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause_s)
        except OSError:
            pass
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except OSError:
            pass
        return answer


JSON = {"content-type": "application/json"}
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"


@pytest.mark.parametrize("size", [70_000, 2_000_000])
def test_a_header_that_is_too_large_is_refused(client: httpx2.Client, size: int) -> None:
    answer = raw(client, HEAD + b"x: " + b"a" * size + b"\r\ncontent-length: 0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 431 "), answer[:100]
    assert embed(client).status_code == 200


def test_a_body_that_stops_midway_or_comes_too_slowly(
    bert: Encoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(app_module, "_BODY_S", 0.3)
    with running({"bert": bert}) as client:
        slow = raw(client, HEAD + b"content-length: 100\r\n\r\n", b'{"input":', pause_s=0.6)
        assert slow.startswith(b"HTTP/1.1 408 "), slow
        assert b"the body did not come within 0.3 s" in slow
        with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
            connection.sendall(HEAD + b'content-length: 100\r\n\r\n{"input":')
        time.sleep(0.1)
        assert embed(client).status_code == 200
        assert "Traceback" not in caplog.text


def test_nobody_holds_a_connection_by_a_line_end_or_the_rest_of_a_body(
    bert: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_HEAD_S", 0.3)
    monkeypatch.setattr(protocol, "_REST_S", 0.3)
    with running({"bert": bert}) as client:
        get = b"GET /livez HTTP/1.1\r\nhost: x\r\n"
        line_end = raw(client, get + b"\r\n", b"\r\n", pause_s=0.2)
        assert line_end.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 408 " in line_end
        rest = raw(client, get + b"content-length: 5\r\n\r\n", b"\r\n", pause_s=0.2)
        assert (rest[:13], rest.count(b"HTTP/1.1")) == (b"HTTP/1.1 200 ", 1)


def test_a_body_that_is_refused_is_read_to_its_end(bert: Encoder) -> None:
    """Who sends it before reading would see a broken connection in place of the answer."""
    body = b'{"input": "%s"}' % (b"a" * 9_000_000)
    with running({"bert": bert}, max_body_bytes=1_000_000) as client:
        for path in ("/v1/embeddings", "/no/such/path"):
            for _ in range(3):
                connection = HTTPConnection(client.base_url.host, client.base_url.port or 0, timeout=30)
                connection.request("POST", path, body, JSON)
                answer = connection.getresponse()
                assert answer.status == (413 if path == "/v1/embeddings" else 404)
                answer.read()
                connection.request("GET", "/livez")  # and the connection goes on
                assert connection.getresponse().status == 200
                connection.close()


def test_who_sends_many_requests_before_it_reads_is_let_go(client: httpx2.Client) -> None:
    few = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n" * 10
    last = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    assert raw(client, few + last).count(b"HTTP/1.1 200 ") == 11
    with socket.create_connection((client.base_url.host, client.base_url.port)) as flood, suppress(OSError):
        flood.settimeout(30)
        for _ in range(10_000):
            flood.sendall(few * 100)
        pytest.fail("it was never let go")
    assert embed(client).status_code == 200


def test_trailers_without_an_end_take_no_memory(client: httpx2.Client) -> None:
    seen: list[int] = []
    keep = protocol.HttpToolsProtocol.on_header

    def noted(self: Any, name: bytes, value: bytes) -> None:
        seen.append(len(value))
        keep(self, name, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol.HttpToolsProtocol, "on_header", noted)
        trailers = b"".join(b"x-%d: %s\r\n" % (number, b"a" * 1_000) for number in range(30))
        body = b'{"input": "a"}'
        chunked = b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n" % (len(body), body)
        assert raw(client, HEAD + chunked + trailers + b"\r\n").startswith(b"HTTP/1.1 200 ")
        for endless in (trailers * 100, b"x: " + b"a" * 1_000_000):
            assert raw(client, HEAD + chunked, endless).startswith(b"HTTP/1.1 431 ")
    assert max(seen) < 100


def test_a_client_that_never_reads_is_let_go(bert: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_WRITE_S", 0.5)
    with running({"bert": bert}) as client:
        body = b'{"input": [%s]}' % b",".join(b'"%d"' % number for number in range(2_000))
        request = HEAD + b"content-length: %d\r\n\r\n" % len(body) + body
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect((client.base_url.host, client.base_url.port))
            deaf.sendall(request.replace(b"connection: close\r\n", b"") * 40)
            time.sleep(3)
            read = 0
            with suppress(ConnectionError):
                while part := deaf.recv(1 << 20):
                    read += len(part)
        one = len(client.post("/v1/embeddings", content=body, headers=JSON).content)
        assert read < 20 * one
        assert embed(client).status_code == 200


def test_a_connection_that_sends_no_head_is_let_go(bert: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_HEAD_S", 0.3)
    with running({"bert": bert}) as client:
        for sent in (b"", b"GET /livez HTTP/1.1\r\nx:"):
            assert raw(client, sent).startswith(b"HTTP/1.1 408 ")
        assert embed(client).status_code == 200


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01 hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 100])
def test_what_is_no_http_is_refused(client: httpx2.Client, garbage: bytes) -> None:
    assert raw(client, garbage).startswith(b"HTTP/1.1 400 ")
    assert embed(client).status_code == 200


def test_a_request_that_takes_too_long_is_told_so_and_dropped(bundles: dict[str, Bundle]) -> None:
    with (
        watched(bundles["tiny-bert"], workers=1) as (encoder, stages),
        running({"bert": encoder}, timeout_s=0.2) as client,
    ):
        late = embed(client)
        assert (late.status_code, late.json()["error"]["type"]) == (504, "timeout")
        assert embed(client, ["a city", "north"]).status_code == 504
        assert metric(client, 'paritas_queue_tokens{model="bert"}') == 0
        assert len(stages.shapes) == 1
        stages.open()
        until(lambda: embed(client).status_code == 200)


# Overload, and clients that go away.


def test_over_the_bound_every_dialect_says_429_and_when_to_come_again(bundles: dict[str, Bundle]) -> None:
    with (
        watched(bundles["tiny-bert"], workers=1) as (encoder, stages),
        running({"bert": encoder}, max_queue_tokens=96) as client,
    ):
        waiting = [threading.Thread(target=embed, args=(client,)) for _ in range(20)]
        # Each counts for 6 tokens: once one runs, sixteen wait, and three are refused.
        waiting[0].start()
        assert stages.begun.acquire(timeout=30)
        for thread in waiting[1:]:
            thread.start()
        until(lambda: metric(client, "te_queue_size") == 17)
        begun = time.perf_counter()
        theirs = embed(client)
        assert time.perf_counter() - begun < 5
        ours = client.post("/v1/encode", json={"texts": ["a"], "role": "query"})
        for answer in (theirs, ours):
            assert answer.status_code == 429
            assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert theirs.json()["error"]["code"] == "rate_limit_exceeded"
        assert ours.json()["title"] == "overloaded"
        stages.open()
        for thread in waiting:
            thread.join()
        assert embed(client).status_code == 200


def test_the_work_of_a_client_that_goes_away_is_dropped(bundles: dict[str, Bundle]) -> None:
    with (
        watched(bundles["tiny-bert"], workers=1) as (encoder, stages),
        running({"bert": encoder}) as client,
    ):
        first = threading.Thread(target=embed, args=(client,))
        first.start()
        assert stages.begun.acquire(timeout=30)
        with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
            body = b'{"input": "a city in the north"}'
            connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
            until(lambda: metric(client, 'paritas_queue_tokens{model="bert"}') > 0)
        until(lambda: metric(client, 'paritas_queue_tokens{model="bert"}') == 0)
        stages.open()
        first.join()
        assert len(stages.shapes) == 1


def test_a_fault_of_ours_is_told_without_its_text(
    bert: Encoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the secret of the house")

    with running({"bert": bert}) as client:
        monkeypatch.setattr(Service, "embed", broken)
        answer = embed(client)
        assert (answer.status_code, "secret" in answer.text) == (500, False)
        assert "the secret of the house" in caplog.text


def test_no_vector_is_lost_or_swapped_among_64_clients_a_tenth_of_whose_requests_are_cut_off(
    bert: Encoder,
) -> None:
    words = "the river sky city in north a water".split()
    chosen = random.Random(1)
    texts = [" ".join(chosen.choices(words, k=chosen.randint(1, 12))) for _ in range(500)]
    expected = {role: bert.encode(texts, role=role) for role in ("query", "passage")}

    async def one(number: int, client: httpx2.AsyncClient) -> int:
        mine, done = random.Random(number), 0
        for _ in range(25):
            start, count = mine.randrange(len(texts)), mine.choice([1, 1, 1, 5])
            role, part = mine.choice(["query", "passage"]), texts[start : start + count]
            timeout = 0.003 if mine.random() < 0.1 else 60
            try:
                body = {"texts": part, "role": role}
                answer = await client.post("/v1/encode", json=body, timeout=timeout)
            except httpx2.TimeoutException:
                continue
            vectors = np.array(answer.json()["vectors"], np.float32)
            assert np.array_equal(vectors, expected[role][start : start + len(part)])
            done += 1
        return done

    async def all_of_them(base: str) -> int:
        limits = httpx2.Limits(max_connections=64)
        async with httpx2.AsyncClient(base_url=base, limits=limits, timeout=60) as client:
            return sum(await asyncio.gather(*(one(number, client) for number in range(64))))

    with running({"bert": bert}) as client:
        assert asyncio.run(all_of_them(str(client.base_url))) > 64 * 25 * 0.8
        assert metric(client, 'paritas_queue_tokens{model="bert"}') == 0
        assert not re.search(r'status="5\d\d"', client.get("/metrics").text)


# The command, and its end.


@pytest.mark.parametrize("again", [False, True])
def test_after_sigterm_it_serves_on_for_the_grace_ends_what_it_took_and_exits_with_0(
    tmp_path: Path, bundles: dict[str, Bundle], again: bool
) -> None:
    port = free_port()
    bundle = str(bundles["tiny-bert"].directory)
    with command(tmp_path, bundle, "--port", str(port), "--grace", "1.5", "--drain", "20") as process:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

            def is_ready() -> bool:
                assert process.poll() is None, process.stderr and process.stderr.read()
                try:
                    return client.get("/readyz").status_code == 200
                except httpx2.TransportError:
                    return False

            until(is_ready)
            process.send_signal(signal.SIGTERM)
            until(lambda: client.get("/readyz").status_code == 503)
            assert client.get("/readyz").json()["reasons"] == {"server": "is about to end"}
            last = embed(client)
            assert (last.status_code, last.headers["connection"]) == (200, "close")
            if again:
                process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"http://127.0.0.1:{port}/livez")


def test_what_is_late_when_the_server_ends_is_told_so(
    bundles: dict[str, Bundle], caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[httpx2.Response] = []
    with watched(bundles["tiny-bert"], workers=1) as (encoder, stages):
        with running({"bert": encoder}, drain_s=0.5) as client:
            asked = threading.Thread(target=lambda: answers.append(embed(client)))
            asked.start()
            until(lambda: bool(stages.shapes))
        asked.join(30)
    assert [answer.status_code for answer in answers] == [503]
    assert "the server is about to end" in answers[0].json()["error"]["message"]
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["all-MiniLM-L6-v2"], "was not exported yet; type: paritas export all-MiniLM-L6-v2"),
        (["no-such-model"], "unknown model 'no-such-model'"),
        (["{bert}", "{bert}"], "there are two models of the name tiny-bert"),
        (["{bert}", "--api-keys", "/no/such/file"], "--api-keys /no/such/file: cannot be read"),
        (["{bert}", "--grace", "nan"], "nan is no time; expected seconds"),
        (["{bert}", "--drain", "inf"], "inf is no time; expected seconds"),
        (["{bert}", "--timeout", "0"], "0.0 is not in the range x>=0.001"),
        (["{bert}", "--precision", "int8"], "no precision 'int8', it has"),
        (["/tmp"], "not a bundle"),
        ([], "Missing argument 'MODEL...'"),
    ],
)
def test_a_command_that_can_never_serve_ends_with_2(
    tmp_path: Path, bundles: dict[str, Bundle], arguments: list[str], message: str
) -> None:
    given = [part.format(bert=bundles["tiny-bert"].directory) for part in arguments]
    process = command(tmp_path, *given, "--port", str(free_port()))
    _, told = process.communicate(timeout=60)
    assert process.returncode == 2, told
    assert message in told
    assert "Traceback" not in told


def test_an_address_that_is_taken_is_told(tmp_path: Path, bundles: dict[str, Bundle]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = command(tmp_path, str(bundles["tiny-bert"].directory), "--port", port)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 2, told
    assert f"127.0.0.1:{port}: cannot be listened at" in told
    assert "Traceback" not in told
