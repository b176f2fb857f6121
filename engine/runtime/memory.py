"""How much memory encoding takes, and the settings that keep it below a limit.

What counts is the process's resident memory (RSS), weights that are mapped from disk included, as a container
counts it. The texts and vectors of a call are the caller's.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paritas.engine.runtime.session import Session
from paritas.errors import InputError

_STATUS = Path("/proc/self/status")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
# The activations take so many times their size: an arena loses some between buffers of many sizes.
_FRAGMENTS = 1.25
# What the kernel maps around a page that is touched (fault_around_bytes, by default).
_MAPPED_AT_ONCE = 65_536
# Tokens of the texts that touch the embeddings: too few for their activations to matter.
_SHORT = 64


def parse_size(size: int | str, name: str = "memory_limit") -> int:
    """Return bytes.

    Args:
        size: bytes, or a number with a unit, as in "512MiB", "1.5 GB" or "800M".
        name: what it is called.

    Raises:
        InputError: neither.
    """
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?)\s*([kmg]?i?)b?", str(size).strip().lower())
    if isinstance(size, bool) or match is None or match[2] not in _UNITS or float(match[1]) == 0:
        raise InputError(f'{name} is {size!r}; expected bytes or a size such as "512MiB"')
    return int(float(match[1]) * _UNITS[match[2]])


def resident_bytes() -> int:
    """Return this process's resident memory.

    Raises:
        InputError: this system does not say.
    """
    try:
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"memory_limit needs Linux, which tells a process its memory: {error}") from error
    kibibytes = next(line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return int(kibibytes) * 1024


@dataclass(frozen=True, slots=True)
class Needs:
    """What an encoder was measured to take, in bytes."""

    loaded: int
    """The process with one session, all its weights touched."""
    session: int
    """Of it, that session: another one for bulk takes as much."""
    text: int
    """To run one text of the longest role."""
    longest: int
    """That text's tokens."""
    tokens: int
    """To tokenise a call's texts."""

    def bytes(self, workers: int, max_batch_tokens: int) -> int:
        """Return the most that so many workers take with batches of so many tokens.

        Attention grows with the square of a text's length, everything else with the tokens. So no batch takes
        more for each token than one long text.
        """
        batch = self.text * max(1.0, max_batch_tokens / self.longest) * _FRAGMENTS
        sessions, batches = (0, 1) if workers == 1 else (1, workers + 1)
        return int(self.loaded + self.tokens + sessions * self.session + batches * batch)


def fit(needs: Needs, limit: int, *, workers: int, max_batch_tokens: int) -> tuple[int, int]:
    """Return workers and max_batch_tokens, at most those given, that keep a limit.

    Smaller batches are tried first: from 256 tokens on they are nearly as fast as larger ones.

    Raises:
        InputError: nothing keeps it; the message says how much is needed.
    """
    for some_workers in dict.fromkeys((workers, 1)):
        tokens = max_batch_tokens
        while True:
            if needs.bytes(some_workers, tokens) <= limit:
                return some_workers, tokens
            if tokens <= needs.longest:
                break
            tokens = max(tokens // 2, needs.longest)
    least = needs.bytes(1, min(max_batch_tokens, needs.longest))
    raise InputError(
        f"memory_limit is {_mib(limit)}, and this model takes {_mib(least)} here: {_mib(needs.loaded)} with "
        f"its weights loaded, {_mib(needs.text * _FRAGMENTS)} for a text of {needs.longest} tokens, "
        f'{_mib(needs.tokens)} to tokenise; give memory_limit="{_mib(least).replace(" ", "")}" or more'
    )


def _mib(size: float) -> str:
    return f"{math.ceil(size / 2**20)} MiB"


def measure(session: Session, *, before: int, longest: int, vocabulary: int, tokens_bytes: int) -> Needs:
    """Run a session, and return what it took.

    Args:
        session: of a graph whose vectors have `session.dim` components.
        before: resident bytes before it was loaded.
        longest: tokens of the longest text.
        vocabulary: rows of the embedding table.
        tokens_bytes: what tokenising takes for each token of the longest text.
    """
    assert isinstance(session.dim, int)

    def run(ids: NDArray[np.int64]) -> None:
        session.run(ids[None], np.ones_like(ids)[None], np.zeros_like(ids)[None])

    # Sooner or later the texts touch every row of the embeddings; one in each block does the same here.
    rows = np.arange(0, vocabulary, max(1, _MAPPED_AT_ONCE // (4 * session.dim)))
    for start in range(0, len(rows), _SHORT):
        run(rows[start : start + _SHORT][:longest])
    session.release()
    loaded = resident_bytes()
    run(np.resize(rows, longest))
    text = resident_bytes() - loaded
    session.release()
    return Needs(loaded, loaded - before, text, longest, longest * tokens_bytes)
