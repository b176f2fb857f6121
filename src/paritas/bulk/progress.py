"""Who is told how a job goes, and how it ends before its end."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Whoever wants to know how a job goes; called by several threads, one at a time."""

    def planning(self, done_bytes: int, total_bytes: int) -> None:
        """So much of the input was read to cut it into shards."""

    def begin(self, rows: int, done: int) -> None:
        """So many rows are to be encoded, of which some are done already."""

    def encoded(self, rows: int, tokens: int) -> None:
        """So many more rows were encoded, or found to be encoded already."""

    def finishing(self) -> None:
        """All rows are encoded; other outputs than shards are written now."""

    def indexed(self, rows: int, total: int) -> None:
        """So many more rows were added to the index, of so many in all."""


class Silent:
    """Progress that nobody watches."""

    def planning(self, done_bytes: int, total_bytes: int) -> None:
        """Say nothing."""

    def begin(self, rows: int, done: int) -> None:
        """Say nothing."""

    def encoded(self, rows: int, tokens: int) -> None:
        """Say nothing."""

    def finishing(self) -> None:
        """Say nothing."""

    def indexed(self, rows: int, total: int) -> None:
        """Say nothing."""


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """A job was stopped before its end; the same call goes on with it."""

    def __init__(self, done: int, shards: int) -> None:
        """Take how many shards are done, and of how many."""
        super().__init__(f"{done} of {shards} shards are done")
        self.done, self.shards = done, shards
