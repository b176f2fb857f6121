"""What the scripts of all clients share: what the server should answer, and how that is checked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

Error = TypeVar("Error", bound=Exception)


class Served:
    """The server, and the vectors that paritas's encoder gives for its models."""

    def __init__(self, directory: Path) -> None:
        """Read what the test wrote.

        Args:
            directory: holds served.json, and MODEL.ROLE.npy of each model and role.
        """
        facts = json.loads((directory / "served.json").read_text(encoding="utf-8"))
        self.url: str = facts["url"]
        self.key: str = facts["key"]
        """The server takes requests with this key alone."""
        self.model, self.other = facts["models"]
        """The first model answers where a dialect names none."""
        self.texts: list[str] = facts["texts"]
        """Two are equal, one is empty, one has an emoji, some are longer than the models take."""
        self.max_texts: int = facts["max_texts"]
        """A request with more is refused."""
        self.cut_queries: int = facts["cut_queries"]
        """How many of `texts` are longer than a query of the first model may be."""
        self._directory = directory

    def vectors(self, role: str, model: str = "") -> np.ndarray[Any, Any]:
        """Return the vectors of `texts`, float32, (texts, dim); of the first model where none is named."""
        return np.load(self._directory / f"{model or self.model}.{role}.npy")

    def check(self, rows: Any, role: str, model: str = "") -> None:
        """Check that a client's rows are the encoder's vectors of `texts`, in their order, bit for bit.

        A float32 that is written as a number of JSON reads as a float64 that rounds to the same float32.
        """
        found, expected = np.asarray(rows, np.float32), self.vectors(role, model)
        assert found.shape == expected.shape, f"{found.shape}; expected {expected.shape}"
        assert np.array_equal(found, expected), f"{np.abs(found - expected).max()} off as {role}"


def error_of(kind: type[Error], call: Callable[[], object], *words: str) -> Error:
    """Return the error that a call ends with: of that kind, with these words in its message."""
    try:
        answer = call()
    except kind as error:
        for word in words:
            assert word in str(error), f"no {word!r} in {error}"
        return error
    raise AssertionError(f"no {kind.__name__}, but {answer!r}")


def run(*checks: Callable[[Served], None]) -> None:
    """Run checks against the server that the command line names."""
    served = Served(Path(sys.argv[1]))
    for check in checks:
        check(served)
        print("ok", check.__name__, flush=True)
