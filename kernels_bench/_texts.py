"""The real texts that benchmarks encode: SQuAD's paragraphs and questions."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from paritas.documents import read_documents


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
    texts = [document.text for document in read_documents(str(path))]
    return texts[:: max(1, len(texts) // count)][:count]


def paragraphs(count: int) -> list[str]:
    """Return so many of SQuAD's paragraphs, which have 166 tokens on average."""
    return spaced(evaluation_data() / "squad" / "corpus.jsonl", count)


def questions(count: int) -> list[str]:
    """Return so many of SQuAD's questions."""
    return spaced(evaluation_data() / "squad" / "queries.jsonl", count)


def text_options(count: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --model and --texts, with `count` texts where none are asked for."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        command = click.option(
            "--model",
            default="all-mpnet-base-v2",
            show_default=True,
            help="An exported model's id, or a bundle's path.",
        )(command)
        return click.option(
            "--texts", "count", default=count, show_default=True, help="SQuAD paragraphs to encode."
        )(command)

    return add
