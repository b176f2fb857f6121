"""An encoder whose batches are noted, and can be held back until a test has sent what it wants gathered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from paritas.engine.encoder import Encoder
from paritas.engine.runtime.session import Session
from paritas.engine.tokenize.tokenizer import TokenArrays


class Watched:
    """Stands in for an encoder's stages."""

    def __init__(self, stages: Any) -> None:
        self._stages = stages
        self.shapes: list[tuple[int, int]] = []
        """(texts, tokens a text) of each batch, in the order in which they began."""
        self.begun = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        """A batch takes one before it runs."""
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stages, name)

    def run(self, tokens: TokenArrays, prompt_tokens: int, session: Session) -> Any:
        with self._lock:
            self.shapes.append(tokens.input_ids.shape)
        self.begun.release()
        assert self.gate.acquire(timeout=60)
        return self._stages.run(tokens, prompt_tokens, session)

    def open(self) -> None:
        """Hold nothing back any longer."""
        self.gate.release(10_000)


@contextmanager
def watched(bundle: Any, **options: Any) -> Iterator[tuple[Encoder, Watched]]:
    """Yield an encoder and what watches it; whatever a test does, no thread of it is left waiting."""
    with Encoder(bundle, **options) as encoder:
        stages = Watched(encoder.stages)
        encoder.stages = stages  # type: ignore[assignment]
        try:
            yield encoder, stages
        finally:
            stages.open()
