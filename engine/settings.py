"""What an encoder runs with: what its caller gives, else what was tuned here, else the defaults."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from paritas.engine.runtime.cpus import available_cpus


class Settings(Struct, frozen=True):
    """How an encoder runs its batches."""

    threads: int
    """Threads at most, in all."""
    workers: int
    """Batches at most that run side by side, each with threads // workers threads inside."""
    max_batch_tokens: int = field(name="token_budget")
    """Most tokens of a batch; "token_budget" is its name in JSON."""
    origin: Literal["given", "tuned", "default"]
    """Who chose: the caller at least one of them, `paritas tune` all, or nobody."""


def choose_settings(
    threads: int | None,
    workers: int | None,
    max_batch_tokens: int | None,
    *,
    on_cpu: bool,
    tuned: Settings | None = None,
) -> Settings:
    """Return what an encoder runs with.

    What was tuned was measured together, so it holds together: where the caller gives one value, the other
    two are the defaults.

    Args:
        threads: as the caller gave it, 1 or more; None where it was not given.
        workers: likewise.
        max_batch_tokens: likewise.
        on_cpu: it will run on a CPU.
        tuned: what was found for this graph and this number of CPUs; see `paritas.engine.tuned`.
    """
    given = any(value is not None for value in (threads, workers, max_batch_tokens))
    if tuned is not None and not given:
        return tuned
    threads = threads or available_cpus()
    return Settings(
        threads,
        workers=min(workers or (threads if on_cpu else 1), threads),
        max_batch_tokens=max_batch_tokens or (512 if on_cpu else 16_384),
        origin="given" if given else "default",
    )
