"""Tuning: what wins a race, on machines that tests make up, and what is encoded meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from paritas.engine import tuning
from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.engine.runtime.cpus import available_cpus
from paritas.engine.settings import Settings
from paritas.engine.tokenize.tokenizer import Tokenizer, check_texts
from paritas.engine.tuned import find_tuned, keep_tuned
from paritas.engine.tuning import Candidate, Seconds, race, search, tune, winner
from paritas.errors import BundleError, InputError

DEFAULT = Candidate(2, 512)
OTHER = Candidate(1, 512)


class Machine:
    """Takes so many seconds for each candidate, and notes who was loaded together and who ran when."""

    def __init__(self, seconds: Callable[[Candidate], float]) -> None:
        self._seconds = seconds
        self.loaded: list[list[Candidate]] = []
        self.ran: list[Candidate] = []

    @contextmanager
    def load(self, candidates: Sequence[Candidate]) -> Iterator[Seconds]:
        self.loaded.append(list(candidates))
        yield self.run

    def run(self, candidate: Candidate) -> float:
        self.ran.append(candidate)
        return self._seconds(candidate)


def test_every_candidate_begins_and_ends_equally_often() -> None:
    for count in (2, 3, 4):
        candidates = [Candidate(1, budget) for budget in range(count)]
        machine = Machine(lambda _candidate: 1.0)
        race(candidates, machine.run, seconds=2 * count * count)
        rounds = [machine.ran[start : start + count] for start in range(0, len(machine.ran), count)]
        assert len(rounds) == 2 * count
        assert all(sorted(order) == candidates for order in rounds)
        assert sorted(order[0] for order in rounds) == sorted(candidates * 2)
        assert sorted(order[-1] for order in rounds) == sorted(candidates * 2)


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 1), (-1.0, 1), (7.9, 1), (8.0, 2), (12.5, 3)])
def test_a_race_ends_before_its_time_but_not_before_everyone_ran(seconds: float, rounds: int) -> None:
    took = race([DEFAULT, OTHER], lambda candidate: 3.0 if candidate is OTHER else 1.0, seconds=seconds)
    assert took == {DEFAULT: [1.0] * rounds, OTHER: [3.0] * rounds}


@pytest.mark.parametrize(
    ("first", "other", "wins"),
    [
        ([1.0] * 4, [0.9] * 4, True),
        ([1.0] * 4, [0.98] * 4, False),
        ([1.0] * 4, [1.1] * 4, False),
        ([1.0, 1.0, 1.0], [0.9, 0.9, 2.0], False),
        ([1.0] * 8, [0.9] * 7 + [2.0], True),
        ([1.0] * 8, [0.9] * 5 + [2.0] * 3, False),
        ([1.0, 1.0], [0.1, 0.1], False),
        ([1.0, 2.0, 4.0, 8.0], [0.9, 1.8, 3.6, 7.2], True),
        ([1.0, 2.0, 4.0, 8.0], [8.0, 4.0, 2.0, 1.0], False),
    ],
    ids=[
        "faster",
        "hardly faster",
        "slower",
        "faster but for one of three",
        "one bad round of eight",
        "three bad rounds of eight",
        "too few rounds",
        "a machine that slows down",
        "now one, now the other",
    ],
)
def test_a_challenger_must_beat_the_default_by_more_than_noise(
    first: list[float], other: list[float], wins: bool
) -> None:
    assert winner({DEFAULT: first, OTHER: other}) == (OTHER if wins else DEFAULT)


def test_of_several_the_fastest_wins() -> None:
    third = Candidate(2, 128)
    assert winner({DEFAULT: [1.0] * 3, OTHER: [0.9] * 3, third: [0.8] * 3}) == third
    assert winner({DEFAULT: [1.0] * 3, OTHER: [0.7] * 3, third: [0.8] * 3}) == OTHER


def test_workers_are_chosen_first_and_then_the_token_budget_with_so_many() -> None:
    machine = Machine(lambda candidate: (32 if candidate.workers == 4 else 64) / candidate.max_batch_tokens)
    best, gain, races = search(Candidate(8, 512), machine.load, tokens=100, seconds=60)
    assert (best, gain) == (Candidate(4, 1024), 4)
    assert machine.loaded == [
        [Candidate(8, 512), Candidate(4, 512), Candidate(1, 512)],
        [Candidate(4, 512), Candidate(4, 128), Candidate(4, 256), Candidate(4, 1024)],
    ]
    assert [[one.ratio for one in race] for race in races] == [[1, 2, 1], [1, 0.25, 0.5, 2]]
    assert [[one.tokens_per_s for one in race] for race in races] == [
        [800, 1600, 800],
        [1600, 400, 800, 3200],
    ]


def test_where_all_are_alike_the_default_stays() -> None:
    best, gain, _ = search(DEFAULT, Machine(lambda _candidate: 1.0).load, tokens=100, seconds=60)
    assert (best, gain) == (DEFAULT, 1)


def test_with_one_thread_only_the_token_budget_is_chosen() -> None:
    machine = Machine(lambda candidate: candidate.max_batch_tokens / 512)
    best, _, _ = search(Candidate(1, 512), machine.load, tokens=100, seconds=60)
    assert best == Candidate(1, 128)
    assert len(machine.loaded) == 1


def test_the_time_is_spent_and_not_more() -> None:
    machine = Machine(lambda _candidate: 1.0)
    search(DEFAULT, machine.load, tokens=100, seconds=45)
    assert 40 <= len(machine.ran) <= 45


@pytest.mark.parametrize("model", ["tiny-bert", "tiny-mpnet"])
def test_the_sample_fills_the_largest_batches_with_texts_of_one_length(
    bundles: dict[str, Bundle], model: str
) -> None:
    sample = tuning._sample(bundles[model], batches=4)
    roles = bundles[model].manifest.contract.roles
    tokenizer = Tokenizer(bundles[model].directory / "tokenizer.json", roles)
    lengths = tokenizer.encode(check_texts(sample.texts, roles["passage"]), "passage").lengths
    longest = roles["passage"].max_length
    assert set(lengths) == {min(length, longest) for length in (128, 64, 256, 32)}
    assert sample.tokens == sum(lengths)
    assert 4 * (1024 - longest) < sample.tokens <= 4 * 1024
    assert len(set(sample.texts)) == len(sample.texts)


def test_what_is_found_is_what_encoders_use(bundles: dict[str, Bundle]) -> None:
    said: list[str] = []
    found = tune(bundles["tiny-mpnet"], "fp32", seconds=0.01, report=said.append)
    assert find_tuned(bundles["tiny-mpnet"], "fp32") is None
    keep_tuned(bundles["tiny-mpnet"], found)
    with Encoder(bundles["tiny-mpnet"]) as encoder:
        assert encoder.settings == found.settings
    assert [one.max_batch_tokens for one in found.races[-1]] == [512, 128, 256, 1024]
    assert found.settings == Settings(available_cpus(), available_cpus(), 512, "tuned")
    assert said[-1] == "too few rounds to tell them all apart; give it more seconds"


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_no_time_is_refused(bundles: dict[str, Bundle], seconds: float) -> None:
    with pytest.raises(InputError, match="expected more than 0"):
        tune(bundles["tiny-mpnet"], "fp32", seconds=seconds)


def test_a_precision_that_is_not_there_is_refused(bundles: dict[str, Bundle]) -> None:
    with pytest.raises(BundleError, match="no precision 'int8'"):
        tune(bundles["tiny-mpnet"], "int8")
