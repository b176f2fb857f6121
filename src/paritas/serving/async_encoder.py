"""An encoder for event loops: thousands of calls at a time, gathered into full batches."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from paritas.arguments import seconds, whole_number, wrong
from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.engine.schedule.call import Call, Encoded, EncodedTokens, Window
from paritas.engine.tokenize.inputs import listed
from paritas.engine.tokenize.tokenizer import Text
from paritas.errors import InputError, TooManyTokensError
from paritas.serving.batcher import Batcher
from paritas.serving.priority import called_at, lower_priority
from paritas.serving.request import Request

R = TypeVar("R", Encoded, EncodedTokens)

MAX_QUEUE_TOKENS = 131_072
"""512 texts of 256 tokens."""
NICENESS = 10
"""At twice the load, the slowest hundredth of refusals took 9 ms, and 40 without; throughput was the same."""
# Texts of so many characters together are tokenised in the event loop, in 1 ms or less: to change threads and
# back costs as much as tokenising a query.
_INLINE_CHARACTERS = 4_096
_INLINE_TEXTS = 64
# Texts of a large call that are tokenised in one go, and threads that do so.
_PART = 256
_THREADS = 2
# Characters of a token in most languages; the bound of the queue asks before the tokenizer does.
_CHARACTERS = 4


class AsyncEncoder:
    """An `Encoder` for asyncio: calls from any event loop are gathered into batches of equal length.

    There is no timer. An idle encoder runs a text at once; while it is busy, what waits makes fuller batches.
    Where nothing is padded, vectors are those of `Encoder.encode`, bit for bit. One object serves any number
    of tasks, threads and event loops of one process.

    Args:
        model: as for `Encoder`, or an `Encoder`, which then stays the caller's to close.
        max_queue_tokens: tokens that may wait. A call counts for at most a sixteenth, and eight calls
            that are larger than that may be under way at a time: half of the queue is for short ones. How
            long those wait is this number over the tokens that the machine encodes in a second.
        max_queue_s: how long what waits may take, in seconds, by the rate of what ran before; the lower of
            the two bounds holds.
        max_call_tokens: tokens that a call may have, those of equal texts once; any number where None.
        niceness: by how many steps, 0 to 19, threads that encode are less urgent than the caller's. So the
            event loop gets a CPU at once, and another busy program on the same CPUs too. On Linux alone; an
            `Encoder` that is given keeps its threads as they are.
        **options: of `Encoder`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Bundle | Encoder,
        *,
        max_queue_tokens: int = MAX_QUEUE_TOKENS,
        max_queue_s: float | None = None,
        max_call_tokens: int | None = None,
        niceness: int = NICENESS,
        **options: Any,
    ) -> None:
        """Load the bundle.

        Raises:
            ParitasError: as `Encoder`.
            InputError: a bound is no whole number of 1 or more, or options stand beside an `Encoder`,
                which has its own.
        """
        if max_call_tokens is not None:
            max_call_tokens = whole_number("max_call_tokens", max_call_tokens, 1)
        self._max_call_tokens = max_call_tokens
        if max_queue_s is not None:
            max_queue_s = seconds("max_queue_s", max_queue_s)
        max_queue_tokens = whole_number("max_queue_tokens", max_queue_tokens, 1)
        if isinstance(model, Encoder) and options:
            raise InputError(f"an Encoder has its options already; leave out {', '.join(options)}")
        self._owned = not isinstance(model, Encoder)
        niceness = whole_number("niceness", niceness, 0, most=19)
        if isinstance(model, Encoder):
            encoder = model
        else:
            encoder = called_at(niceness, partial(Encoder, model, **options))
        self.encoder = encoder
        """What encodes."""
        self._batcher = Batcher(self.encoder, max_queue_tokens, max_queue_s)
        # Of its own: the event loop's has others waiting, such as the resolver of names.
        self._tokenizing = ThreadPoolExecutor(
            _THREADS, "paritas-tokenize", initializer=partial(lower_priority, niceness)
        )
        self._process = os.getpid()

    @property
    def dim(self) -> int:
        """The width of the vectors."""
        return self.encoder.dim

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait, as `max_queue_tokens` counts them."""
        return self._batcher.queued_tokens

    @property
    def waiting_tokens(self) -> int:
        """Tokens that wait, of large calls too."""
        return self._batcher.waiting_tokens

    @property
    def calls(self) -> int:
        """Calls under way."""
        return self._batcher.calls

    def on_batch(self, ran: Callable[[int, int], object]) -> None:
        """Have a function called after each batch, with its texts and the tokens of each, in any thread."""
        self._batcher.ran = ran

    @property
    def tokens_per_s(self) -> float:
        """What the encoder does in a second while it is busy; 0 before it did anything."""
        return self._batcher.rate.per_s

    async def encode(self, texts: Iterable[Text], *, role: str) -> Encoded:
        """Return the vectors of texts, and what was done for them.

        A cancelled call drops what waits of it: `asyncio.timeout` gives it a time limit. Texts of more than
        a page are tokenised in a thread of their own. So do not change `texts` meanwhile.

        Args:
            texts: as `Encoder.encode` takes them.
            role: likewise.

        Returns:
            `vectors`, float32, (texts, dim), in the order given, and `stats`, an `EncodeStats`.

        Raises:
            Overloaded: as much waits as may; nothing was taken, and `retry_after_s` says when to come again.
            InputError: a text is not what the role takes (the message gives its place), unknown role.
            TooManyTokensError: more than `max_call_tokens`.
            BundleError: the encoder was closed, or loaded before this process was forked.
            RunError: onnxruntime cannot run a text; the message gives its place.
        """
        return await self._result(self.encoder.call, texts, role, self._max_call_tokens)

    async def encode_tokens(
        self, texts: Iterable[Text], *, role: str, max_tokens: int | None = None
    ) -> EncodedTokens:
        """Return the vector of each token, before pooling, and what was done; see `Encoder.encode_tokens`.

        Args:
            texts: as `encode` takes them.
            role: likewise.
            max_tokens: tokens that this call may have; as many as any call where None.

        Returns:
            `vectors`, for each text float32, (tokens, width), and `stats`.

        Raises:
            InputError: as `encode`, or the model pools the first token alone and computes no other.
            Overloaded, TooManyTokensError, BundleError, RunError: as `encode`.
        """
        bounds = [bound for bound in (max_tokens, self._max_call_tokens) if bound is not None]
        return await self._result(self.encoder.token_call, texts, role, min(bounds, default=None))

    async def _result(
        self,
        begin: Callable[[Sequence[Any], str], Call[R]],
        texts: Iterable[Text],
        role: str,
        most: int | None,
    ) -> R:
        """Take a call of at most so many tokens through the batcher."""
        self._batcher.check_open()
        rule, texts = self.encoder.stages.tokenizer.role(role), listed(texts)
        if not texts:
            return begin(texts, role).finish()
        ended: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        request = Request(_about(texts, rule.max_length), partial(_tell, ended))
        self._batcher.admit(request)
        try:
            if _is_short(texts):
                call = begin(texts, role)
                request.tokenized(call, call.window(slice(None)))
            else:
                request.tokenized(*await self._tokenized_apart(begin, texts, role))
            if most is not None and request.tokens > most:
                message = f"{request.tokens} tokens; expected {most} or fewer a call: send it in parts"
                raise TooManyTokensError(message)
            self._batcher.start(request)
            return await ended
        except BaseException:
            self._batcher.drop(request)
            raise

    async def _tokenized_apart(
        self, begin: Callable[[Sequence[Any], str], Call[R]], texts: Sequence[Any], role: str
    ) -> tuple[Call[R], Window]:
        """Tokenise beside the event loop, in parts, so that calls take turns at it."""
        run = partial(asyncio.get_running_loop().run_in_executor, self._tokenizing)
        call = await run(begin, texts, role)
        parts = [slice(start, start + _PART) for start in range(0, call.distinct, _PART)]
        return call, Window.joined([await run(call.window, part) for part in parts])

    async def aclose(self, timeout_s: float | None = None) -> None:
        """Take no more calls, and let those that were taken end.

        Args:
            timeout_s: seconds to wait at most; calls that have not ended by then raise BundleError.
        """
        if timeout_s is not None and not isinstance(timeout_s, (int, float)):
            raise wrong("timeout_s", timeout_s, "seconds, or None")
        if self._process != os.getpid():
            return  # a forked child has none of the threads, and nothing of it ever ends
        idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._batcher.close(partial(_tell, idle, None))
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(idle, timeout_s)
        finally:
            self._batcher.fail_all(self._batcher.closed())
            self._tokenizing.shutdown(wait=False)
            if self._owned:
                self._batcher.release()
                self.encoder.close()

    async def __aenter__(self) -> AsyncEncoder:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


def _tell(future: asyncio.Future[Any], outcome: Any) -> None:
    """Let a future have its result or error, from any thread."""
    with suppress(RuntimeError):  # its loop was closed, and nobody waits
        future.get_loop().call_soon_threadsafe(_set, future, outcome)


def _set(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():  # cancelled
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _about(texts: Sequence[Any], max_length: int) -> int:
    """Return about how many tokens texts have, checked or not."""
    return sum(min(2 + _characters(text) // _CHARACTERS, max_length) for text in texts)


def _characters(text: Any) -> int:
    return len(text) if isinstance(text, str) else sum(map(len, _parts(text)))


def _is_short(texts: Sequence[Any]) -> bool:
    """Say whether texts, checked or not, are tokenised so soon that the event loop can wait."""
    if len(texts) > _INLINE_TEXTS:
        return False
    return sum(map(_characters, texts)) <= _INLINE_CHARACTERS


def _parts(text: Any) -> Iterable[str]:
    """Return the strings of a pair; none where it is none."""
    return [part for part in text if isinstance(part, str)] if isinstance(text, (tuple, list)) else []
