"""What benchmarks measure with: contenders, turns and statistics.

Whole engines are contenders in processes of their own; single kernels are calls within one process. Both take
turns, so that a machine whose speed drifts is as slow for one as for the others.
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

_PYTHON = (sys.executable, "-m")

# A sample of a kernel lasts so long at least, in seconds: the clock's own 50 ns then weigh nothing.
_SAMPLE_S = 0.002


_Name = TypeVar("_Name", bound=str)


class ContenderError(Exception):
    """A contender did not start, failed or died; the message is its reason."""


class Contender:
    """A process that has loaded one engine and runs a round each time it is asked.

    A contender that is not asked waits on a pipe and uses no CPU.
    """

    def __init__(self, module: str, arguments: list[str], *, python: Sequence[str] = _PYTHON) -> None:
        """Start a process.

        Args:
            module: what to run: a module's name, or with another `python` a script.
            arguments: its arguments.
            python: the interpreter, with what stands before the module.

        Raises:
            ContenderError: no such interpreter, or what it runs says that it cannot.
        """
        started = time.perf_counter()
        try:
            self._process = subprocess.Popen(
                [*python, module, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise ContenderError(f"{python[0]}: {error.strerror}") from error
        self.ready: dict[str, Any] = self._answer()
        self.start_s = time.perf_counter() - started
        """From before the process was spawned to its first answer."""

    def round(self) -> dict[str, Any]:
        """Run one round and return its figures."""
        return self.ask("go")

    def finish(self) -> dict[str, Any]:
        """End the process and return its last figures, the peak memory among them."""
        last = self.ask("end")
        self._process.communicate(timeout=60)
        return last

    def ask(self, word: str) -> dict[str, Any]:
        """Send a word and return the answer.

        Raises:
            ContenderError: the process answers with an error, or died.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._dead() from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._dead()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            self._process.communicate()
            raise ContenderError(answer["error"])
        return answer

    def _dead(self) -> ContenderError:
        self._process.communicate()
        return ContenderError(f"the process ended with {self._process.returncode}")


def serve_rounds(ready: dict[str, Any], one_round: Callable[[], dict[str, Any]]) -> None:
    """Be a contender: say so, run a round for each "go", end with the peak memory."""
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        if line.strip() == "end":
            break
        print(json.dumps(one_round()), flush=True)
    print(json.dumps({"peak_rss_mb": peak_rss_mb()}), flush=True)


def peak_rss_mb() -> float:
    """Return this process's peak resident memory in MB (10**6 bytes).

    From VmHWM: getrusage's ru_maxrss starts at what the parent held when it forked.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    kibibytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return round(int(kibibytes) * 1024 / 1e6, 1)


def turns(names: Sequence[_Name], rounds: int) -> Iterator[_Name]:
    """Yield every name once a round.

    Who begins changes from round to round, and every other round runs backwards: what a contender leaves
    behind, a warm CPU or one that was slowed down, meets each of the others alike.
    """
    for turn in range(rounds):
        first = turn % len(names)
        order = [*names[first:], *names[:first]]
        yield from order[:: -1 if turn % 2 else 1]


def interleave(contenders: dict[str, Contender], rounds: int, figure: str) -> dict[str, list[float]]:
    """Return a figure of every round, by contender, all of them loaded throughout."""
    seen: dict[str, list[float]] = {name: [] for name in contenders}
    for name in turns(list(contenders), rounds):
        seen[name].append(contenders[name].round()[figure])
    return seen


def time_calls(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds that each call took in every round, the calls in turns within this process.

    Every call is warmed up first; a short one is repeated until a sample is long enough for the clock.
    """
    repeats = {name: _repeats(call) for name, call in calls.items()}
    seen: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    for name in turns(list(calls), rounds):
        call = calls[name]
        started = time.perf_counter()
        for _ in range(repeats[name]):
            call()
        seen[name].append((time.perf_counter() - started) / repeats[name])
    return seen


def _repeats(call: Callable[[], object]) -> int:
    """Warm a call up, and return how many of it make one sample."""
    call()
    started = time.perf_counter()
    call()
    return max(1, round(_SAMPLE_S / max(time.perf_counter() - started, 1e-7)))


def race(forms: Mapping[str, Callable[[], object]], rounds: int, *, reference: str) -> list[dict[str, Any]]:
    """Return a row a form: p20, p50 and p80 in microseconds, and how many times as fast as the reference."""
    seconds = time_calls(forms, rounds)
    return [
        {
            "form": name,
            **{f"{key}_us": value for key, value in spread(seconds[name], scale=1e6).items()},
            "speed_ratio": speed_ratio(seconds[name], seconds[reference]),
        }
        for name in forms
    ]


def spread(values: Sequence[float], *, scale: float = 1.0) -> dict[str, float]:
    """Return the 20th, 50th and 80th percentile of some values, each times `scale`, to four digits."""
    quantiles = np.quantile(np.asarray(values, np.float64) * scale, (0.2, 0.5, 0.8))
    return {name: significant(value) for name, value in zip(("p20", "p50", "p80"), quantiles, strict=True)}


def significant(value: float, digits: int = 4) -> float:
    """Return a figure without the digits that no measurement here supports."""
    return float(f"{value:.{digits}g}")


def speed_ratio(seconds: Sequence[float], reference: Sequence[float], *, digits: int = 2) -> float:
    """Return how many times as fast as the reference: the median over rounds, each against the same round's.

    A shared machine's speed drifts by tens of percent within a run; two neighbours in time meet the same.
    `digits` is how many stand behind the point.
    """
    return round(statistics.median(b / a for a, b in zip(seconds, reference, strict=True)), digits)
