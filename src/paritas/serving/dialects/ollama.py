"""Ollama's dialect: `POST /api/embed`, and `GET /api/tags` for clients that list models."""

from __future__ import annotations

import time
from typing import Any

from litestar import Request, Response, Router, get, post
from litestar.params import JSONBody
from msgspec import Struct

from paritas.serving.answers import answer, described, truncation, written
from paritas.serving.refusals import refused
from paritas.serving.service import Service

# What Ollama calls a model that was named without a tag.
_TAG = ":latest"


class OllamaRequest(Struct):
    """The body of `POST /api/embed`."""

    model: str
    """One of `GET /api/tags`, perhaps with `:ROLE` behind it."""
    input: str | list[str]
    """A text, or several."""
    truncate: bool | None = None
    """False: texts that are too long are an error."""
    dimensions: int | None = None
    """Channels to keep of each vector."""


class OllamaEmbeddings(Struct):
    """The answer of `POST /api/embed`."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    """Nanoseconds."""
    load_duration: int
    """Nanoseconds; always 0, since models are loaded before."""
    prompt_eval_count: int
    """Tokens that were encoded, those of equal texts once."""


class Tag(Struct):
    """A model that is served."""

    name: str
    model: str
    details: dict[str, str]


class Tags(Struct):
    """The answer of `GET /api/tags`."""

    models: list[Tag]


class OllamaError(Struct):
    """A refusal in Ollama's form."""

    error: str


def router(service: Service) -> Router:
    """Return the dialect's routes."""

    @post(
        "/api/embed",
        status_code=200,
        operation_id="ollamaEmbed",
        responses=described(OllamaEmbeddings, OllamaError),
    )
    async def embed(data: JSONBody[OllamaRequest], request: Request[Any, Any, Any]) -> Response[bytes]:
        """Return the vectors of texts."""
        begun = time.perf_counter_ns()
        texts = [data.input] if isinstance(data.input, str) else data.input
        got = await service.embed(
            request,
            data.model.removesuffix(_TAG),
            texts,
            dimensions=data.dimensions,
            truncation="error" if data.truncate is False else None,
        )
        return answer(
            {
                "model": data.model,
                "embeddings": written(got.vectors, "float"),
                "total_duration": time.perf_counter_ns() - begun,
                "load_duration": 0,
                "prompt_eval_count": got.stats.tokens,
            },
            headers=truncation(got.stats),
        )

    @get("/api/tags", operation_id="ollamaTags", responses=described(Tags, OllamaError, [401]))
    async def tags() -> Response[bytes]:
        """Return the models that are served."""
        return answer({"models": [{"name": name, "model": name, "details": {}} for name in service.names]})

    return Router("/", route_handlers=[embed, tags], exception_handlers={Exception: told}, tags=["Ollama"])


def told(_request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Return an error in Ollama's form."""
    refusal = refused(error)
    return answer({"error": refusal.message}, status=refusal.status, headers=refusal.headers)
