"""Gathering: texts of many requests run in batches of equal length, chosen when a batch begins.

No timer holds a text back. The batcher asks the scheduler for turns, one more than can run at a time. When a
turn comes, it takes what waits by then: one text where nothing else does, a full batch where many wait.

Three rules say what it takes:

- Of requests with no more than a batch left, the first to come begins. So a short one passes a large one
  after each batch of it. Where there is none, the large one with the least left begins. So they end one after
  the other; in turns, all would end last.
- Every fourth batch begins with the request that has waited longest since it had one. So a large request goes
  on, however many short ones come.
- Whatever else waits and is as long fills the batch, in the order of arrival.
"""

from __future__ import annotations

import copy
import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from paritas.engine.encoder import Encoder
from paritas.engine.runtime.session import Session
from paritas.engine.schedule.batching import Batch
from paritas.engine.schedule.job import Job
from paritas.engine.schedule.scheduler import Scheduler
from paritas.engine.tokenize.tokenizer import TokenArrays
from paritas.errors import BundleError, Overloaded, RunError
from paritas.serving.rate import Rate
from paritas.serving.request import Key, Outcome, Request

# Every so many batches the request that waited longest comes first.
_OLDEST_EVERY = 4
# A request counts for at most this share of the queue: a large one does not shut short ones out.
_MOST_OF_QUEUE = 16
# Of those that are larger than that so many at a time: half of the queue is for short ones.
_MOST_LARGE = 8
_SOON_S = 0.1
_LATE_S = 60.0


def _own(error: BaseException) -> BaseException:
    """Return an error that one caller alone gets: each adds its frames to the traceback."""
    try:
        return copy.copy(error)
    except Exception:  # noqa: BLE001 - it cannot be copied
        return error


class _Turn:
    """What the scheduler is asked for; it becomes a batch when it begins."""

    cells = 0


class Batcher:
    """Gathers requests of one encoder. May be used by many threads and event loops at once."""

    def __init__(self, encoder: Encoder, max_queue_tokens: int, max_queue_s: float | None = None) -> None:
        """Take the encoder.

        Args:
            encoder: where batches run.
            max_queue_tokens: tokens that may wait; a request counts for at most a sixteenth of them.
            max_queue_s: how long what waits may take, in seconds, by the rate of what ran before.
        """
        self.encoder, self._max_queue_tokens, self._max_queue_s = encoder, max_queue_tokens, max_queue_s
        self.rate = Rate()
        # Held here: what was taken in ends, though the encoder be closed.
        self._scheduler: Scheduler | None = encoder.scheduler()
        self._max_batch_tokens = encoder.settings.max_batch_tokens
        # One more than can run at a time: where a turn waits, the scheduler lets batches run side by side.
        self._most_turns = encoder.settings.workers + 1
        self._least_share = self._share(min(max_queue_tokens, self._max_batch_tokens))
        self._lock = threading.Lock()
        self._arrivals = itertools.count(1)
        self._picks = 0
        self._turns = 0
        self._waiting: dict[int, Request] = {}
        """Those with texts that nobody has taken, by arrival; first the one that was served longest ago."""
        self._ranked: list[tuple[int, int]] = []
        """A heap of (rank, arrival); entries of another rank than the request has by now are stale."""
        self._by_key: dict[Key, dict[Request, None]] = {}
        """The waiting requests that have texts of one length, in the order of arrival."""
        self.waiting_tokens = 0
        """Tokens that wait, of large requests too."""
        self._asked = 0
        """Of them, those that are tokenised by now."""
        self._requests: set[Request] = set()
        """Those that were taken in and have not ended."""
        self._sizeable: set[Request] = set()
        """Of them, those that may be more than their share of the queue, which depends on the rate."""
        self._small_tokens = 0
        """Tokens that wait of all others."""
        self.ran: Callable[[int, int], object] = lambda _texts, _tokens: None
        """Called after each batch with its texts and the tokens of each, in any thread."""
        self._closing: list[Callable[[], object]] = []
        """Called when nothing is under way; where there is one, nothing is taken in."""

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait, as the bound counts them."""
        with self._lock:
            return self._queued(self._share(self._bound()))

    @property
    def calls(self) -> int:
        """Calls that were taken in and have not ended."""
        return len(self._requests)

    def check_open(self) -> None:
        """Raise a BundleError where it was closed, or the process was forked since."""
        if self._closing:
            raise self.closed()
        self.encoder.scheduler()

    def admit(self, request: Request) -> None:
        """Take a request in before it is tokenised, whole or not at all.

        Raises:
            Overloaded: it would be over the bound, or as many large ones are under way as may.
            BundleError: closed, or the encoder was loaded before this process was forked.
        """
        with self._lock:
            self.check_open()
            bound = self._bound()
            share = self._share(bound)
            if request.tokens > share:
                large = [each for each in self._sizeable if each.tokens > share]
                if len(large) >= _MOST_LARGE:
                    tokens = min(each.left for each in large)
                    self._refuse(f"{len(large)} large calls are under way, as many as may", tokens)
            # Where all that waits is below the bound, no request is looked at by itself.
            if self.waiting_tokens and self.waiting_tokens + request.tokens > bound:
                queued = self._queued(share)
                if queued + min(request.tokens, share) > bound:
                    self._refuse(f"{queued} tokens wait, and at most {bound} may", queued)
            self._requests.add(request)
            self._count(request)

    def _bound(self) -> int:
        """Return how many tokens may wait by now; one batch always may."""
        if self._max_queue_s is None or not self.rate.per_s:
            return self._max_queue_tokens
        in_time = int(self._max_queue_s * self.rate.per_s)
        return min(self._max_queue_tokens, max(in_time, self._max_batch_tokens))

    def _share(self, bound: int) -> int:
        """Return for how many tokens a request counts at most."""
        return max(1, bound // _MOST_OF_QUEUE)

    def _queued(self, share: int) -> int:
        # By the bound of now: it may have been wider when they came, and would be full of large ones alone.
        return self._small_tokens + sum(min(request.left, share) for request in self._sizeable)

    def _refuse(self, what: str, tokens: int) -> NoReturn:
        """Raise an Overloaded that says how long so many tokens take."""
        rate = self.rate.per_s
        seconds = min(max(tokens / rate if rate else 1.0, _SOON_S), _LATE_S)
        raise Overloaded(f"{what}; try again in {seconds:.1f} s", seconds)

    def start(self, request: Request) -> None:
        """Let a request that is tokenised by now have its turns; one that has ended since is left alone."""
        with self._lock:
            if request not in self._requests:
                return
            request.arrival = next(self._arrivals)
            self._count(request)
            self._waiting[request.arrival] = request
            heapq.heappush(self._ranked, (self._rank(request), request.arrival))
            for length in request.waiting:
                self._by_key.setdefault(request.key(length), {})[request] = None
            if not self._turns:
                self.rate.begin()
        self._ask()

    def drop(self, request: Request) -> None:
        """Run no more of a request's texts, for whom nobody waits any longer."""
        if self._remove(request):
            self._tell_if_idle()

    def release(self) -> None:
        """Let the encoder's threads and memory go; nothing may be under way."""
        self._scheduler = None

    def close(self, idle: Callable[[], object]) -> None:
        """Take nothing in any longer, and call `idle` once nothing is under way, from any thread."""
        with self._lock:
            self._closing.append(idle)
        self._tell_if_idle()

    def closed(self) -> BundleError:
        """Return the error of a call after `close`."""
        return BundleError(f"the encoder of {self.encoder.bundle.directory} was closed")

    def fail_all(self, error: BaseException) -> None:
        """End everything that is under way with an error."""
        with self._lock:
            requests = list(self._requests)
        for request in requests:
            self._end(request, error)

    def _tell_if_idle(self) -> None:
        with self._lock:
            tell = [] if self._requests else list(self._closing)
        for idle in tell:
            idle()

    def _ask(self) -> None:
        """Ask for as many turns as there are batches, and can be of use."""
        with self._lock:
            full = self._asked // self._max_batch_tokens
            wanted = min(self._most_turns, max(len(self._by_key), full)) - self._turns
            self._turns += max(0, wanted)
        scheduler = self._scheduler
        for _ in range(wanted if scheduler is not None else 0):
            assert scheduler is not None
            job: Job[None] = Job([_Turn()], self._run, lambda: None)
            job.add_done_callback(self._turn_ended)
            try:
                scheduler.start(job)
            except BundleError:  # the interpreter is ending, and the job has ended
                return

    def _turn_ended(self, job: Job[None]) -> None:
        with self._lock:
            self._turns -= 1
            again = bool(self._waiting)
        try:
            job.result()
        except BaseException:  # noqa: BLE001 - cancelled by the scheduler, which takes no more
            self.fail_all(BundleError("nothing can be encoded any longer: the interpreter is ending"))
            return
        if again:
            self._ask()

    def _run(self, session: Session, turn: _Turn) -> None:
        """Make a batch of what waits, and run it."""
        try:
            length, group = self._take()
        except BaseException as error:  # noqa: BLE001 - a fault of ours, which nobody may wait for
            self.fail_all(error)
            return
        if not group:
            return
        turn.cells = length * sum(len(rows) for _, rows in group)
        try:
            self._encode(session, length, group)
        except BaseException as error:  # noqa: BLE001 - the callers' to see, and not the thread's
            for request, _ in group:
                self._end(request, _own(error))
        self.ran(turn.cells // max(length, 1), length)

    def _take(self) -> tuple[int, list[tuple[Request, NDArray[np.int64]]]]:
        """Take the next batch: its tokens a text, and whose rows it has."""
        with self._lock:
            first = self._next()
            if first is None:
                return 0, []
            length = next(iter(first.waiting))
            key = first.key(length)
            room = max(1, self._max_batch_tokens // max(length, 1))
            others = (request for request in self._by_key[key] if request is not first)
            group = []
            for request in itertools.chain([first], list(itertools.islice(others, room))):
                rows = request.take(length, room)
                group.append((request, rows))
                self._taken(request, key)
                room -= len(rows)
                if not room:
                    break
            return length, group

    def _next(self) -> Request | None:
        """Return the request that begins the next batch."""
        self._picks += 1
        if self._picks % _OLDEST_EVERY == 0:
            return next(iter(self._waiting.values()), None)
        while self._ranked:
            if self._is_fresh(self._ranked[0]):
                return self._waiting[self._ranked[0][1]]
            heapq.heappop(self._ranked)
        return None

    def _is_fresh(self, entry: tuple[int, int]) -> bool:
        rank, arrival = entry
        return arrival in self._waiting and self._rank(self._waiting[arrival]) == rank

    def _rank(self, request: Request) -> int:
        """Return by what the next batch's first request is chosen, the lowest.

        All short requests are alike. By what they have left, the longest texts would wait for all others: 64
        clients of paragraphs had a p99 of 4.4 s so, and 2.1 in the order of arrival.
        """
        return request.left if request.left > self._max_batch_tokens else 0

    def _drop_stale(self) -> None:
        """Keep no more stale entries than fresh ones."""
        if len(self._ranked) > 2 * len(self._waiting):
            self._ranked = list(filter(self._is_fresh, self._ranked))
            heapq.heapify(self._ranked)

    def _taken(self, request: Request, key: Key) -> None:
        """Note that rows of a request were taken."""
        if key[0] not in request.waiting:
            self._forget(request, key)
        del self._waiting[request.arrival]
        before = self._rank(request)
        self._count(request)
        if request.waiting:
            self._waiting[request.arrival] = request  # at the end: it was served just now
            if self._rank(request) != before:
                heapq.heappush(self._ranked, (self._rank(request), request.arrival))
        self._drop_stale()

    def _count(self, request: Request) -> None:
        """Count what waits of a request."""
        is_here = request in self._requests
        left = request.tokens - request.served if is_here else 0
        asked = left if request.arrival else 0
        is_sizeable = is_here and request.tokens > self._least_share
        (self._sizeable.add if is_sizeable else self._sizeable.discard)(request)
        small = 0 if is_sizeable else left
        self.waiting_tokens += left - request.left
        self._asked += asked - request.asked
        self._small_tokens += small - request.small
        request.left, request.asked, request.small = left, asked, small

    def _forget(self, request: Request, key: Key) -> None:
        alike = self._by_key[key]
        del alike[request]
        if not alike:
            del self._by_key[key]

    def _remove(self, request: Request) -> bool:
        """Take a request out; say whether it had not ended before."""
        with self._lock:
            if request not in self._requests:
                return False
            self._requests.remove(request)
            if self._waiting.pop(request.arrival, None) is not None:
                for length in request.waiting:
                    self._forget(request, request.key(length))
                self._drop_stale()
            self._count(request)
            return True

    def _end(self, request: Request, outcome: Outcome) -> None:
        if self._remove(request):
            request.end(outcome)
            self._tell_if_idle()

    def _encode(self, session: Session, length: int, group: list[tuple[Request, NDArray[np.int64]]]) -> None:
        begun = time.perf_counter()
        parts = [request.window.tokens.arrays(rows, length) for request, rows in group]
        tokens = parts[0] if len(parts) == 1 else TokenArrays(*map(np.concatenate, zip(*parts, strict=True)))
        stages = self.encoder.stages
        try:
            vectors, run_s = stages.run(tokens, group[0][0].window.prompt_tokens, session)
        except RunError:
            self._encode_apart(session, length, group)
            return
        finally:
            # Before anybody is told: whoever has vectors finds a rate.
            self.rate.add(length * sum(len(rows) for _, rows in group))
        pool_s = time.perf_counter() - begun - run_s
        start = 0
        for request, rows in group:
            share = len(rows) / len(vectors)
            own = vectors[start : start + len(rows)]
            self._store(request, Batch(rows, length), own, run_s * share, pool_s * share)
            start += len(rows)

    def _encode_apart(
        self, session: Session, length: int, group: list[tuple[Request, NDArray[np.int64]]]
    ) -> None:
        """Run each request's texts by themselves: only the one that cannot run fails, and names its text."""
        for request, rows in group:
            batch, begun = Batch(rows, length), time.perf_counter()
            try:
                vectors, run_s = self.encoder.stages.vectors(request.window, session, batch)
            except RunError as error:
                self._end(request, error)
                continue
            self._store(request, batch, vectors, run_s, time.perf_counter() - begun - run_s)

    def _store(
        self, request: Request, batch: Batch, vectors: NDArray[np.float32], run_s: float, pool_s: float
    ) -> None:
        request.call.store(request.window, batch, vectors, run_s=run_s, pool_s=pool_s)
        with self._lock:  # batches of one request may end in two threads at once
            request.unfinished -= len(batch.rows)
            last = not request.unfinished
        if last:
            self._end(request, request.call.finish())
