"""Shards on their way: read, encoded and written side by side, with few of them in between.

Two shards are encoded at a time. While the last batches of one run, the first texts of the next are
tokenised, and no CPU waits for the reader or the writer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from typing import Protocol

import numpy as np
from msgspec import Struct

from paritas.bulk.cache import Entry, text_key
from paritas.bulk.folders import Folder
from paritas.bulk.ledger import Ledger, part_name
from paritas.bulk.plan import SHARD_BYTES, Plan, Shard, ShardDigest
from paritas.bulk.readers import Cursor
from paritas.bulk.repeated import Repeated
from paritas.bulk.shards import Encoded, Facts, parquet_of
from paritas.bulk.sources import Source
from paritas.documents import Document
from paritas.engine.encoder import Encoder
from paritas.engine.schedule.call import Counted
from paritas.engine.schedule.job import Job
from paritas.engine.tokenize.tokenizer import Text
from paritas.errors import JobError

_ASKED_EVERY_S = 0.1
# A row's id, text and flags as Python holds them, beside the text's own bytes; and its vectors: those of the
# engine, those in the file's type, and the file.
_ROW_BYTES, _VECTORS = 400, 3


class Progress(Protocol):
    """Whoever wants to know how a job goes; called by several threads, one at a time."""

    def planning(self, done_bytes: int, total_bytes: int) -> None:
        """So much of the input was read to cut it into shards."""

    def begin(self, rows: int, done: int) -> None:
        """So many rows are to be encoded, of which some are done already."""

    def encoded(self, rows: int, tokens: int) -> None:
        """So many more rows were encoded, or found to be encoded already."""


class Work(Struct):
    """What a worker has done, as its file in the job's folder says."""

    worker: str
    host: str
    process: int
    started: str
    updated: str = ""
    shards: int = 0
    rows: int = 0
    tokens: int = 0
    kept: int = 0
    """Rows whose vectors were kept from another shard or job."""
    seconds: dict[str, float] = {}
    """By stage; several run side by side, so together they are more than the time that passed."""


def memory_bytes(dim: int, shard_rows: int, at_once: int) -> int:
    """Return what the shards under way take at most, rows of more than `SHARD_BYTES` aside.

    Args:
        dim: of the vectors.
        shard_rows: rows of a shard.
        at_once: shards that are encoded side by side.
    """
    shard = shard_rows * (_VECTORS * 4 * dim + _ROW_BYTES) + 3 * SHARD_BYTES
    return (at_once + 1) * shard


class Pipeline:
    """Takes a job's shards through the stages."""

    def __init__(
        self,
        encoder: Encoder,
        plan: Plan,
        sources: Sequence[Source],
        folder: Folder,
        *,
        repeated: Repeated,
        work: Work,
        progress: Progress,
        at_once: int,
    ) -> None:
        """Begin nothing yet.

        Args:
            encoder: makes the vectors.
            plan: of the job.
            sources: the plan's inputs, in its order.
            folder: where shards go.
            repeated: vectors of other shards and jobs.
            work: what is done is added to it.
            progress: told of it.
            at_once: shards that are encoded side by side.
        """
        self._encoder, self._plan, self._sources, self._folder = encoder, plan, sources, folder
        self._repeated, self.work, self._progress, self._at_once = repeated, work, progress, at_once
        self._pair = encoder.stages.tokenizer.role(plan.spec.role).pair
        self._job = plan.digest()
        self._cursor = Cursor(plan.spec.reading)
        self._lock = threading.Lock()
        self._abort = threading.Event()

    def run(
        self,
        ledger: Ledger,
        stop: threading.Event,
        abort: threading.Event,
        note: Callable[[Work], object],
    ) -> None:
        """Do the shards that the ledger gives.

        Args:
            ledger: it.
            stop: when set, no other shard is begun, and those under way are finished.
            abort: when set, those under way are left.
            note: called with what was done after each shard.

        Raises:
            CancelledError: abort was set.
            JobError, OSError: an input changed, or a shard cannot be written.
        """
        self._abort = abort
        under_way: deque[Future[None]] = deque()
        reading, writing = ThreadPoolExecutor(1, "paritas-read"), ThreadPoolExecutor(1, "paritas-write")
        encoding = ThreadPoolExecutor(self._at_once, "paritas-encode")
        try:
            for number in ledger.take(stop):
                read = reading.submit(self._read, number)
                made = encoding.submit(self._encode, read)
                under_way.append(writing.submit(self._write, number, made, ledger, note))
                del read, made  # a shard's rows are held by whoever is at them
                while len(under_way) > self._at_once:
                    _ended(under_way.popleft(), abort)
            while under_way:
                _ended(under_way.popleft(), abort)
        except BaseException:
            abort.set()
            raise
        finally:
            for pool in (reading, encoding, writing):
                pool.shutdown(cancel_futures=abort.is_set())
            self._cursor.close()
            ledger.give_up()

    def _read(self, number: int) -> list[Document]:
        begun = time.perf_counter()
        shard = self._plan.shards[number]
        documents = list(self._documents(shard))
        if shard.dropped:
            dropped = set(shard.dropped)
            documents = [document for place, document in enumerate(documents) if place not in dropped]
        self._add(read=time.perf_counter() - begun)
        return documents

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

    def _encode(self, read: Future[list[Document]]) -> Encoded:
        documents = read.result()
        begun = time.perf_counter()
        texts = [document.as_text(pair=self._pair) for document in documents]
        ids = [document.id for document in documents]
        del documents
        keys = [text_key(text) for text in texts]
        kept = self._repeated.kept(keys)
        found, awaited = self._repeated.claim(kept)
        own = [place for place, key in enumerate(keys) if key not in found and key not in awaited]
        counted = self._vectors([texts[place] for place in own], len(texts) - len(own))
        if kept:
            self._repeated.put(_entries([keys[place] for place in own], counted, kept))
        found |= self._repeated.wait(awaited, self._check)
        self._add(encode=time.perf_counter() - begun)
        if len(own) == len(texts):
            return Encoded(ids, counted.vectors, counted.tokens, counted.truncated)
        return _joined(ids, keys, own, counted, found)

    def _vectors(self, texts: list[Text], others: int) -> Counted:
        """Encode texts, and tell of them and of others whose vectors are known."""
        call = self._encoder.counted_call(texts, self._plan.spec.role)
        told = tokens = 0
        self._tell(others, 0)

        def watch(job: Job[None]) -> None:
            nonlocal told, tokens
            ended = False
            while not ended:
                ended = job.wait(_ASKED_EVERY_S)
                self._check()
                done, computed = call.tally.done, call.tally.computed
                self._tell(done - told, computed - tokens)
                told, tokens = done, computed
            job.result()

        counted = call.encode(self._encoder.scheduler(), watch)
        self._tell(len(texts) - told, counted.stats.tokens - tokens)
        self._add(tokenize=counted.stats.tokenize_s, run=counted.stats.run_s, pool=counted.stats.pool_s)
        with self._lock:
            self.work.tokens += counted.stats.tokens
            self.work.kept += others
        return counted

    def _write(
        self, number: int, made: Future[Encoded], ledger: Ledger, note: Callable[[Work], object]
    ) -> None:
        shard = made.result()
        self._check()
        begun = time.perf_counter()
        spec = self._plan.spec
        facts = Facts(
            job=self._job,
            shard=number,
            rows=len(shard.ids),
            tokens=int(shard.tokens.sum()),
            truncated=int(shard.truncated.sum()),
            model=spec.model,
            precision=spec.precision,
            role=spec.role,
        )
        self._folder.put_new(part_name(self._plan, number), parquet_of(shard, spec.dtype, facts))
        ledger.finish(number)
        self._add(write=time.perf_counter() - begun)
        with self._lock:
            self.work.shards += 1
            self.work.rows += len(shard.ids)
        note(self.work)

    def _check(self) -> None:
        if self._abort.is_set():
            raise CancelledError

    def _tell(self, rows: int, tokens: int) -> None:
        with self._lock:
            self._progress.encoded(rows, tokens)

    def _add(self, **seconds: float) -> None:
        with self._lock:
            for stage, took in seconds.items():
                self.work.seconds[stage] = round(self.work.seconds.get(stage, 0.0) + took, 3)


def _ended(future: Future[None], abort: threading.Event) -> None:
    """Wait for the end of a shard; signal handlers run meanwhile."""
    while True:
        try:
            return future.result(_ASKED_EVERY_S)
        except StillRunning:
            if future.done():
                raise
            if abort.is_set():
                raise CancelledError from None


def _entries(keys: list[bytes], counted: Counted, kept: set[bytes]) -> dict[bytes, Entry]:
    """Return what is to be kept of what was encoded."""
    rows = zip(keys, counted.vectors, counted.tokens.tolist(), counted.truncated.tolist(), strict=True)
    return {key: Entry(vector, tokens, cut) for key, vector, tokens, cut in rows if key in kept}


def _joined(
    ids: list[str], keys: list[bytes], own: list[int], counted: Counted, found: dict[bytes, Entry]
) -> Encoded:
    """Return a shard of which some rows were encoded and others were known."""
    shape = (len(keys), counted.vectors.shape[1])
    vectors, tokens = np.empty(shape, np.float32), np.empty(shape[0], np.int32)
    truncated = np.empty(shape[0], np.bool_)
    vectors[own], tokens[own], truncated[own] = counted.vectors, counted.tokens, counted.truncated
    for place in set(range(len(keys))) - set(own):
        vectors[place], tokens[place], truncated[place] = found[keys[place]]
    return Encoded(ids, vectors, tokens, truncated)
