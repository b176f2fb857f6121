"""A shard's documents, as the plan says where they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from paritas.bulk.plan import Plan, Shard, ShardDigest
from paritas.bulk.readers import Cursor
from paritas.bulk.sources import Source
from paritas.documents import Document
from paritas.errors import JobError


class ShardReader:
    """Reads shards, fastest one after the other; for one thread at a time."""

    def __init__(self, plan: Plan, sources: Sequence[Source]) -> None:
        """Take a plan and its inputs, in its order."""
        self._plan, self._sources = plan, sources
        self._cursor = Cursor(plan.spec.reading)

    def close(self) -> None:
        """Close what is open."""
        self._cursor.close()

    def read(self, number: int) -> list[Document]:
        """Return a shard's documents.

        Raises:
            JobError: they are others than when the plan was made.
            InputError, OSError: they cannot be read.
        """
        shard = self._plan.shards[number]
        documents = list(self._documents(shard))
        if not shard.dropped:
            return documents
        dropped = set(shard.dropped)
        return [document for place, document in enumerate(documents) if place not in dropped]

    def _documents(self, shard: Shard) -> Iterator[Document]:
        digest = ShardDigest()
        for span in shard.spans:
            for record in self._cursor.take(self._sources[span.input], span.start, span.records):
                if record.document is not None:
                    digest.add(record.document)
                    yield record.document
        if digest.value() != shard.digest:
            first, last = shard.spans[0], shard.spans[-1]
            raise JobError(
                f"{self._sources[first.input].place}: changed since the job began: rows from "
                f"{self._sources[first.input].label}:{first.number} to {self._sources[last.input].label} are "
                "others; bring the file back, or begin anew with another --out"
            )
