"""What the scripts of all integrations are given: bundles and texts."""

from __future__ import annotations

import itertools
import json
import os
import pydoc
from collections.abc import Mapping
from pathlib import Path

from paritas.documents import read_documents
from paritas.engine.bundle.directory import Bundle

TEXTS = 200
QUERIES = 50
_MODULES = (
    "os shutil json csv random statistics textwrap tempfile glob zipfile sqlite3 socket threading".split()
)


def write(directory: Path, bundles: Mapping[str, Bundle]) -> None:
    """Write facts.json: the bundles, 200 texts with titles, and 50 queries.

    Args:
        directory: where to.
        bundles: by name; "minilm" among them.
    """
    passages, questions = _collection()
    titles = [title for title, _ in passages]
    texts = [text for _, text in passages]
    # Duplicates, an empty text and an emoji; longer than models take, and other scripts.
    texts[3], texts[7], texts[11] = texts[0], "", "why is the sky blue 😀"
    texts[13], texts[17] = "The ferry leaves the island in the morning. " * 60, "naïve café, 東京"
    queries = [*questions[: QUERIES - 3], questions[0], "", "😀 what?"]
    facts = {
        "bundles": {name: str(bundle.directory) for name, bundle in bundles.items()},
        "texts": texts,
        "titles": titles,
        "queries": queries,
    }
    (directory / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def _collection() -> tuple[list[tuple[str, str]], list[str]]:
    """Return (title, text) passages and questions: SQuAD's where it is, else Python's documentation."""
    squad = Path(os.environ.get("PARITAS_EVAL_DATA", "eval")) / "squad"
    if squad.exists():
        documents = list(itertools.islice(read_documents(squad / "corpus.jsonl"), 0, TEXTS * 10, 10))
        asked = list(itertools.islice(read_documents(squad / "queries.jsonl"), 0, QUERIES * 200, 200))
        return [(one.title, one.text) for one in documents], [one.text for one in asked]
    functions = [
        (f"{name}.{key}", pydoc.getdoc(value))
        for name in _MODULES
        for key, value in sorted(vars(__import__(name)).items())
        if callable(value) and pydoc.getdoc(value)
    ]
    assert len(functions) >= TEXTS
    return functions[:TEXTS], [text.split(".")[0] for _, text in functions[:QUERIES]]
