"""One call's way through the stages: tokenise, plan batches, run, pool and normalise."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from paritas.engine.bundle.manifest import Contract
from paritas.engine.pool.head import Head, cut
from paritas.engine.runtime.session import Session
from paritas.engine.schedule.batching import Batch, plan
from paritas.engine.schedule.job import Job
from paritas.engine.schedule.scheduler import Scheduler
from paritas.engine.schedule.stats import EncodeStats, Tally
from paritas.engine.tokenize.deduplicate import Deduplicated
from paritas.engine.tokenize.tokenizer import CHUNK_BYTES, Text, TokenArrays, Tokenizer, Tokens
from paritas.errors import InputError, RunError

R = TypeVar("R")

# Texts that are planned together, while the next ones are tokenised. With so many, most batches are full and
# their tokens take little memory.
WINDOW = 4096
# Two windows of tokens, 8 bytes each, and what the tokenizer is at: for each token of the longest text.
TOKENS_BYTES = 2 * 8 * WINDOW + CHUNK_BYTES


_FIRST_ALONE = (
    "this model pools the first token alone, so the last layer of its graph computes no other: there are no "
    "vectors of tokens"
)


class Encoded(NamedTuple):
    """What a call returns."""

    vectors: NDArray[np.float32]
    """(texts, dim), in the order given."""
    stats: EncodeStats


class EncodedTokens(NamedTuple):
    """What a call returns that keeps the vectors of tokens."""

    vectors: list[NDArray[np.float32]]
    """(tokens, width) of each text, in the order given, special tokens and the prompt included."""
    stats: EncodeStats


class Counted(NamedTuple):
    """What a call returns that tells of each text what became of it."""

    vectors: NDArray[np.float32]
    """(texts, dim), in the order given."""
    tokens: NDArray[np.int32]
    """Tokens computed for each text, special tokens and the prompt's included, (texts,)."""
    truncated: NDArray[np.bool_]
    """True where tokens were cut off, (texts,)."""
    stats: EncodeStats


class Window(NamedTuple):
    """Distinct texts that are planned together."""

    tokens: Tokens
    rows: NDArray[np.int64]
    """Where their vectors belong, (texts,)."""
    counts: NDArray[np.int64]
    """How often each was given, (texts,)."""
    texts: Sequence[Text]
    prompt_tokens: int | None
    """Tokens at the beginning of each text that are not pooled; None where nothing is pooled."""

    @classmethod
    def joined(cls, windows: Sequence[Window]) -> Window:
        """Return several windows of one call, one at least, as one."""
        return cls(
            Tokens.concatenate([window.tokens for window in windows]),
            np.concatenate([window.rows for window in windows]),
            np.concatenate([window.counts for window in windows]),
            [text for window in windows for text in window.texts],
            windows[0].prompt_tokens,
        )


@dataclass(frozen=True)
class Stages:
    """What every call of one encoder goes through."""

    contract: Contract
    tokenizer: Tokenizer
    head: Head
    dim: int
    max_batch_tokens: int
    max_padding: float

    def plan(self, window: Window) -> Iterator[Batch]:
        """Yield a window's batches, longest texts first."""
        return plan(
            window.tokens.lengths, max_batch_tokens=self.max_batch_tokens, max_padding=self.max_padding
        )

    def vectors(self, window: Window, session: Session, batch: Batch) -> tuple[NDArray[np.float32], float]:
        """Run a batch, pool and normalise; return float32, (batch, dim), and the seconds in onnxruntime.

        Raises:
            RunError: onnxruntime cannot run it; the message names the text.
        """
        try:
            return self.run(window.tokens.arrays(batch.rows, batch.length), window.prompt_tokens, session)
        except RunError as error:
            raise _blamed(error, window, batch, session) from error

    def run(
        self, tokens: TokenArrays, prompt_tokens: int | None, session: Session
    ) -> tuple[NDArray[np.float32], float]:
        """Run texts that lie side by side, pool and normalise.

        Args:
            tokens: as `Tokens.arrays` returns them, (batch, length).
            prompt_tokens: at the beginning of each text, that are not pooled; None: pool nothing.
            session: where they run.

        Returns:
            float32, (batch, dim), or (batch, length, width) of what is not pooled, and the seconds in
            onnxruntime.

        Raises:
            RunError: onnxruntime cannot run them.
            InputError: there are no tokens' vectors.
        """
        begun = time.perf_counter()
        hidden = session.run(*tokens)
        run_s = time.perf_counter() - begun
        if prompt_tokens is None:
            if hidden.shape[1] != tokens.input_ids.shape[1]:
                raise InputError(_FIRST_ALONE)
            return np.asarray(hidden, np.float32), run_s
        pooled = self.head(hidden, tokens.attention_mask, prompt_tokens=prompt_tokens)
        return cut(pooled, self.dim, normalized=self.contract.normalize), run_s


class Call(ABC, Generic[R]):
    """Texts of one role on their way."""

    def __init__(self, stages: Stages, texts: Deduplicated, role: str) -> None:
        """Begin.

        Args:
            stages: the encoder's.
            texts: as `checked_texts` yields them, each distinct one once.
            role: of all of them.
        """
        self._stages, self._texts, self._role = stages, texts, role
        self.tally = Tally()
        """What was done so far."""
        self.tally.add(texts=len(texts))

    @property
    def distinct(self) -> int:
        """How many different texts there are."""
        return len(self._texts.distinct)

    def encode(self, scheduler: Scheduler, watch: Callable[[Job[None]], object] = Job.result) -> R:
        """Run all of it, tokenising each window while the one before it runs.

        Args:
            scheduler: where it runs.
            watch: called with each window's job; returns when that has ended.
        """
        before: Job[None] | None = None
        try:
            for window in self._windows():
                batches = list(self._stages.plan(window))
                if self._ran_exclusive(scheduler, window, batches):
                    continue
                if before is not None:
                    watch(before)
                before = Job(batches, partial(self._run, window), lambda: None)
                scheduler.start(before)
            if before is not None:
                watch(before)
        except BaseException:
            if before is not None:
                before.abandon()  # nothing writes to the caller's array afterwards
                before = None  # no cycle through the traceback, which holds this frame
            raise
        return self.finish()

    def _ran_exclusive(self, scheduler: Scheduler, window: Window, batches: Sequence[Batch]) -> bool:
        """Run a call of one short batch in this thread; in a signal handler inside another, all batches."""
        run = partial(self._run, window)
        if scheduler.is_within():
            for batch in batches:
                scheduler.run_exclusive(batch, run)
            return True
        one = len(batches) == 1 and len(window.texts) == len(self._texts.distinct)
        return one and scheduler.run_exclusive(batches[0], run)

    def submit(self, scheduler: Scheduler) -> Job[R]:
        """Tokenise all of it here and now, and return what runs the rest."""
        texts = self._texts.distinct
        window = self.window(slice(0, len(texts)))
        return scheduler.submit(self._stages.plan(window), partial(self._run, window), self.finish)

    def _windows(self) -> Iterator[Window]:
        for start in range(0, len(self._texts.distinct), WINDOW):
            yield self.window(slice(start, start + WINDOW))

    def window(self, part: slice) -> Window:
        """Tokenise some of the distinct texts."""
        begun = time.perf_counter()
        texts, counts = self._texts.distinct[part], self._texts.counts[part]
        prompt_tokens = self._prompt_tokens()
        tokens = self._stages.tokenizer.encode(texts, self._role)
        self.tally.add(
            tokens=int(tokens.lengths.sum()),
            truncated=int(counts[tokens.truncated].sum()),
            tokenize_s=time.perf_counter() - begun,
        )
        return Window(tokens, self._texts.rows[part], counts, texts, prompt_tokens)

    def _prompt_tokens(self) -> int | None:
        """Return what `Window` holds."""
        return 0 if self._stages.contract.pool_prompt else self._stages.tokenizer.prompt_tokens(self._role)

    def _run(self, window: Window, session: Session, batch: Batch) -> None:
        begun = time.perf_counter()
        vectors, run_s = self._stages.vectors(window, session, batch)
        self.store(window, batch, vectors, run_s=run_s, pool_s=time.perf_counter() - begun - run_s)

    def store(
        self, window: Window, batch: Batch, vectors: NDArray[np.float32], *, run_s: float, pool_s: float
    ) -> None:
        """Take what `Stages.run` returned for a batch, and the seconds that were spent on it."""
        self._keep(window, batch, vectors)
        tokens = int(window.tokens.lengths[batch.rows].sum())
        self.tally.add(
            batches=1,
            done=int(window.counts[batch.rows].sum()),
            computed=tokens,
            padding=batch.cells - tokens,
            run_s=run_s,
            pool_s=pool_s,
        )

    @abstractmethod
    def _keep(self, window: Window, batch: Batch, vectors: NDArray[np.float32]) -> None:
        """Take the vectors of a batch."""

    @abstractmethod
    def finish(self) -> R:
        """Return all vectors, those of repeated texts too, and what was done."""


class PooledCall(Call[Encoded]):
    """One vector a text, in an array."""

    def __init__(self, stages: Stages, texts: Deduplicated, role: str, vectors: NDArray[np.float32]) -> None:
        """Begin, with the array to be filled: float32, (texts, dim)."""
        super().__init__(stages, texts, role)
        self._vectors = vectors

    def _keep(self, window: Window, batch: Batch, vectors: NDArray[np.float32]) -> None:
        self._vectors[window.rows[batch.rows]] = vectors

    def finish(self) -> Encoded:
        """As `Call.finish`."""
        self._texts.fill(self._vectors)
        return Encoded(self._vectors, self.tally.stats())


class CountedCall(Call[Counted]):
    """One vector a text, and how many tokens each has."""

    def __init__(self, stages: Stages, texts: Deduplicated, role: str) -> None:
        """Begin, as `Call`."""
        super().__init__(stages, texts, role)
        count = len(texts)
        self._vectors = np.empty((count, stages.dim), np.float32)
        self._tokens, self._truncated = np.zeros(count, np.int32), np.zeros(count, np.bool_)

    def _keep(self, window: Window, batch: Batch, vectors: NDArray[np.float32]) -> None:
        places = window.rows[batch.rows]
        self._vectors[places] = vectors
        self._tokens[places] = window.tokens.lengths[batch.rows]
        self._truncated[places] = window.tokens.truncated[batch.rows]

    def finish(self) -> Counted:
        """As `Call.finish`."""
        for array in (self._vectors, self._tokens, self._truncated):
            self._texts.fill(array)
        return Counted(self._vectors, self._tokens, self._truncated, self.tally.stats())


class TokenCall(Call[EncodedTokens]):
    """One vector a token, in an array for each text."""

    def __init__(self, stages: Stages, texts: Deduplicated, role: str) -> None:
        """Begin, as `Call`."""
        super().__init__(stages, texts, role)
        self._vectors: dict[int, NDArray[np.float32]] = {}
        """By the first place of their text."""

    def _prompt_tokens(self) -> int | None:
        return None

    def _keep(self, window: Window, batch: Batch, vectors: NDArray[np.float32]) -> None:
        lengths = window.tokens.lengths[batch.rows]
        for place, length, own in zip(window.rows[batch.rows], lengths, vectors, strict=True):
            self._vectors[int(place)] = own[:length].copy()  # a view would hold the whole batch

    def finish(self) -> EncodedTokens:
        """As `Call.finish`."""
        vectors = [
            self._vectors[first] if first == place else self._vectors[first].copy()
            for place, first in enumerate(self._texts.first.tolist())
        ]
        return EncodedTokens(vectors, self.tally.stats())


def _blamed(error: RunError, window: Window, batch: Batch, session: Session) -> RunError:
    """Return the error with the text that causes it: the first that fails alone, else the whole batch."""
    for row in batch.rows:
        tokens = window.tokens.arrays(np.array([row]), int(window.tokens.lengths[row]))
        try:
            session.run(*tokens)
        except RunError as own:
            shown = repr(_beginning(window.texts[row]))[:60]
            return RunError(
                f"text {window.rows[row]}, {shown} ({tokens[0].shape[1]} tokens, the highest id "
                f"{tokens[0].max()}): {own}"
            )
    places = ", ".join(str(place) for place in window.rows[batch.rows][:8])
    return RunError(f"texts {places} together ({len(batch.rows)} of {batch.length} tokens): {error}")


def _beginning(text: Text) -> Text:
    """Return what of a text can be shown; a whole one may be megabytes."""
    return text[:60] if isinstance(text, str) else (text[0][:60], text[1][:60])
