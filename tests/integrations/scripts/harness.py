"""What the scripts of all integrations share: what they are given, and how vectors are checked.

`Encoder` makes the vectors that are expected in the script's own process: mean pooling adds up in the order
that NumPy's library chooses, and environments may have different ones.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from paritas import Encoder

Error = TypeVar("Error", bound=BaseException)
_K = 3


class Given:
    """Bundles and texts."""

    def __init__(self, directory: Path) -> None:
        """Read what the test wrote."""
        facts = json.loads((directory / "facts.json").read_text(encoding="utf-8"))
        self.minilm: str = facts["bundles"]["minilm"]
        """all-MiniLM-L6-v2, with its real weights."""
        self.pairs: str = facts["bundles"]["pairs"]
        """A small model whose passages are (title, text) pairs."""
        self.prompted: str = facts["bundles"]["prompted"]
        """A small model whose queries and passages have prompts."""
        self.texts: list[str] = facts["texts"]
        """200: two are equal, one is empty, one has an emoji, one is longer than the models take."""
        self.titles: list[str] = facts["titles"]
        self.queries: list[str] = facts["queries"]
        """50, likewise."""

    def vectors(self, bundle: str, what: str) -> np.ndarray[Any, Any]:
        """Return the vectors of the queries ("query"), the texts ("passage"), or both parts ("titled")."""
        return _vectors(self, bundle, what)

    def check(self, rows: Any, what: str, bundle: str = "", *, within: float = 0.0) -> None:
        """Check that rows are `Encoder`'s vectors, in order; bit for bit where no store scales them."""
        found, expected = np.asarray(rows, np.float32), self.vectors(bundle or self.minilm, what)
        assert found.shape == expected.shape, f"{found.shape}; expected {expected.shape}"
        assert np.abs(found - expected).max() <= within, f"{np.abs(found - expected).max()} off as {what}"

    def check_threads(self, encode: Callable[[str], Any], what: str) -> None:
        """Check vectors that 16 threads ask for, a text each time."""
        texts = self.queries if what == "query" else self.texts
        with ThreadPoolExecutor(16) as threads:
            self.check(list(threads.map(encode, texts)), what)

    def check_search(self, find: Callable[[str, int], Sequence[str]]) -> None:
        """Check that a search for the queries finds what exact search does; an index may miss one in 20.

        Args:
            find: returns the texts nearest to a query, best first.
        """
        exact = self.vectors(self.minilm, "query") @ self.vectors(self.minilm, "passage").T
        hits = 0
        for query, scores in zip(self.queries, exact, strict=True):
            if not query:  # some frameworks ask nothing then
                continue
            wanted = {self.texts[place] for place in np.argsort(-scores)[:_K]}
            hits += len(wanted & set(find(query, _K))) / len(wanted) >= 0.66
        asked = sum(map(bool, self.queries))
        assert hits >= 0.95 * asked, f"{hits} of {asked}"


@cache
def _vectors(given: Given, bundle: str, what: str) -> np.ndarray[Any, Any]:
    encoder = Encoder(bundle)
    if what == "query":
        return encoder.encode(given.queries, role="query")
    if what == "passage":
        return encoder.encode(given.texts, role="passage")
    pairs = encoder.contract.roles["passage"].pair
    titled = zip(given.titles, given.texts, strict=True)
    texts = [(title, text) if pairs else f"{title} {text}" for title, text in titled]
    return encoder.encode(texts, role="passage")


def error_of(kind: type[Error], call: Callable[[], object], *words: str) -> Error:
    """Return the error that a call ends with: of that kind, with these words in its message."""
    try:
        answer = call()
    except kind as error:
        for word in words:
            assert word in str(error), f"no {word!r} in {error}"
        return error
    raise AssertionError(f"no {kind.__name__}, but {answer!r}")


def run(*checks: Callable[[Given], None]) -> None:
    """Run checks against what the command line names."""
    given = Given(Path(sys.argv[1]))
    for check in checks:
        check(given)
        print("ok", check.__name__, flush=True)
