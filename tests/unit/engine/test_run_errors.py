"""What onnxruntime raises: the error names the text that causes it."""

from __future__ import annotations

import numpy as np
import pytest

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.errors import RunError
from tests.unit.engine.failing import failing


def test_what_onnxruntime_raises_names_the_text(
    bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = failing(bundles["tiny-mpnet"], monkeypatch)
    texts = ["the river", "the city", "the sky", "the water", "the sky is blue"]
    with pytest.raises(RunError) as caught:
        encoder.encode(texts * 2, role="query")
    assert str(caught.value).startswith("text 4, 'the sky is blue' (6 tokens, the highest id ")
    assert str(caught.value).endswith("onnxruntime cannot run it: indices element out of data bounds")
    assert encoder.encode(texts[:2], role="query").shape == (2, 16)


def test_texts_that_fail_only_together_are_named_together(
    bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = failing(bundles["tiny-mpnet"], monkeypatch, least=2)
    with pytest.raises(RunError, match=r"texts 0, 1 together \(2 of 4 tokens\): onnxruntime cannot run it"):
        encoder.encode(["the sky", "the city"], role="query")


def test_the_real_onnxruntime_error_becomes_ours(mpnet: Encoder) -> None:
    assert mpnet._scheduler is not None
    session = mpnet._scheduler._slots.exclusive
    ids = np.full((1, 3), 10_000, np.int64)
    with pytest.raises(RunError, match=r"onnxruntime cannot run it: .*10000"):
        session.run(ids, np.ones_like(ids), np.zeros_like(ids))
