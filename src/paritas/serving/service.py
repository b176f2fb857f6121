"""What every dialect asks: models by name, their vectors within the limits, and whether all is well."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

from litestar import Request
from msgspec import Struct

from paritas.engine.index import Hit
from paritas.engine.pool.head import Vectors, cut
from paritas.engine.schedule.call import Encoded, EncodedTokens
from paritas.engine.schedule.stats import EncodeStats
from paritas.errors import BundleError, ParitasError, VectorIndexError
from paritas.serving.async_encoder import AsyncEncoder
from paritas.serving.metrics import Metrics
from paritas.serving.refusals import Refused, gone
from paritas.serving.searching import Searcher
from paritas.serving.token_input import Decode
from paritas.serving.tracing import note

_log = logging.getLogger("paritas")

MOST_HITS = 1000
"""Documents that a query may ask for."""
MOST_ANSWERS = 10_000
"""Documents that a request may ask for."""

T = TypeVar("T")
R = TypeVar("R", Encoded, EncodedTokens)

MOST_TOKEN_VECTORS = 8192
"""Tokens that a request for their vectors may have: 70 MB of JSON at 768 channels."""

Load = Callable[[], AsyncEncoder]

Truncation = Literal["left", "right", "error"] | None
"""Where a request wants long texts cut, or not at all; None for where the model cuts them."""


class Limits(Struct, frozen=True, kw_only=True):
    """What one request may be."""

    max_body_bytes: int = 8 * 2**20
    max_texts: int = 2048
    timeout_s: float = 60.0
    """From the request's body to its vectors."""


class Embedded(NamedTuple):
    """What a request gets."""

    model: str
    """The model's name, without a role."""
    vectors: Vectors
    """float32, (texts, dim)"""
    stats: EncodeStats


class Found(NamedTuple):
    """What a search gets."""

    queries: Embedded
    answers: list[list[Hit]]
    """Of each query, the nearest first."""
    search_s: float
    """What the index took, without the vectors."""


class Service:
    """The models that are served. It answers while they are loaded, and says which are ready."""

    def __init__(
        self,
        models: Mapping[str, Load],
        limits: Limits,
        *,
        searcher: Searcher | None = None,
        decode: Decode | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """Take the models; `load` loads them.

        Args:
            models: by name, what loads each; the first is the one that is meant where a request names none.
            limits: of a request.
            searcher: what is searched by the vectors of one of them, if anything is.
            decode: what turns token ids into texts; where None they are refused.
            metrics: new ones where None.
        """
        self._loads, self.limits = dict(models), limits
        self.searcher, self.decode = searcher, decode
        self.metrics = metrics if metrics is not None else Metrics()
        self.draining = False
        """No new work should be sent here: the server is about to end."""
        self.connections: Callable[[], int] = lambda: 0
        """Those that are open, and how many may be."""
        self.max_connections = 0
        self._encoders: dict[str, AsyncEncoder] = {}
        self._faults: dict[str, str] = {}

    @property
    def names(self) -> list[str]:
        """The models' names."""
        return list(self._loads)

    async def load(self) -> None:
        """Load all models, one after the other; what fails stays a reason for not being ready."""
        for name, load in self._loads.items():
            try:
                encoder = await asyncio.to_thread(load)
            except (ParitasError, OSError, MemoryError) as error:
                _log.error("%s: %s", name, error)
                self._faults[name] = str(error)
                continue
            except Exception:  # noqa: BLE001 - of whatever kind
                # Without this the task would end unseen, and the model be loaded for ever.
                _log.exception("%s could not be loaded", name)
                self._faults[name] = "cannot be loaded; the server's log says why"
                continue
            if self.searcher is not None and self.searcher.model == name:
                self._check_index(self.searcher, encoder)
            self._encoders[name] = encoder
            self.metrics.watch(name, encoder)
            _log.info("%s: ready", name)

    def _check_index(self, searcher: Searcher, encoder: AsyncEncoder) -> None:
        try:
            searcher.check(encoder)
        except VectorIndexError as error:
            _log.error("the index: %s", error)
            self._faults["index"] = str(error)

    def unready(self) -> dict[str, str]:
        """Return why the service is not ready, by what; empty where it is."""
        if self.draining:
            return {"server": "is about to end"}
        loading = {name: "is being loaded" for name in self._loads if name not in self._encoders}
        return loading | self._faults

    def find(self, model: str) -> tuple[str, str, AsyncEncoder]:
        """Return a model's name, the role asked for ("" for none) and its encoder.

        Args:
            model: a name, or NAME:ROLE; "" for the first model.

        Raises:
            Refused: no such model, or not loaded yet.
        """
        if self.connections() > self.max_connections:
            message = f"more than {self.max_connections} connections are open; try again soon"
            raise Refused("not_ready", message, retry_after_s=1)
        name, role = model or self.names[0], ""
        if name not in self._loads:
            name, _, role = name.rpartition(":")
        if name not in self._loads:
            known = ", ".join(self._loads)
            raise Refused(
                "model_not_found", f"unknown model {model[:80]!r}; this server has {known}", param="model"
            )
        if name not in self._encoders:
            reason = self._faults.get(name, "is being loaded")
            raise Refused("not_ready", f"{name}: {reason}", param="model", retry_after_s=5)
        return name, role, self._encoders[name]

    async def embed(
        self,
        request: Request[Any, Any, Any],
        model: str,
        texts: Sequence[Any],
        *,
        role: str | None = None,
        dimensions: int | None = None,
        truncation: Truncation = None,
    ) -> Embedded:
        """Return the vectors of a request's texts; where its client goes away, its work is dropped.

        Args:
            request: whose client is watched.
            model: as for `find`.
            texts: strings, or (title, text) where the role takes pairs.
            role: of the model; where None that of the model's name, else the default one.
            dimensions: channels to keep, scaled to unit length again where the model normalises.
            truncation: what is done with texts that are too long.

        Raises:
            Refused: no such model, over a limit, or its client is gone.
            ParitasError: as `AsyncEncoder.encode`.
        """
        name, _, encoder = self.find(model)
        if dimensions is not None and not 1 <= dimensions <= encoder.dim:
            message = f"dimensions is {dimensions}; expected 1 to {encoder.dim}"
            raise Refused("bad_request", message, param="dimensions")
        vectors, stats = await self._encoded(request, model, texts, encoder.encode, role, truncation)
        if dimensions is not None:
            vectors = cut(vectors, dimensions, normalized=encoder.encoder.contract.normalize)
        return Embedded(name, vectors, stats)

    async def embed_tokens(
        self,
        request: Request[Any, Any, Any],
        model: str,
        texts: Sequence[Any],
        *,
        role: str | None = None,
        truncation: Truncation = None,
    ) -> EncodedTokens:
        """Return the vectors of each token, before pooling; arguments and errors as `embed`.

        Raises:
            InputError: the model computes the vector of the first token alone.
        """
        _, _, encoder = self.find(model)
        encode = partial(encoder.encode_tokens, max_tokens=MOST_TOKEN_VECTORS)
        return await self._encoded(request, model, texts, encode, role, truncation)

    async def _encoded(
        self,
        request: Request[Any, Any, Any],
        model: str,
        texts: Sequence[Any],
        encode: Callable[..., Awaitable[R]],
        role: str | None,
        truncation: Truncation,
    ) -> R:
        """Check what was asked for, and return what the encoder makes of it."""
        name, named_role, encoder = self.find(model)
        self.check_count(texts)
        if role is not None and named_role not in ("", role):
            raise Refused("bad_request", f"the model's name says {named_role!r}, role {role!r}", param="role")
        rule = self.role(name, named_role or role)
        contract = encoder.encoder.contract
        if truncation not in (None, "error", contract.truncation_side):
            side = contract.truncation_side
            message = f"{name} cuts texts on the {side}, not on the {truncation}; leave that out"
            raise Refused("bad_request", message, param="truncate")
        self.metrics.begun(len(texts))
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                encoded = await _while_connected(request, encode(texts, role=rule))
        except TimeoutError:
            message = f"no vectors within {self.limits.timeout_s:g} s; send fewer texts, or later"
            raise Refused("timeout", message) from None
        except BundleError:
            if not self.draining:
                raise
            raise Refused("not_ready", "the server is about to end, and this took too long") from None
        stats = encoded.stats
        self.metrics.encoded(name, stats)
        note(name, stats)
        if truncation == "error" and stats.truncated:
            most = contract.roles[rule].max_length
            message = f"{stats.truncated} texts have more than {most} tokens; shorten them, or have them cut"
            raise Refused("too_large", message, param="input")
        return encoded

    def check_count(self, texts: Sequence[Any]) -> None:
        """Raise a Refused where there are no texts, or more than a request may have."""
        if not texts:
            raise Refused("bad_request", "there are no texts; expected one or more", param="input")
        if len(texts) > self.limits.max_texts:
            message = f"{len(texts)} texts; expected {self.limits.max_texts} or fewer a request"
            raise Refused("too_large", message, param="input")

    def role(self, model: str, role: str | None) -> str:
        """Return a role of a model, the default one where it is not given.

        Raises:
            Refused: the model has no such role.
        """
        _, _, encoder = self.find(model)
        roles = encoder.encoder.contract.roles
        role = default_role(encoder) if role is None else role
        if role not in roles:
            raise Refused(
                "bad_request", f"{model} has no role {role!r}, but {', '.join(roles)}", param="role"
            )
        return role

    async def search(
        self, request: Request[Any, Any, Any], queries: Sequence[str], k: int, *, role: str | None = None
    ) -> Found:
        """Return the k nearest documents of each query.

        Args:
            request: whose client is watched.
            queries: texts.
            k: how many documents; fewer come back where the index holds fewer.
            role: of the model; where None "query", or the default one where the model has no such.

        Raises:
            Refused: no index, k out of its range, or as `embed`.
            VectorIndexError: the index is damaged.
        """
        if self.searcher is None:
            message = "this server has no index; start it with: paritas serve MODEL --index INDEX"
            raise Refused("not_found", message)
        if not 1 <= k <= MOST_HITS:
            raise Refused("bad_request", f"k is {k}; expected 1 to {MOST_HITS}", param="k")
        if len(queries) * k > MOST_ANSWERS:
            # Each may be a page of text: all queries' would be an answer of gigabytes.
            message = (
                f"{len(queries)} queries with k {k}; expected {MOST_ANSWERS} documents or fewer a request"
            )
            raise Refused("too_large", message, param="queries")
        name, _, encoder = self.find(self.searcher.model)
        if "index" in self._faults:
            raise Refused("not_ready", f"the index: {self._faults['index']}")
        if role is None and "query" in encoder.encoder.contract.roles:
            role = "query"
        embedded = await self.embed(
            request, name, queries, role=role, dimensions=self.searcher.index.info.dim
        )
        begun = time.perf_counter()
        answers = await self.searcher.nearest(embedded.vectors, k)
        return Found(embedded, answers, time.perf_counter() - begun)

    async def close(self, timeout_s: float) -> None:
        """Let what was taken end, for so many seconds at most."""
        await asyncio.gather(*(encoder.aclose(timeout_s) for encoder in self._encoders.values()))


def default_role(encoder: AsyncEncoder) -> str:
    """Return the role of texts that come without one: "passage", else the model's first."""
    roles = encoder.encoder.contract.roles
    return "passage" if "passage" in roles else next(iter(roles))


async def _while_connected(request: Request[Any, Any, Any], call: Awaitable[T]) -> T:
    """Await a call, which is cancelled when the request's client goes away.

    Raises:
        Refused: it went away; nobody reads the answer.
    """
    task = asyncio.current_task()
    assert task is not None
    has_gone = False

    async def watch() -> None:
        nonlocal has_gone
        await _disconnected(request)
        has_gone = True
        task.cancel()

    watching = asyncio.ensure_future(watch())
    try:
        return await call
    except asyncio.CancelledError:
        if has_gone and not task.uncancel():  # and nobody else cancelled it
            raise gone() from None
        raise
    finally:
        watching.cancel()


async def _disconnected(request: Request[Any, Any, Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
