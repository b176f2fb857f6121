"""How many workers, and how large batches, are fastest on this machine: each is tried.

There are two races: how many batches run side by side, then how large they are. In each, the candidates
encode the same texts in turn, round by round. They are compared within a round: a shared machine's speed
drifts by tens of percent, but hardly between two neighbours in time.
"""

from __future__ import annotations

import datetime
import math
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np

from paritas.engine.bundle.directory import Bundle
from paritas.engine.bundle.manifest import TOKENIZER
from paritas.engine.encoder import Encoder
from paritas.engine.runtime.cpus import cpu_name
from paritas.engine.runtime.session import VERSION
from paritas.engine.settings import choose_settings
from paritas.engine.tokenize.tokenizer import Tokenizer, check_texts
from paritas.engine.tuned import Measured, Tuned, tuned_path
from paritas.errors import InputError
from paritas.registry import Precision

_BATCH_TOKENS = (128, 256, 512, 1024)
# A challenger wins by this much in the median round, and is no slower in three rounds of four: of several as
# fast as the default, one is always a percent ahead.
_GAIN = 1.03
_LEAST_ROUNDS = 3
# One encoding lasts so long at least, or the clock of the machine's scheduler shows in it.
_ENCODING_S = 0.5
# Tokens a text. Each divides every size of a batch, or is divided by it. Batches hold texts of one length, so
# the sample has as many of each length as the largest batch holds. Of twenty lengths it would have few.
_LENGTHS = (128, 64, 256, 32)

# Words that nearly every vocabulary has whole, so that so many words are so many tokens.
_VOCABULARY = (
    "the of and in to is a for on with as by at from or that this it was are be not but all one two time new "
    "year people water city river house work day world life part place hand long great small high old good "
    "under over between after before through during about where when which their other many first last only"
)
_WORDS = _VOCABULARY.split()


class Candidate(NamedTuple):
    """A way to run batches."""

    workers: int
    max_batch_tokens: int


class Sample(NamedTuple):
    """What is encoded."""

    role: str
    texts: list[str]
    tokens: int


Seconds = Callable[[Candidate], float]
"""Encodes the sample once, as a candidate does, and returns how long it took."""
Load = Callable[[Sequence[Candidate]], AbstractContextManager[Seconds]]
"""Loads candidates for as long as the context lasts."""
Rounds = Mapping[Candidate, Sequence[float]]
"""The seconds of every round, the first candidate being the one to beat."""


def tune(
    bundle: Bundle,
    precision: Precision,
    *,
    seconds: float = 45.0,
    report: Callable[[str], None] = lambda _line: None,
) -> Tuned:
    """Measure which workers and size of batches encode most tokens a second on this machine's CPUs.

    Args:
        bundle: what encodes.
        precision: which of its graphs.
        seconds: time to spend on encoding; loading comes on top. Every candidate encodes once at least.
        report: is told what comes next, a line at a time.

    Returns:
        What was found, for `tuned.keep_tuned`.

    Raises:
        InputError: `seconds` is no time, or what is found could not be kept.
        BundleError: a changed file, a missing precision.
    """
    if not 0 < seconds < math.inf:
        raise InputError(f"seconds is {seconds}; expected more than 0")
    variant = bundle.variant(precision)
    bundle.check(bundle.needed(variant, variant.graph_for(on_cpu=True)))
    _check_store(bundle, precision)
    default = choose_settings(None, None, None, on_cpu=True)
    threads, first = default.threads, Candidate(default.workers, default.max_batch_tokens)
    load = partial(_load, bundle, precision, threads)

    report(f"loading {bundle.manifest.model} in {precision}")
    sample = _sample(bundle, batches=threads)
    with load(sample, [first]) as seconds_of:
        once = seconds_of(first)
    report(f"about {sample.tokens / once:.0f} tokens a second")
    sample = _sample(bundle, batches=threads * math.ceil(_ENCODING_S / once))
    best, gain, races = search(
        first, partial(load, sample), tokens=sample.tokens, seconds=seconds - once, report=report
    )
    if min(one.rounds for race in races for one in race) < _LEAST_ROUNDS:
        report("too few rounds to tell them all apart; give it more seconds")
    return Tuned(
        model=bundle.manifest.model,
        precision=precision,
        cpus=threads,
        cpu=cpu_name(),
        onnxruntime=VERSION,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        workers=best.workers,
        max_batch_tokens=best.max_batch_tokens,
        gain=gain,
        races=races,
    )


def search(
    default: Candidate,
    load: Load,
    *,
    tokens: int,
    seconds: float,
    report: Callable[[str], None] = lambda _line: None,
) -> tuple[Candidate, float, list[list[Measured]]]:
    """Return the fastest candidate, how many times as fast as the default, and each race's figures.

    Args:
        default: what challengers must beat; it has as many workers as there are threads.
        load: loads the candidates of one race.
        tokens: of the sample.
        seconds: time to spend on encoding.
        report: is told what comes next.
    """
    workers = list(dict.fromkeys((default.workers, max(1, default.workers // 2), 1)))
    best, gain, races = default, 1.0, []
    if len(workers) > 1:
        report(f"workers: {', '.join(map(str, workers))}, with {default.max_batch_tokens} tokens a batch")
        field = [Candidate(number, default.max_batch_tokens) for number in workers]
        share = len(field) / (len(field) + len(_BATCH_TOKENS))
        with load(field) as seconds_of:
            rounds = race(field, seconds_of, seconds=seconds * share)
        best = winner(rounds)
        gain *= _gain(rounds, best)
        races.append(_figures(rounds, tokens))
        seconds -= sum(map(sum, rounds.values()))
    report(f"tokens a batch: {', '.join(map(str, _BATCH_TOKENS))}, with {best.workers} workers")
    field = list(
        dict.fromkeys([best, *(Candidate(best.workers, tokens_a_batch) for tokens_a_batch in _BATCH_TOKENS)])
    )
    with load(field) as seconds_of:
        rounds = race(field, seconds_of, seconds=seconds)
    best = winner(rounds)
    races.append(_figures(rounds, tokens))
    return best, round(gain * _gain(rounds, best), 3), races


def race(candidates: Sequence[Candidate], seconds_of: Seconds, *, seconds: float) -> Rounds:
    """Let candidates encode in turn, until another round would take longer than the time left.

    Each begins once, then each once with the order reversed. A candidate may leave the CPU warm or slowed
    down, and this way each of the others meets that equally often.
    """
    rounds: dict[Candidate, list[float]] = {candidate: [] for candidate in candidates}
    turn, spent = 0, 0.0
    while turn == 0 or spent * (turn + 1) / turn <= seconds:
        cycle, begins = divmod(turn, len(candidates))
        order = [*candidates[begins:], *candidates[:begins]]
        for candidate in order[:: -1 if cycle % 2 else 1]:
            rounds[candidate].append(seconds_of(candidate))
            spent += rounds[candidate][-1]
        turn += 1
    return rounds


def winner(rounds: Rounds) -> Candidate:
    """Return the fastest challenger that beats the first candidate by more than noise, else that one."""
    first, *challengers = rounds
    better = [
        challenger
        for challenger in challengers
        if len(ratios := sorted(_ratios(rounds, challenger))) >= _LEAST_ROUNDS
        and statistics.median(ratios) >= _GAIN
        and ratios[len(ratios) // 4] >= 1
    ]
    return max(better, key=partial(_gain, rounds), default=first)


def _gain(rounds: Rounds, candidate: Candidate) -> float:
    """How many times as fast as the first candidate, in the median round."""
    return statistics.median(_ratios(rounds, candidate))


def _ratios(rounds: Rounds, candidate: Candidate) -> list[float]:
    """How many times as fast as the first candidate, a round each."""
    first = next(iter(rounds.values()))
    return [slow / fast for slow, fast in zip(first, rounds[candidate], strict=True)]


def _figures(rounds: Rounds, tokens: int) -> list[Measured]:
    return [
        Measured(
            candidate.workers,
            candidate.max_batch_tokens,
            tokens_per_s=round(tokens / statistics.median(seconds), 1),
            ratio=round(_gain(rounds, candidate), 3),
            rounds=len(seconds),
        )
        for candidate, seconds in rounds.items()
    ]


@contextmanager
def _load(
    bundle: Bundle, precision: Precision, threads: int, sample: Sample, candidates: Sequence[Candidate]
) -> Iterator[Seconds]:
    """Load an encoder a candidate; they map the same weights."""
    with ExitStack() as stack:
        encoders = {
            candidate: stack.enter_context(
                Encoder(
                    bundle,
                    precision=precision,
                    threads=threads,
                    workers=candidate.workers,
                    max_batch_tokens=candidate.max_batch_tokens,
                )
            )
            for candidate in candidates
        }

        def seconds_of(candidate: Candidate) -> float:
            encoder = encoders[candidate]
            encoder.encode(sample.texts, role=sample.role)
            assert encoder.last_stats is not None
            return encoder.last_stats.total_s

        # Batches of one text each, as many as workers: the session they share is loaded by the first ones.
        texts = [" ".join(_WORDS[: place + 1]) for place in range(threads)]
        for encoder in encoders.values():
            encoder.encode(texts, role=sample.role)
        yield seconds_of


def _sample(bundle: Bundle, *, batches: int) -> Sample:
    """Return texts that fill so many of the largest batches, their lengths in turn."""
    roles = bundle.manifest.contract.roles
    role = "passage" if "passage" in roles else next(iter(roles))
    contract = bundle.manifest.contract
    tokenizer = bundle.read([TOKENIZER], partial(Tokenizer.of, bundle.directory, contract))
    special_tokens, *lengths = tokenizer.encode(check_texts(["", *_WORDS], roles[role]), role).lengths
    one_token = special_tokens + 1
    words = [word for word, length in zip(_WORDS, lengths, strict=True) if length == one_token] or _WORDS
    random = np.random.default_rng(0)
    texts: list[str] = []
    for place in range(batches):
        length = min(_LENGTHS[place % len(_LENGTHS)], roles[role].max_length)
        shape = max(_BATCH_TOKENS) // length, max(1, length - special_tokens)
        texts += [" ".join(row) for row in random.choice(words, shape)]
    return Sample(role, texts, int(tokenizer.encode(check_texts(texts, roles[role]), role).lengths.sum()))


def _check_store(bundle: Bundle, precision: Precision) -> None:
    """Refuse to measure what nobody could keep."""
    directory = tuned_path(bundle, precision).parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return
    except OSError as error:
        raise InputError(
            f"{directory}: what is found cannot be kept there: {error}; name another place with PARITAS_HOME"
        ) from error
