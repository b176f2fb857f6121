"""Texts that come more than once: the first place of each, and its vector at all others."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from paritas.engine.tokenize import deduplicate
from paritas.engine.tokenize.deduplicate import Deduplicated


def test_each_text_is_numbered_at_its_first_place() -> None:
    found = Deduplicated(["b", "a", "b", "c", "a", "b"])
    assert found.distinct == ["b", "a", "c"]
    assert found.rows.tolist() == [0, 1, 3]
    assert found.counts.tolist() == [3, 2, 1]
    assert len(found) == 6


def test_no_texts_have_no_repeats() -> None:
    found = Deduplicated([])
    assert (found.distinct, found.rows.tolist(), found.counts.tolist(), len(found)) == ([], [], [], 0)
    found.fill(np.empty((0, 3)))


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_every_row_is_its_texts(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(deduplicate, "_ROWS", rows)
    numbers = np.random.default_rng(1).integers(0, 9, 200)
    found = Deduplicated([str(number) for number in numbers])
    vectors = np.full((200, 2), np.nan)
    vectors[found.rows] = numbers[found.rows, None]
    found.fill(vectors)
    np.testing.assert_array_equal(vectors, np.repeat(numbers[:, None], 2, axis=1))


def test_the_results_are_not_held_twice() -> None:
    vectors = np.zeros((100_000, 64), np.float32)

    def pairs() -> Iterator[tuple[str, str]]:
        return (("-", str(number % 8)) for number in range(len(vectors)))

    tracemalloc.start()
    try:
        Deduplicated(pairs()).fill(vectors)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 25.6 MB of vectors; two numbers a text, and a few thousand rows.
    assert peak < 5_000_000
