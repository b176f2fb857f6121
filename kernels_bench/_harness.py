"""What benchmarks share: contenders in processes of their own, and the facts a figure needs beside it."""

from __future__ import annotations

import datetime
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from paritas.engine.cpus import available_cpus, cpu_name
from paritas.export.certify import versions

_PYTHON = (sys.executable, "-m")
RESULTS = Path(__file__).resolve().parent / "results"


class Contender:
    """A process that has loaded one engine, warmed it up, and runs a round each time it is asked.

    All contenders stay loaded while the rounds go round, so that what the machine does meanwhile hits each
    of them alike; a contender that is not asked waits on a pipe and uses no CPU.
    """

    def __init__(self, module: str, arguments: list[str], *, python: Sequence[str] = _PYTHON) -> None:
        """Start a process.

        Args:
            module: what to run: a module's name, or with another `python` a script.
            arguments: its arguments.
            python: the interpreter, with what stands before the module.
        """
        self._process = subprocess.Popen(
            [*python, module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ready: dict[str, Any] = self._answer()

    def round(self) -> dict[str, Any]:
        """Run one round and return its figures."""
        return self._ask("go")

    def finish(self) -> dict[str, Any]:
        """End the process and return its last figures, the peak memory among them."""
        last = self._ask("end")
        self._process.wait(timeout=60)
        return last

    def _ask(self, word: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


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


def interleave(contenders: dict[str, Contender], rounds: int, figure: str) -> dict[str, list[float]]:
    """Return a figure of every round, by contender.

    Who begins changes from round to round, and every other round runs backwards: what a contender leaves
    behind, a warm CPU or one that was slowed down, meets each of the others alike.
    """
    names = list(contenders)
    seen: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        order = names[first:] + names[:first]
        for name in order[:: -1 if turn % 2 else 1]:
            seen[name].append(contenders[name].round()[figure])
    return seen


def speed_ratio(seconds: Sequence[float], reference: Sequence[float]) -> float:
    """Return how many times as fast as the reference: the median over rounds, each against the same round's.

    A shared machine's speed drifts by tens of percent within a run; two neighbours in time meet the same.
    """
    return round(statistics.median(b / a for a, b in zip(seconds, reference, strict=True)), 2)


def environment() -> dict[str, Any]:
    """Return what a reader needs to judge a figure."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607
        cwd=RESULTS.parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "cpu": cpu_name(),
        "cpus": available_cpus(),
        "versions": versions(),
        "commit": commit or "unknown",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def cpu_slug(cpu: str) -> str:
    """Return a CPU's name as a part of a file's: "Intel(R) Xeon(R) Processor @ 2.50GHz" is "intel-xeon"."""
    return "-".join(re.sub(r"\(.*?\)|@.*|\bCPU\b|\bProcessor\b", " ", cpu).lower().split())


def save(name: str, result: dict[str, Any]) -> Path:
    """Write a result, a file for each kind of CPU, where the README looks for it; return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{cpu_slug(result['cpu'])}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path
