"""How far a job is, told by its folder alone: whoever runs it, and wherever."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal

from msgspec import Struct

from paritas.bulk.folders import open_folder
from paritas.bulk.job import Summary, read_summary, works
from paritas.bulk.ledger import PLAN, done
from paritas.bulk.preparing import is_begun, read_plan
from paritas.bulk.stages import Work
from paritas.errors import JobError

# Of a worker that has not written for so long it is said how long.
_SILENT_S = 600


class JobState(Struct, frozen=True):
    """How far a job is."""

    state: Literal["planning", "begun", "finishing", "done"]
    """What it is at, or was until something stopped it: the input is read, shards are encoded, other outputs
    are made of them; or all is done."""
    out: str
    model: str = ""
    precision: str = ""
    role: str = ""
    rows: int = 0
    done_rows: int = 0
    shards: int = 0
    done_shards: int = 0
    rejected: int = 0
    duplicates: int = 0
    workers: list[Work] = []
    """Those that finished a shard."""
    summary: Summary | None = None

    def __str__(self) -> str:
        if self.state == "planning":
            return f"{self.out}: the input is being read, or was until something stopped it"
        share = self.done_rows / self.rows if self.rows else 1.0
        lines = [
            f"{self.out}: {self.state}; {self.model} in {self.precision}, role {self.role}",
            f"{self.done_rows:,} of {self.rows:,} rows ({share:.1%}), {self.done_shards:,} of "
            f"{self.shards:,} shards; {self.rejected:,} records and {self.duplicates:,} duplicates left out",
        ]
        lines += [
            f"  {work.host} {work.process}: {work.shards:,} shards, {_rate(work)}, {_seen(work)}"
            for work in self.workers
        ]
        if self.summary is not None:
            lines.append(f"finished {self.summary.finished}, {self.summary.tokens:,} tokens")
        return "\n".join(lines)


def _rate(work: Work) -> str:
    return f"{work.rows / max(_ago_s(work.started) - _ago_s(work.updated), 1.0):,.0f} rows/s"


def _seen(work: Work) -> str:
    ago = _ago_s(work.updated)
    return f"last shard {ago:,.0f} s ago" + (", perhaps gone" if ago > _SILENT_S else "")


def _ago_s(time: str) -> float:
    """Return how long ago it was; 0 where the file was changed by somebody who writes no times."""
    with suppress(ValueError, TypeError):
        return (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()
    return 0.0


def state_of(out: str) -> JobState:
    """Return how far the job in a folder is.

    Raises:
        JobError: there is no job, or its files are damaged.
    """
    folder = open_folder(out)
    plan = read_plan(folder)
    if plan is None:
        if shards := sorted(name for name in folder.names() if name.startswith("part-")):
            raise JobError(
                f"{out}: has {shards[0]}, and its {PLAN} is gone; bring it back, or begin anew elsewhere"
            )
        if is_begun(folder):
            return JobState("planning", out)
        raise JobError(f"{out}: holds no job; expected what `paritas encode --out` was given")
    finished = done(folder, plan)
    all_there = len(finished) == len(plan.shards)
    summary = read_summary(folder) if all_there else None
    return JobState(
        state="done" if summary is not None else "finishing" if all_there else "begun",
        out=out,
        model=plan.spec.model,
        precision=plan.spec.precision,
        role=plan.spec.role,
        rows=plan.rows,
        done_rows=sum(plan.shards[number].rows for number in finished),
        shards=len(plan.shards),
        done_shards=len(finished),
        rejected=plan.rejected,
        duplicates=plan.duplicates,
        workers=works(folder),
        summary=summary,
    )
