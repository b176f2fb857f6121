"""Shards on their way: read, encoded and written side by side, with few of them in between.

Two shards are encoded at a time. While the last batches of one run, the first texts of the next are
tokenised, and no CPU waits for the reader or the writer.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning

from paritas.bulk.ledger import Ledger
from paritas.bulk.plan import SHARD_BYTES
from paritas.bulk.shards import Encoded
from paritas.bulk.stages import Stages
from paritas.documents import Document

_ASKED_EVERY_S = 0.1
# A row's id, text and flags as Python holds them, beside the text's own bytes; and its vectors: those of the
# engine, those in the file's type, and the file.
_ROW_BYTES, _VECTORS = 400, 3


def memory_bytes(dim: int, shard_rows: int, at_once: int) -> int:
    """Return what the shards under way take at most, rows of more than `SHARD_BYTES` aside.

    Args:
        dim: of the vectors.
        shard_rows: rows of a shard.
        at_once: shards that are encoded side by side.
    """
    shard = shard_rows * (_VECTORS * 4 * dim + _ROW_BYTES) + 3 * SHARD_BYTES
    return (at_once + 1) * shard


def run_shards(stages: Stages, ledger: Ledger, stop: threading.Event, *, at_once: int) -> None:
    """Do the shards that a ledger gives.

    Args:
        stages: does them.
        ledger: gives them.
        stop: when set, no other shard is begun, and those under way are finished.
        at_once: shards that are encoded side by side.

    Raises:
        CancelledError: `stages.abort` was set.
        JobError, OSError: an input changed, or a shard cannot be written.
    """
    under_way: deque[Future[None]] = deque()
    reading, writing = ThreadPoolExecutor(1, "paritas-read"), ThreadPoolExecutor(1, "paritas-write")
    encoding = ThreadPoolExecutor(at_once, "paritas-encode")

    def encode(read: Future[list[Document]]) -> Encoded:
        return stages.encode(read.result())

    def write(number: int, made: Future[Encoded]) -> None:
        stages.write(number, made.result())
        ledger.finish(number)

    try:
        for number in ledger.take(stop):
            read = reading.submit(stages.read, number)
            made = encoding.submit(encode, read)
            under_way.append(writing.submit(write, number, made))
            del read, made  # a shard's rows are held by whoever is at them
            while len(under_way) > at_once:
                _ended(under_way.popleft(), stages.abort)
        while under_way:
            _ended(under_way.popleft(), stages.abort)
    except BaseException:
        stages.abort.set()
        raise
    finally:
        for pool in (reading, encoding, writing):
            pool.shutdown(cancel_futures=stages.abort.is_set())
        ledger.give_up()


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
