"""Which shards are done, and which a worker is at: kept in the job's folder, for any number of workers.

A shard is done when its file is there. A claim only says that somebody is at it, lest others begin the same
one. Where claims are lost or wrong, work is done twice, and rows never.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import random
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from paritas.bulk.folders import DirectoryFolder, Folder
from paritas.bulk.plan import Output, Plan

# Readers of Parquet take a folder for a table, and pass over names in it that begin with an underscore.
PLAN = "_job/plan.json"
REPEATED = "_job/repeated"
STDIN = "_job/stdin"
WORKERS = "_job/workers/"
SUMMARY = "_job/job.json"
REJECTS = "_job/rejects.jsonl"
_CLAIMS = "_job/claims/"
OUTPUTS: dict[Output, tuple[str, ...]] = {
    "parquet": (),
    "npy": ("ids.jsonl", "vectors.npy"),
    "safetensors": ("ids.jsonl", "vectors.safetensors"),
    "index": ("index/index.json",),
}
"""What is made of the shards; files by their names."""
_log = logging.getLogger("paritas")

_PART = re.compile(r"part-(\d{5,})\.parquet")
# How often others are looked for, the shards are listed, and it is told what is waited for.
_ASKED_EVERY_S, _LISTED_EVERY_S, _TOLD_EVERY_S = 0.2, 1.0, 60.0
# A claim in a store that has been there for so many times as long as a shard takes is a dead worker's.
_PATIENCE = 4
_LEAST_PATIENCE_S = 10.0


class Claims(ABC):
    """Who is at which shard."""

    @abstractmethod
    def take(self, numbers: Sequence[int]) -> int | None:
        """Claim the first shard that nobody has claimed and return its number; None where all are."""

    @abstractmethod
    def take_over(self, numbers: Sequence[int], patience_s: float) -> int | None:
        """Return a shard that somebody claimed who seems to be dead; None where nobody does.

        Args:
            numbers: of the shards that others claimed.
            patience_s: for which a claim must have been there, where nothing else tells.
        """

    @abstractmethod
    def give_back(self, number: int) -> None:
        """Give a claim back, if it is held."""


class FileClaims(Claims):
    """Locks of files: the system gives them back when a worker dies, however it does."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, which may not exist yet."""
        self._folder = folder
        self._held: dict[int, int] = {}

    def take(self, numbers: Sequence[int]) -> int | None:
        """As `Claims.take`; on a file system without locks everybody may claim everything."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return next((number for number in numbers if self._lock(number)), None)

    def _lock(self, number: int) -> bool:
        descriptor = os.open(self._folder / f"{number:05d}", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:  # no locks here
            pass
        self._held[number] = descriptor
        return True

    def take_over(self, numbers: Sequence[int], patience_s: float) -> int | None:  # noqa: ARG002
        """As `Claims.take_over`: whoever holds a lock lives."""
        return None

    def give_back(self, number: int) -> None:
        """As `Claims.give_back`."""
        descriptor = self._held.pop(number, None)
        if descriptor is not None:
            (self._folder / f"{number:05d}").unlink(missing_ok=True)
            os.close(descriptor)


class ObjectClaims(Claims):
    """Objects in a store. Those of a dead worker stay, so they count for a while only."""

    def __init__(self, folder: Folder, worker: str) -> None:
        """Take the job's folder, and what this worker is called."""
        self._folder, self._worker = folder, worker
        self._held: set[int] = set()
        self._seen_s: dict[int, float] = {}
        """When others' claims were seen first, by this machine's clock alone."""

    def take(self, numbers: Sequence[int]) -> int | None:
        """As `Claims.take`."""
        claimed = {int(name) for name in self._folder.names(_CLAIMS) if name.isdigit()}
        now = time.monotonic()
        self._seen_s = {number: self._seen_s.get(number, now) for number in claimed - self._held}
        for number in numbers:
            if number not in claimed and self._folder.put_new(self._name(number), self._worker.encode()):
                self._held.add(number)
                return number
        return None

    def take_over(self, numbers: Sequence[int], patience_s: float) -> int | None:
        """As `Claims.take_over`; any of them, for several workers may ask at once."""
        now = time.monotonic()
        dead = [number for number in numbers if now - self._seen_s.get(number, now) >= patience_s]
        return random.choice(dead) if dead else None  # noqa: S311 - no secret

    def give_back(self, number: int) -> None:
        """As `Claims.give_back`."""
        if number in self._held:
            self._held.discard(number)
            self._folder.remove(self._name(number))

    def _name(self, number: int) -> str:
        return f"{_CLAIMS}{number:05d}"


class Ledger:
    """A job's shards as its folder has them, for one worker."""

    def __init__(self, folder: Folder, plan: Plan, worker: str) -> None:
        """Take the folder, the plan and what this worker is called."""
        self._folder, self._plan = folder, plan
        self._claims: Claims = (
            FileClaims(folder.path / _CLAIMS)
            if isinstance(folder, DirectoryFolder)
            else ObjectClaims(folder, worker)
        )
        self._begun_s: dict[int, float] = {}
        self._longest_s = 0.0

    def take(self, stop: threading.Event) -> Iterator[int]:
        """Yield the shards to do, each claimed, until all are done or this worker's, or the event is set.

        Shards that others claimed come last. They are waited for, as long as the others seem to live.
        """
        mine: set[int] = set()
        left: list[int] = []
        listed_s = told_s = -math.inf
        while not stop.is_set():
            if not left or time.monotonic() - listed_s > _LISTED_EVERY_S:
                left = sorted(set(range(len(self._plan.shards))) - done(self._folder, self._plan) - mine)
                listed_s = time.monotonic()
            if not left:
                return
            number = self._claims.take(left)
            if number is None:
                number = self._claims.take_over(left, max(_LEAST_PATIENCE_S, _PATIENCE * self._longest_s))
            if number is None:
                if time.monotonic() - told_s > _TOLD_EVERY_S:
                    _log.warning("%s: waiting for %d shards of other workers", self._folder.place, len(left))
                    told_s = time.monotonic()
                stop.wait(_ASKED_EVERY_S)
                left = []
                continue
            left.remove(number)
            if self._folder.has(part_name(self._plan, number)):  # since the shards were listed
                self._claims.give_back(number)
            else:
                mine.add(number)
                self._begun_s[number] = time.monotonic()
                yield number

    def finish(self, number: int) -> None:
        """Give a shard's claim back: its file is there."""
        self._longest_s = max(self._longest_s, time.monotonic() - self._begun_s[number])
        self._claims.give_back(number)

    def give_up(self) -> None:
        """Give the claims back of shards that this worker does not finish."""
        for number in self._begun_s:
            self._claims.give_back(number)

    def clear(self) -> None:
        """Remove the claims of a job that is done."""
        for name in self._folder.names(_CLAIMS):
            with suppress(OSError):
                self._folder.remove(f"{_CLAIMS}{name}")


def part_name(plan: Plan, number: int) -> str:
    """Return the name of a shard's file; where shards are no output they lie aside."""
    folder = "" if plan.spec.output == "parquet" else "_job/parts/"
    return f"{folder}part-{number:05d}.parquet"


def outputs_there(folder: Folder, plan: Plan) -> bool:
    """Say whether what is made of the shards is there."""
    return all(folder.has(name) for name in OUTPUTS[plan.spec.output])


def done(folder: Folder, plan: Plan) -> set[int]:
    """Return the shards that are done: all of them, where they were the way to an output that is there."""
    every = set(range(len(plan.shards)))
    below = part_name(plan, 0).rpartition("/")[0]
    if below and folder.has(SUMMARY) and outputs_there(folder, plan):
        return every
    matches = map(_PART.fullmatch, folder.names(f"{below}/" if below else ""))
    return {int(match[1]) for match in matches if match} & every
