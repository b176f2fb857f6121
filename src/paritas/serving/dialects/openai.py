"""OpenAI's dialect: `POST /v1/embeddings` and `GET /v1/models`.

A model's name may end in `:ROLE`, for clients that can set nothing but the name. The field `role` does the
same.
"""

from __future__ import annotations

from typing import Any, Literal

from litestar import Request, Response, Router, get, post
from litestar.params import FromPath, JSONBody
from msgspec import Struct

from paritas.serving.answers import Encoding, answer, described, truncation, written
from paritas.serving.refusals import Kind, Refused, refused
from paritas.serving.service import Service
from paritas.serving.token_input import as_texts

_TYPES: dict[Kind, str] = {"overloaded": "rate_limit_error", "timeout": "timeout", "internal": "server_error"}
_CODES: dict[Kind, str] = {
    "unauthorized": "invalid_api_key",
    "model_not_found": "model_not_found",
    "overloaded": "rate_limit_exceeded",
    "not_ready": "model_not_ready",
}


class EmbeddingRequest(Struct):
    """The body of `POST /v1/embeddings`."""

    input: str | list[str | int | list[int]]
    """A text, or several; token ids where the server takes them."""
    model: str = ""
    """One of `GET /v1/models`, perhaps with `:ROLE` behind it; the first where it is empty."""
    encoding_format: Encoding = "float"
    """Numbers, or float32 in little-endian order."""
    dimensions: int | None = None
    """Channels to keep of each vector."""
    user: str | None = None
    """Taken and not used."""
    role: str | None = None
    """paritas's own: a role of the model, such as query or passage."""
    truncate: bool = True
    """paritas's own. False: texts that are too long are an error."""


class Embedding(Struct):
    """The vector of a text."""

    object: Literal["embedding"]
    index: int
    """The text's place in the request."""
    embedding: list[float] | str
    """Numbers, or base64 where that was asked for."""


class Usage(Struct):
    """Tokens that were encoded, those of equal texts once."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Struct):
    """The answer of `POST /v1/embeddings`."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Model(Struct):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Struct):
    """The answer of `GET /v1/models`."""

    object: Literal["list"]
    data: list[Model]


class OpenAIErrorDetail(Struct):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    """The field at fault."""
    code: str | None


class OpenAIError(Struct):
    """A refusal in OpenAI's form."""

    error: OpenAIErrorDetail


def router(service: Service) -> Router:
    """Return the dialect's routes."""

    @post(
        "/v1/embeddings",
        status_code=200,
        operation_id="createEmbedding",
        responses=described(Embeddings, OpenAIError),
    )
    async def embeddings(
        data: JSONBody[EmbeddingRequest], request: Request[Any, Any, Any]
    ) -> Response[bytes]:
        """Return the vectors of texts."""
        tokenizer = service.find(data.model)[2].encoder.stages.tokenizer
        texts = as_texts(data.input, service.decode, tokenizer, "input")
        got = await service.embed(
            request,
            data.model,
            texts,
            role=data.role,
            dimensions=data.dimensions,
            truncation=None if data.truncate else "error",
        )
        return answer(
            {
                "object": "list",
                "data": [
                    {"object": "embedding", "index": index, "embedding": vector}
                    for index, vector in enumerate(written(got.vectors, data.encoding_format))
                ],
                "model": data.model or got.model,
                "usage": {"prompt_tokens": got.stats.tokens, "total_tokens": got.stats.tokens},
            },
            headers=truncation(got.stats),
        )

    @get("/v1/models", operation_id="listModels", responses=described(ModelList, OpenAIError, [401]))
    async def models() -> Response[bytes]:
        """Return the models that are served."""
        return answer({"object": "list", "data": [_model(name) for name in service.names]})

    @get(
        "/v1/models/{name:path}",
        operation_id="retrieveModel",
        responses=described(Model, OpenAIError, [401, 404]),
    )
    async def model(name: FromPath[str]) -> Response[bytes]:
        """Return one of them."""
        name = name.removeprefix("/")
        if name not in service.names:
            known = ", ".join(service.names)
            message = f"unknown model {name!r}; this server has {known}"
            raise Refused("model_not_found", message, param="model")
        return answer(_model(name))

    return Router(
        "/", route_handlers=[embeddings, models, model], exception_handlers={Exception: told}, tags=["OpenAI"]
    )


def told(_request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Return an error in OpenAI's form."""
    refusal = refused(error)
    document = {
        "message": refusal.message,
        "type": _TYPES.get(refusal.kind, "invalid_request_error"),
        "param": refusal.param,
        "code": _CODES.get(refusal.kind),
    }
    return answer({"error": document}, status=refusal.status, headers=refusal.headers)


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "paritas"}
