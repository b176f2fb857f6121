"""Encoders whose sessions refuse a word."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.engine.runtime.session import Session
from paritas.errors import RunError


class Failing:
    """A session that refuses batches which hold a token id."""

    def __init__(self, session: Session, token: int, least: int = 1) -> None:
        self.session, self.token, self.least = session, token, least

    def run(self, input_ids: NDArray[np.int64], *others: NDArray[np.int64]) -> NDArray[np.float32]:
        if (input_ids == self.token).any() and len(input_ids) >= self.least:
            raise RunError("onnxruntime cannot run it: indices element out of data bounds")
        return self.session.run(input_ids, *others)

    def release(self) -> None:
        """Nothing to give back."""


def failing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, **options: int) -> Encoder:
    """An encoder whose sessions refuse the word "sky"."""
    encoder = Encoder(bundle, workers=1)
    sky = encoder.stages.tokenizer.tokens["sky"]
    assert encoder._scheduler is not None
    slots = encoder._scheduler._slots
    monkeypatch.setattr(slots, "exclusive", Failing(slots.exclusive, sky, **options))
    return encoder
