"""How do servers hold under load over HTTP: texts a second, latency, overload, and the server's own cost?

    python -m kernels_bench.bench_load --peers .venv/peers [--model all-MiniLM-L6-v2] [--rounds 3] [--save]

paritas in FP32 and INT8, infinity-emb and a plain FastAPI service with sentence-transformers serve the same
checkpoint. 1, 16, 64 and 256 clients ask for one SQuAD question after the other, 1 and 64 for paragraphs.
The vectors of 64 texts are compared with PyTorch's first. Servers take turns: each is started, warmed up,
measured and ended before the next one. Clients and server share the CPUs.

paritas alone is asked in an open loop too: at half of what it did with 64 clients, at nine tenths, and at
twice that. Its queue then holds as many tokens as 64 questions have. The server's own cost is the CPU time of
a request at one client, less that of `Encoder.encode` for the same question, in turns on one CPU.

What it does not show: text-embeddings-inference, which no package index has for this CPU; other machines;
clients on another machine.
"""

from __future__ import annotations

import base64
import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import click
import numpy as np
import uvloop
from numpy.typing import NDArray

from kernels_bench import _harness, _load, _plot, _report, _texts
from paritas import Encoder
from paritas.export.certificate.certify import compare
from paritas.export.checkpoint.sources import open_checkpoint
from paritas.registry import load_registry

CLIENTS = {"questions": (1, 16, 64, 256), "paragraphs": (1, 64)}
ROLE = "passage"
_NAIVE = str(Path(__file__).with_name("naive_server.py"))
_READY_S = 120.0
_TURNS = 7


@dataclass(frozen=True)
class Recipe:
    """How a server is started and asked."""

    command: list[str]
    """PORT stands for its port."""
    path: str
    ready: str
    model: str

    def with_options(self, *options: str) -> Recipe:
        """Return the recipe with more options."""
        return replace(self, command=[*self.command, *options])

    def on_one_cpu(self) -> Recipe:
        """Return the recipe on the first CPU alone."""
        return replace(self, command=["taskset", "-c", "0", *self.command])


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    port: int
    process: int
    recipe: Recipe

    def requests(self, texts: Sequence[str]) -> list[bytes]:
        """Return a request for each text."""
        return _load.requests(self.recipe.path, self.recipe.model, texts)

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return what it answers to each text."""
        bodies = uvloop.run(_load.ask_each(self.port, self.requests(texts)))
        rows = [json.loads(body)["data"][0]["embedding"] for body in bodies]
        return np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in rows])

    def cpu_s(self) -> float:
        """Return the CPU time that it has taken so far."""
        tasks = Path(f"/proc/{self.process}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def recipes(model: str, checkpoint: Path, environments: Path | None) -> dict[str, Recipe]:
    """Return the servers by name, those of other environments only where there are such."""
    route = ("/v1/embeddings", "/readyz")
    served = {
        f"paritas {precision}": Recipe(
            [sys.executable, "-m", "paritas", "serve", model, "--precision", precision, "--port", "PORT"],
            *route,
            model,
        )
        for precision in ("fp32", "int8")
    }
    naive = [sys.executable, _NAIVE, str(checkpoint), "PORT"]
    served["FastAPI and sentence-transformers"] = Recipe(naive, "/v1/embeddings", "/health", model)
    if environments is not None:
        infinity = [str(environments / "infinity" / "bin" / "infinity_emb"), "v2", "--engine", "torch"]
        options = ["--model-id", str(checkpoint), "--served-model-name", model, "--device", "cpu"]
        options += ["--no-bettertransformer", "--host", "127.0.0.1", "--port", "PORT"]
        served["infinity-emb torch"] = Recipe([*infinity, *options], "/embeddings", "/health", model)
    return served


@contextmanager
def running(recipe: Recipe) -> Iterator[Running]:
    """Start a server, wait until it is ready, and end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(port) if word == "PORT" else word for word in recipe.command]
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    with subprocess.Popen(
        command, env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait(port, recipe.ready, process)
            yield Running(port, process.pid, recipe)
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(port: int, path: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _READY_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.2)
        finally:
            connection.close()
    raise click.ClickException(f"{process.args!r}: was not ready within {_READY_S:g} s")


@click.command()
@_texts.model_option
@click.option("--peers", "environments", type=click.Path(path_type=Path), help="Environments of the peers.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=1), default=5.0, show_default=True, help="A point.")
@_report.output_options
def main(
    model: str, environments: Path | None, rounds: int, seconds: float, as_json: bool, keep: bool
) -> None:
    """Measure servers under load."""
    texts = {"questions": _texts.questions(256), "paragraphs": _texts.paragraphs(256)}
    with Encoder(model) as encoder:
        name = encoder.bundle.manifest.model
        encoder.encode(texts["questions"], role=ROLE)
        assert encoder.last_stats is not None
        # As much as 64 clients have under way.
        queue_tokens = 64 * encoder.last_stats.tokens // len(texts["questions"])
    bench = Bench(texts, seconds)
    with open_checkpoint(name, load_registry()[name], "package") as checkpoint:
        served = recipes(model, checkpoint.directory, environments)
        expected = _pytorch(checkpoint.directory, texts["paragraphs"][:64])
        for server in _harness.turns(list(served), rounds):
            with running(served[server]) as up:
                click.echo(f"{server}, from {time.strftime('%X')}", err=True)
                bench.measure(server, up, expected)
            if server.startswith("paritas"):
                bounded = served[server].with_options("--max-queue-tokens", str(queue_tokens))
                with running(bounded) as up:
                    bench.overload(server, up)
                with running(served[server].on_one_cpu()) as up:
                    bench.own_cost(server, up, model)
    bench.compare_with_bulk(model, rounds)
    result = {
        "question": f"{name} over HTTP: clients that each ask for one text after the other",
        "model": name,
        "rounds": rounds,
        "seconds": seconds,
        "rows": bench.rows(),
        "queue_tokens": queue_tokens,
        "overload": bench.beside(),
        "figures": bench.figures(),
        **_report.environment(),
    }
    _report.deliver(f"load-{name}", result, as_json=as_json, keep=keep, draw=draw)


def _pytorch(checkpoint: Path, texts: list[str]) -> NDArray[np.float32]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(checkpoint), device="cpu")
    return np.asarray(model.encode(texts, show_progress_bar=False), np.float32)


class Bench:
    """What was seen, by server, kind of text and number of clients; a value a round."""

    def __init__(self, texts: dict[str, list[str]], seconds: float) -> None:
        """Begin without anything."""
        self._texts, self._seconds = texts, seconds
        self._cosines: dict[str, tuple[float, float]] = {}
        self._rates: dict[tuple[str, str, int], list[float]] = {}
        self._p50: dict[tuple[str, str, int], list[float]] = {}
        self._p99: dict[tuple[str, str, int], list[float]] = {}
        self._bulk: dict[tuple[str, str], float] = {}
        self._open: dict[tuple[str, str], list[float]] = {}
        self._cost: dict[str, list[float]] = {}
        self._other = 0
        self._clients_share = 0.0

    def measure(self, server: str, up: Running, expected: NDArray[np.float32]) -> None:
        """Measure one server once."""
        figures = compare(up.vectors(self._texts["paragraphs"][: len(expected)]), expected)
        self._cosines[server] = (figures.mean_cosine, figures.min_cosine)
        for kind, texts in self._texts.items():
            asked = up.requests(texts)
            uvloop.run(_load.closed_loop(up.port, asked, 4, 2.0))
            for clients in CLIENTS[kind]:
                self._note(server, kind, clients, up, asked)

    def _note(self, server: str, kind: str, clients: int, up: Running, asked: list[bytes]) -> None:
        own, begun = time.process_time(), time.perf_counter()
        # Of so many clients each waits for seconds.
        seconds = self._seconds * (2 if clients == max(CLIENTS[kind]) else 1)
        answers = uvloop.run(_load.closed_loop(up.port, asked, clients, seconds))
        took = time.perf_counter() - begun
        self._clients_share = max(self._clients_share, (time.process_time() - own) / took)
        key = (server, kind, clients)
        self._rates.setdefault(key, []).append(len(answers.seconds) / (seconds * 3 / 4))
        self._p50.setdefault(key, []).append(answers.milliseconds(0.5))
        self._p99.setdefault(key, []).append(answers.milliseconds(0.99))
        self._other += sum(answers.other.values())
        _settle(up, asked)

    def overload(self, server: str, up: Running) -> None:
        """Send half of the requests a second that 64 clients got, nine tenths, and twice as many."""
        asked = up.requests(self._texts["questions"])
        capacity = self._rates[server, "questions", 64][-1]
        for load, factor in (("half", 0.5), ("at", 0.9), ("twice", 2.0)):
            seconds = 2 * self._seconds
            seed = len(self._open)
            answers = uvloop.run(_load.open_loop(up.port, asked, factor * capacity, seconds, seed))
            self._add(server, f"{load} p99_ms", answers.milliseconds(0.99))
            self._add(server, f"{load} accepted_per_s", len(answers.seconds) / seconds)
            self._add(server, f"{load} refused", len(answers.refused_s))
            if answers.refused_s:
                self._add(server, f"{load} refused_p99_ms", _load.percentile(answers.refused_s, 0.99))
            self._add(server, f"{load} without_retry_after", answers.without_retry_after)
            self._other += sum(answers.other.values())
            _settle(up, asked)

    def _add(self, server: str, what: str, value: float) -> None:
        self._open.setdefault((server, what), []).append(value)

    def own_cost(self, server: str, up: Running, model: str) -> None:
        """Compare a request's CPU time with that of `Encoder.encode`, in turns and both on the first CPU.

        There onnxruntime has one thread, and none that spins while it waits. The client has the other CPUs.
        """
        questions = self._texts["questions"]
        asked, precision = up.requests(questions), server.rsplit(maxsplit=1)[-1]
        every = os.sched_getaffinity(0)
        first = {min(every)}
        costs = []
        try:
            os.sched_setaffinity(0, first)
            with Encoder(model, precision=precision) as encoder:  # type: ignore[arg-type]
                for _ in range(_TURNS + 1):  # the first warms up
                    os.sched_setaffinity(0, every - first or every)
                    before = up.cpu_s()
                    uvloop.run(_load.ask_each(up.port, asked))
                    served_s = up.cpu_s() - before
                    os.sched_setaffinity(0, first)
                    before = time.process_time()
                    for question in questions:
                        encoder.encode([question], role=ROLE)
                    costs.append(served_s - (time.process_time() - before))
        finally:
            os.sched_setaffinity(0, every)
        self._cost.setdefault(server, []).append(1000 * float(np.median(costs[1:])) / len(asked))

    def compare_with_bulk(self, model: str, rounds: int) -> None:
        """Time one call of `Encoder.encode` with all texts."""
        for precision in ("fp32", "int8"):
            with Encoder(model, precision=precision) as encoder:
                for kind, texts in self._texts.items():
                    calls = {"bulk": lambda texts=texts: encoder.encode(texts, role=ROLE)}
                    seconds = _harness.time_calls(calls, rounds)["bulk"]
                    self._bulk[f"paritas {precision}", kind] = len(texts) / float(np.median(seconds))

    def rows(self) -> list[dict[str, Any]]:
        """Return a row a server, kind of text and number of clients."""
        return [
            {
                "server": server,
                "texts": kind,
                "clients": clients,
                "texts_per_s": _median(rates),
                "of_bulk": self._share(server, kind, rates),
                "p50_ms": _finite(_median(self._p50[server, kind, clients])),
                "p99_ms": _finite(_median(self._p99[server, kind, clients])),
                "mean_cosine": round(self._cosines[server][0], 5),
                "min_cosine": round(self._cosines[server][1], 5),
            }
            for (server, kind, clients), rates in sorted(self._rates.items(), key=lambda item: item[0][1:])
        ]

    def _share(self, server: str, kind: str, rates: list[float]) -> float | None:
        bulk = self._bulk.get((server, kind))
        return None if bulk is None else round(float(np.median(rates)) / bulk, 2)

    def beside(self) -> dict[str, float]:
        """Return what the open loops showed, and the server's own cost."""
        found = {f"{server} {what}": _median(values) for (server, what), values in self._open.items()}
        found |= {f"{server} own_cpu_ms": _median(self._cost[server]) for server in self._servers()}
        share = _harness.significant(self._clients_share, 2)
        return found | {"other_answers": self._other, "clients_share_of_a_cpu": share}

    def _servers(self) -> list[str]:
        return [server for server in self._cosines if server.startswith("paritas")]

    def figures(self) -> list[dict[str, Any]]:
        """Return what is asked for, over both precisions and kinds of text the worst."""

        def rate(server: str, kind: str) -> float:
            return float(np.median(self._rates[server, kind, 64]))

        kinds = list(self._texts)
        shares = [
            rate(server, kind) / self._bulk[server, kind] for server in self._servers() for kind in kinds
        ]
        rivals = [server for server in self._cosines if not server.startswith("paritas")]
        ahead = [rate("paritas fp32", kind) / max(rate(rival, kind) for rival in rivals) for kind in kinds]
        open_loop = self.beside()
        single = {server: _median(self._p50[server, "questions", 1]) for server in self._servers()}
        half = [open_loop[f"{server} half p99_ms"] / single[server] for server in self._servers()]
        twice = [
            open_loop[f"{server} twice p99_ms"] / open_loop[f"{server} at p99_ms"]
            for server in self._servers()
        ]
        cost = [open_loop[f"{server} own_cpu_ms"] for server in self._servers()]
        return [
            _report.bounded("64 clients, of bulk", min(shares), floor=0.7, aim=0.9),
            _report.bounded("fp32 at 64 clients, of the best rival", min(ahead), floor=1.5, aim=3),
            _report.bounded("p99 at half load, in single queries", max(half), floor=10, aim=5),
            _report.bounded("p99 at twice the load, of that at nine tenths", max(twice), floor=3, aim=1.5),
            *self._refusals(open_loop),
            _report.bounded("the server's own CPU a request, ms", max(cost), floor=1, aim=0.3),
        ]

    def _refusals(self, open_loop: dict[str, float]) -> list[dict[str, Any]]:
        """Return how soon a refusal came at the latest; nothing where nothing was refused."""
        times = [open_loop.get(f"{server} twice refused_p99_ms") for server in self._servers()]
        worst = max((time_ms for time_ms in times if time_ms is not None), default=None)
        return [] if worst is None else [_report.bounded("p99 of a refusal, ms", worst, floor=50, aim=10)]


def _median(values: Sequence[float]) -> float:
    return _harness.significant(float(np.median(values)), 3)


def _finite(value: float) -> float | None:
    """Return None where nothing was answered in time."""
    return value if math.isfinite(value) else None


def _settle(up: Running, asked: list[bytes]) -> None:
    """Wait until a server has done what nobody waits for any longer."""
    uvloop.run(_load.ask_each(up.port, asked[:2]))


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw texts a second and latency by the number of clients."""
    kinds = list(dict.fromkeys(row["texts"] for row in result["rows"]))
    drawing, axes = _plot.panels(result["question"], 2 * len(kinds), height=3.8)
    shown = [(kind, figure) for kind in kinds for figure in ("texts_per_s", "p99_ms")]
    for panel, (kind, figure) in zip(axes, shown, strict=True):
        rows = [row for row in result["rows"] if row["texts"] == kind]
        servers = list(dict.fromkeys(row["server"] for row in rows))
        series = {
            server: tuple(
                [row[key] if row[key] is not None else math.nan for row in rows if row["server"] == server]
                for key in ("clients", figure)
            )
            for server in servers
        }
        name = {"texts_per_s": "texts a second", "p99_ms": "p99, ms"}[figure]
        _plot.lines(panel, series, x=f"clients, {kind}", y=name, log="xy")  # type: ignore[arg-type]
    _plot.legend(drawing, axes[0])
    _plot.write(drawing, path)


if __name__ == "__main__":
    main()
