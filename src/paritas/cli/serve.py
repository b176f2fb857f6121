"""serve: models over HTTP."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import click

from paritas.cli.options import GIVEN, Models, complete_model, index_path, note
from paritas.errors import InputError, MissingExtraError
from paritas.registry import PRECISIONS, Precision

if TYPE_CHECKING:  # an extra
    from paritas.serving.logs import LogFormat
    from paritas.serving.searching import Searcher
    from paritas.serving.token_input import TokenInput

_KEYS = "PARITAS_API_KEYS"


def _finite(_context: click.Context, option: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is no time; expected seconds", param=option)
    return value


@click.command()
@click.argument(
    "models_", metavar="MODEL...", type=GIVEN, nargs=-1, required=True, shell_complete=complete_model
)
@click.option(
    "--precision",
    type=click.Choice([*PRECISIONS, "auto"]),
    default="auto",
    show_default=True,
    help="Which vectors; auto: int8 where this CPU is fast at it, else fp32.",
)
@click.option(
    "--index",
    "index_",
    type=GIVEN,
    metavar="INDEX",
    help="Answer searches of it too: for programs at /v1/search, with a page at /search.",
)
@click.option(
    "--token-input",
    type=click.Choice(["refuse", "cl100k", "model"]),
    default="refuse",
    show_default=True,
    help="Token ids in place of texts: decode them as OpenAI's cl100k_base, or as the model's own.",
)
@click.option("--host", type=GIVEN, default="127.0.0.1", show_default=True, help="0.0.0.0: every network.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option(
    "--api-keys",
    type=GIVEN,
    metavar="FILE",
    help=f"Keys that requests must carry, one a line; also those of {_KEYS}, comma between.",
)
@click.option(
    "--max-queue-tokens",
    type=click.IntRange(min=1),
    default=131_072,
    show_default=True,
    help="Tokens that may wait for a model; beyond them a request gets 429.",
)
@click.option(
    "--max-queue-seconds",
    type=click.FloatRange(min=0.001),
    callback=_finite,
    default=10.0,
    show_default=True,
    help="Likewise, how long what waits may take at the rate of before.",
)
@click.option("--max-texts", type=click.IntRange(min=1), default=2048, show_default=True, help="A request.")
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=300_000,
    show_default=True,
    help="A request, those of equal texts once.",
)
@click.option("--max-body-mb", type=click.IntRange(min=1), default=8, show_default=True, help="A request.")
@click.option("--max-connections", type=click.IntRange(min=1), default=1024, show_default=True)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.001),
    callback=_finite,
    default=60.0,
    show_default=True,
    help="Seconds a request.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    callback=_finite,
    default=3.0,
    show_default=True,
    help="Seconds to serve on after SIGTERM, while /readyz says 503.",
)
@click.option(
    "--drain",
    type=click.FloatRange(min=0),
    callback=_finite,
    default=30.0,
    show_default=True,
    help="Seconds that accepted requests may take after that.",
)
@click.option(
    "--niceness",
    type=click.IntRange(0, 19),
    default=10,
    show_default=True,
    help="Less urgent than answers are the threads that encode, by so much; also than other programs.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 512),
    default=1,
    show_default=True,
    help="Each with its part of the CPUs, for more short requests a second than one process answers. Linux.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: an object a line, with the request's id.",
)
@click.option("--log-requests", is_flag=True, help="Log each request's path, status and time; never a text.")
@click.pass_obj
def serve(
    models: Models,
    models_: Sequence[str],
    precision: Precision | Literal["auto"],
    index_: str | None,
    token_input: TokenInput,
    host: str,
    port: int,
    api_keys: str | None,
    max_queue_tokens: int,
    max_queue_seconds: float,
    max_texts: int,
    max_tokens: int,
    max_body_mb: int,
    max_connections: int,
    timeout: float,
    grace: float,
    drain: float,
    niceness: int,
    processes: int,
    log_format: LogFormat,
    log_requests: bool,
) -> None:
    """Serve each MODEL's vectors over HTTP: to clients of OpenAI, Hugging Face, Cohere and Ollama.

    Listens on this machine alone unless --host says otherwise. After SIGTERM accepted requests end first.

    \b
    paritas serve all-MiniLM-L6-v2
    paritas serve all-MiniLM-L6-v2 --index corpus.index
    paritas serve all-MiniLM-L6-v2 all-mpnet-base-v2 --precision int8 --host 0.0.0.0 --api-keys keys.txt
    """
    figures = _figures_of(processes)
    try:
        from paritas.serving import logs, server
        from paritas.serving.app import application
        from paritas.serving.keys import read_keys
        from paritas.serving.metrics import Metrics
        from paritas.serving.processes import Supervisor
        from paritas.serving.service import Limits, Service
        from paritas.serving.token_input import decoder
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("paritas"):
            raise
        raise MissingExtraError(
            f"{error.name} is not installed; type: pip install 'paritas[cpu,serve]'"
        ) from error
    from paritas import AsyncEncoder
    from paritas.engine.runtime.cpus import available_cpus

    keys = read_keys(Path(api_keys) if api_keys is not None else None, os.environ.get(_KEYS))
    bundles = _bundles(models, models_, precision)
    load = partial(
        AsyncEncoder,
        precision=precision,
        max_queue_tokens=max_queue_tokens,
        max_queue_s=max_queue_seconds,
        max_call_tokens=max_tokens,
        niceness=niceness,
        threads=None if processes == 1 else max(1, available_cpus() // processes),
    )
    searcher = _searcher(index_, bundles) if index_ is not None else None
    service = Service(
        {name: partial(load, bundle) for name, bundle in bundles.items()},
        Limits(max_body_bytes=max_body_mb * 2**20, max_texts=max_texts, timeout_s=timeout),
        searcher=searcher,
        decode=decoder(token_input),
        metrics=Metrics(Path(figures.name) if figures is not None else None),
    )
    options = server.ServerOptions(
        host=host, port=port, max_connections=max_connections, grace_s=grace, drain_s=drain
    )
    listening = server.listen(options)
    logs.configure(log_format, requests=log_requests)
    address = f"[{host}]" if ":" in host else host
    pages = "the API is described at /docs" + (", the page to search is /search" if searcher else "")
    note(f"serving {', '.join(bundles)} on http://{address}:{port}; {pages}")
    app = application(service, keys, load_first=processes > 1)
    serve_until_end = partial(server.serve, app, service, options, listening)
    with listening, figures or nullcontext():
        if processes == 1:
            serve_until_end()
        else:
            Supervisor(serve_until_end, processes, service.metrics.died).run()


def _figures_of(processes: int) -> TemporaryDirectory[str] | None:
    """Return where several processes write their figures; Prometheus's library must know before it is there.

    Raises:
        InputError: this system cannot run several.
    """
    if processes == 1:
        return None
    if sys.platform != "linux":
        raise InputError(f"--processes {processes}: works on Linux alone; start a server a port instead")
    figures = TemporaryDirectory(prefix="paritas-figures-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = figures.name
    return figures


def _bundles(models: Models, names: Sequence[str], precision: Precision | Literal["auto"]) -> dict[str, Path]:
    """Return the bundles to serve, by the names that requests give them.

    They are found now: a wrong one ends the command, and no server is up that can never serve it.
    """
    from paritas.engine.bundle.directory import Bundle

    bundles: dict[str, Path] = {}
    for model in names:
        bundle = models.find(model)
        name = bundle.resolve().name if Path(model).is_dir() else model
        if name in bundles:
            raise InputError(f"{model}: there are two models of the name {name}; name each once")
        opened = Bundle(bundle)
        if precision != "auto":
            opened.variant(precision)
        bundles[name] = bundle.absolute()
    return bundles


def _searcher(path: str, bundles: Mapping[str, Path]) -> Searcher:
    """Open an index, and find the model whose vectors it holds among those that are served."""
    from paritas.engine.bundle.directory import Bundle
    from paritas.engine.index import VectorIndex
    from paritas.serving.searching import Searcher

    path = index_path(path)
    index = VectorIndex.load(path)
    for name, bundle in bundles.items():
        if Bundle(bundle).fingerprint == index.info.fingerprint:
            return Searcher(index, name)
    raise InputError(
        f"--index {path}: was made by {index.info.model}, which is none of {', '.join(bundles)}; serve it too"
    )
