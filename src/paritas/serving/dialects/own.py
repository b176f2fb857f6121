"""paritas's own dialect: `POST /v1/encode`, with roles and (title, text) pairs, and statistics."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, Router, post
from litestar.params import JSONBody
from msgspec import Struct

from paritas.serving.answers import Encoding, answer, described, truncation, written
from paritas.serving.refusals import refused
from paritas.serving.service import Service


class EncodeRequest(Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/encode`."""

    texts: list[str | tuple[str, str]]
    """Texts, or for a role with pairs [title, text]."""
    role: str
    """A role of the model, such as query or passage."""
    model: str = ""
    """The first model where it is empty."""
    dimensions: int | None = None
    """Channels to keep of each vector."""
    truncate: bool = True
    """False: texts that are too long are an error."""
    encoding_format: Encoding = "float"
    """Numbers, or float32 in little-endian order."""


class Stats(Struct):
    """What was done for a request."""

    texts: int
    tokens: int
    """Of equal texts once."""
    truncated: int
    """Texts that were cut to the role's length."""
    total_s: float


class Encoded(Struct):
    """The answer of `POST /v1/encode`."""

    model: str
    role: str
    dim: int
    vectors: list[list[float] | str]
    """In the order of the texts; base64 where that was asked for."""
    stats: Stats


class Problem(Struct):
    """A refusal, as RFC 9457 has it."""

    type: str
    title: str
    """What programs tell it by."""
    status: int
    detail: str
    """What was wrong, what was expected and what to send."""
    param: str | None
    """The field at fault."""


def router(service: Service) -> Router:
    """Return the dialect's routes."""

    @post("/v1/encode", status_code=200, operation_id="encode", responses=described(Encoded, Problem))
    async def encode(data: JSONBody[EncodeRequest], request: Request[Any, Any, Any]) -> Response[bytes]:
        """Return the vectors of texts under a role, and what was done for them."""
        got = await service.embed(
            request,
            data.model,
            data.texts,
            role=data.role,
            dimensions=data.dimensions,
            truncation=None if data.truncate else "error",
        )
        return answer(
            {
                "model": got.model,
                "role": data.role,
                "dim": got.vectors.shape[1],
                "vectors": written(got.vectors, data.encoding_format),
                "stats": {
                    "texts": got.stats.texts,
                    "tokens": got.stats.tokens,
                    "truncated": got.stats.truncated,
                    "total_s": round(got.stats.total_s, 6),
                },
            },
            headers=truncation(got.stats),
        )

    return Router("/", route_handlers=[encode], exception_handlers={Exception: told}, tags=["paritas"])


def told(_request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Return an error as a problem (RFC 9457)."""
    refusal = refused(error)
    document = {
        "type": "about:blank",
        "title": refusal.kind,
        "status": refusal.status,
        "detail": refusal.message,
        "param": refusal.param,
    }
    return answer(
        document, status=refusal.status, headers=refusal.headers, media_type="application/problem+json"
    )
