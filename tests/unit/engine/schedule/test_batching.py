"""Which texts run together: every one once, within the budget, with no more padding than allowed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from paritas.engine.schedule.batching import Batch, plan

BUDGETS = pytest.mark.parametrize("budget", [1, 64, 512, 16_384])
PADDINGS = pytest.mark.parametrize("max_padding", [0.0, 0.1, 0.5, 0.99])


def lengths_of(seed: int, texts: int = 400, longest: int = 130) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(1, longest, texts)


def batches(lengths: NDArray[np.int64], budget: int, max_padding: float = 0.0) -> list[Batch]:
    return list(plan(lengths, max_batch_tokens=budget, max_padding=max_padding))


@BUDGETS
@PADDINGS
@pytest.mark.parametrize("texts", [1, 2, 400])
def test_every_text_runs_once(budget: int, max_padding: float, texts: int) -> None:
    rows = np.concatenate([batch.rows for batch in batches(lengths_of(1, texts), budget, max_padding)])
    np.testing.assert_array_equal(np.sort(rows), np.arange(texts))


@BUDGETS
@PADDINGS
def test_no_batch_passes_the_budget_unless_one_text_does(budget: int, max_padding: float) -> None:
    for batch in batches(lengths_of(2), budget, max_padding):
        assert batch.cells <= budget or len(batch.rows) == 1


@BUDGETS
@PADDINGS
def test_a_batch_is_as_long_as_its_longest_text(budget: int, max_padding: float) -> None:
    lengths = lengths_of(3)
    for batch in batches(lengths, budget, max_padding):
        assert batch.length == lengths[batch.rows].max()
        assert batch.cells == batch.length * len(batch.rows)


@BUDGETS
def test_without_padding_every_batch_has_one_length(budget: int) -> None:
    lengths = lengths_of(4)
    for batch in batches(lengths, budget):
        assert set(lengths[batch.rows]) == {batch.length}


@BUDGETS
@PADDINGS
@pytest.mark.parametrize("seed", range(5))
def test_the_padding_of_every_batch_keeps_its_bound(budget: int, max_padding: float, seed: int) -> None:
    lengths = lengths_of(seed)
    for batch in batches(lengths, budget, max_padding):
        padding = batch.cells - int(lengths[batch.rows].sum())
        assert padding <= max_padding * batch.cells


def test_allowing_padding_makes_fewer_batches() -> None:
    lengths = lengths_of(5)
    assert len(batches(lengths, 2048, 0.1)) < len(batches(lengths, 2048))


def test_a_batch_is_not_closed_early() -> None:
    assert [len(batch.rows) for batch in batches(np.full(10, 16), 64)] == [4, 4, 2]
    # 10 + 9 is 1 of 20 cells of padding; 10 + 9 + 5 would be 6 of 30.
    assert [len(batch.rows) for batch in batches(np.array([5, 10, 9]), 512, 0.1)] == [2, 1]


@PADDINGS
def test_the_longest_texts_run_first(max_padding: float) -> None:
    found = [batch.length for batch in batches(lengths_of(6), 512, max_padding)]
    assert found == sorted(found, reverse=True)


def test_texts_of_one_length_keep_their_order() -> None:
    lengths = lengths_of(8, texts=2000, longest=5)
    rows = np.concatenate([batch.rows for batch in batches(lengths, 64)])
    for length in range(1, 5):
        of_this_length = rows[lengths[rows] == length]
        np.testing.assert_array_equal(of_this_length, np.flatnonzero(lengths == length))


def test_no_texts_make_no_batches() -> None:
    assert batches(np.zeros(0, np.int64), 512) == []


def test_texts_without_tokens_are_batched_too() -> None:
    rows = np.concatenate([batch.rows for batch in batches(np.array([0, 2, 0]), 4)])
    assert rows.tolist() == [1, 0, 2]


def test_a_text_beyond_the_budget_runs_alone() -> None:
    found = batches(np.array([4, 600, 4]), 512, 0.9)
    assert [batch.rows.tolist() for batch in found] == [[1], [0, 2]]


def test_the_lengths_are_left_as_they_were() -> None:
    lengths = lengths_of(7)
    before = lengths.copy()
    batches(lengths, 512, 0.1)
    np.testing.assert_array_equal(lengths, before)
