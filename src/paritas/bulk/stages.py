"""What is done to one shard: read, encode, write. Several may be at different stages at a time."""

from __future__ import annotations

import os
import platform
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from paritas.bulk.cache import Entry, VectorCache, text_key
from paritas.bulk.folders import Folder
from paritas.bulk.ledger import REPEATED, WORKERS, part_name
from paritas.bulk.plan import Plan
from paritas.bulk.progress import Progress
from paritas.bulk.repeated import Repeated
from paritas.bulk.request import Request
from paritas.bulk.shard_reader import ShardReader
from paritas.bulk.shards import Encoded, Facts, parquet_of
from paritas.bulk.sources import Source
from paritas.documents import Document
from paritas.engine.encoder import Encoder
from paritas.engine.runtime.cpus import instructions
from paritas.engine.schedule.call import Counted
from paritas.engine.schedule.job import Job
from paritas.engine.tokenize.tokenizer import Text

_ASKED_EVERY_S = 0.1


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


class Stages:
    """A job's shards in one worker. Its methods may be called by many threads at once."""

    def __init__(
        self,
        encoder: Encoder,
        plan: Plan,
        sources: Sequence[Source],
        folder: Folder,
        request: Request,
        progress: Progress,
    ) -> None:
        """Open the cache, where one is asked for.

        Args:
            encoder: makes the vectors.
            plan: of the job.
            sources: the plan's inputs, in its order.
            folder: where shards go.
            request: names the cache.
            progress: told of what is done.

        Raises:
            InputError: the cache cannot be used.
        """
        self._encoder, self.plan, self.folder = encoder, plan, folder
        self._progress = progress
        self._pair = encoder.stages.tokenizer.role(plan.spec.role).pair
        self._job = plan.digest()
        self._reader = ShardReader(plan, sources)
        self._reading, self._lock = threading.Lock(), threading.Lock()
        self.abort = threading.Event()
        """When set, what is under way is left."""
        host, process = socket.gethostname(), os.getpid()
        self.work = Work(f"{host}-{process}-{os.urandom(3).hex()}", host, process, _now())
        """What was done so far."""
        namespace = f"{plan.spec.bundle} {plan.spec.role} {platform.machine()} {' '.join(instructions())}"
        path = None if request.cache is None else Path(request.cache)
        self._cache = VectorCache(
            path, namespace=namespace, dim=plan.spec.dim, most_bytes=request.cache_bytes
        )
        known = None
        if request.cache is None:
            with suppress(FileNotFoundError):  # then nothing is kept, and texts are encoded once a shard
                known = folder.read(REPEATED)
            known = known or b""
        self._repeated = Repeated(self._cache, known)

    def close(self) -> None:
        """Close what is open."""
        self._reader.close()
        self._cache.close()

    def read(self, number: int) -> list[Document]:
        """Return a shard's documents; errors as `ShardReader.read`."""
        begun = time.perf_counter()
        with self._reading:
            documents = self._reader.read(number)
        self._add(read=time.perf_counter() - begun)
        return documents

    def encode(self, documents: list[Document]) -> Encoded:
        """Return a shard's rows with their vectors.

        Raises:
            CancelledError: `abort` was set.
        """
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
        call = self._encoder.counted_call(texts, self.plan.spec.role)
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

    def write(self, number: int, shard: Encoded) -> None:
        """Write a shard's file, unless another worker has; errors as `Folder.put_new`."""
        self._check()
        begun = time.perf_counter()
        spec = self.plan.spec
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
        self.folder.put_new(part_name(self.plan, number), parquet_of(shard, spec.shard_dtype, facts))
        self._add(write=time.perf_counter() - begun)
        with self._lock:
            self.work.shards += 1
            self.work.rows += len(shard.ids)
            self.work.updated = _now()
            content = msgspec.json.encode(self.work)
        self.folder.put(f"{WORKERS}{self.work.worker}.json", content)

    def _check(self) -> None:
        if self.abort.is_set():
            raise CancelledError

    def _tell(self, rows: int, tokens: int) -> None:
        with self._lock:
            self._progress.encoded(rows, tokens)

    def _add(self, **seconds: float) -> None:
        with self._lock:
            for stage, took in seconds.items():
                self.work.seconds[stage] = round(self.work.seconds.get(stage, 0.0) + took, 3)


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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
