"""The real texts that benchmarks encode: SQuAD's paragraphs and questions."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from paritas.documents import Document, read_documents
from paritas.engine.bundle.lookup import find
from paritas.errors import ParitasError

# Where one sentence ends and the next begins, near enough for texts of their length.
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def evaluation_data() -> Path:
    """Return the folder that tests/evaluation/README.md describes.

    Raises:
        click.UsageError: PARITAS_EVAL_DATA does not say where it is.
    """
    if "PARITAS_EVAL_DATA" not in os.environ:
        raise click.UsageError(
            "set PARITAS_EVAL_DATA to the folder that tests/evaluation/README.md describes"
        )
    return Path(os.environ["PARITAS_EVAL_DATA"])


def spaced(path: Path, count: int) -> list[str]:
    """Return `count` texts of a corpus, evenly spaced, so that all its articles are drawn from."""
    return [document.text for document in spaced_documents(path, count)]


def spaced_documents(path: Path, count: int) -> list[Document]:
    """Return `count` documents of a corpus, evenly spaced."""
    documents = list(read_documents(str(path)))
    return documents[:: max(1, len(documents) // count)][:count]


def paragraphs(count: int) -> list[str]:
    """Return so many of SQuAD's paragraphs, which have 166 tokens on average."""
    return spaced(evaluation_data() / "squad" / "corpus.jsonl", count)


def titled_paragraphs(count: int) -> list[tuple[str, str]]:
    """Return so many of SQuAD's paragraphs as (title, text)."""
    documents = spaced_documents(evaluation_data() / "squad" / "corpus.jsonl", count)
    return [(document.title, document.text) for document in documents]


def questions(count: int) -> list[str]:
    """Return so many of SQuAD's questions."""
    return spaced(evaluation_data() / "squad" / "queries.jsonl", count)


def sentences() -> list[str]:
    """Return the sentences of SQuAD's paragraphs and SciFact's abstracts, each once."""
    documents = [
        document
        for name in ("squad", "scifact")
        for document in read_documents(str(evaluation_data() / name / "corpus.jsonl"))
    ]
    found = [sentence for document in documents for sentence in _SENTENCE.split(document.text)]
    return list(dict.fromkeys(found))


def model_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --model, which must name a bundle."""
    told = "An exported model's id, or a bundle's path."
    return click.option(
        "--model", default="all-mpnet-base-v2", show_default=True, callback=_check_model, help=told
    )(command)


def _check_model(_context: click.Context, _option: click.Parameter, model: str) -> str:
    try:
        find(model)
    except ParitasError as error:
        raise click.BadParameter(str(error)) from error
    return model


def text_options(count: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --model and --texts, with `count` texts where none are asked for."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        number = click.option(
            "--texts",
            "count",
            type=click.IntRange(min=1),
            default=count,
            show_default=True,
            help="SQuAD paragraphs to encode.",
        )
        return model_option(number(command))

    return add
