"""Cohere's dialect: `POST /v2/embed`."""

from __future__ import annotations

import uuid
from typing import Any, Literal

from litestar import Request, Response, Router, post
from litestar.params import JSONBody
from msgspec import Struct

from paritas.engine.pool.embedding_quantization import VectorType, quantize_vectors
from paritas.engine.pool.head import Vectors
from paritas.serving.answers import answer, described, truncation, written
from paritas.serving.async_encoder import AsyncEncoder
from paritas.serving.refusals import Refused, refused
from paritas.serving.service import Service, Truncation, default_role

InputType = Literal["search_query", "search_document", "classification", "clustering", "image"]
EmbeddingType = Literal[VectorType, "base64"]

_TRUNCATION: dict[str, Truncation] = {"NONE": "error", "START": "left", "END": "right"}
# The roles that each input type stands for; the first that the model has is taken.
_ROLES: dict[InputType, tuple[str, ...]] = {
    "search_query": ("query",),
    "search_document": ("passage", "document"),
    "classification": ("classification",),
    "clustering": ("clustering",),
}


class Content(Struct):
    """A part of an input."""

    type: str
    """text, and no other."""
    text: str = ""


class Input(Struct):
    """A text in parts."""

    content: list[Content]


class CohereRequest(Struct):
    """The body of `POST /v2/embed`."""

    model: str
    """One of `GET /v1/models`."""
    input_type: InputType
    """search_query and search_document are the roles query and passage."""
    texts: list[str] | None = None
    """The texts; or `inputs`."""
    inputs: list[Input] | None = None
    """The texts in parts, which are joined by a line end."""
    embedding_types: list[EmbeddingType] | None = None
    """What comes back; float where it is not given."""
    output_dimension: int | None = None
    """Channels to keep of each vector."""
    truncate: Literal["NONE", "START", "END"] | None = None
    """NONE: texts that are too long are an error. START and END: where the model cuts, and no other side."""


class TypedEmbeddings(Struct, omit_defaults=True, rename={"float_": "float"}):
    """Vectors in each type that was asked for, in the order of the texts."""

    float_: list[list[float]] | None = None
    int8: list[list[int]] | None = None
    uint8: list[list[int]] | None = None
    binary: list[list[int]] | None = None
    ubinary: list[list[int]] | None = None
    base64: list[str] | None = None


class ApiVersion(Struct):
    """Of Cohere's API."""

    version: str


class BilledUnits(Struct):
    """Tokens that were encoded, those of equal texts once."""

    input_tokens: int


class Meta(Struct):
    """What Cohere's answers say of themselves."""

    api_version: ApiVersion
    billed_units: BilledUnits


class CohereEmbeddings(Struct):
    """The answer of `POST /v2/embed`."""

    id: str
    embeddings: TypedEmbeddings
    texts: list[str]
    meta: Meta
    response_type: Literal["embeddings_by_type"]


class CohereError(Struct):
    """A refusal in Cohere's form."""

    id: str
    message: str


def router(service: Service) -> Router:
    """Return the dialect's routes."""

    @post(
        "/v2/embed",
        status_code=200,
        operation_id="cohereEmbed",
        responses=described(CohereEmbeddings, CohereError),
    )
    async def embed(data: JSONBody[CohereRequest], request: Request[Any, Any, Any]) -> Response[bytes]:
        """Return the vectors of texts, in each of the types asked for."""
        texts = _texts(data)
        _, named_role, encoder = service.find(data.model)
        got = await service.embed(
            request,
            data.model,
            texts,
            role=named_role or _role(data.input_type, encoder),
            dimensions=data.output_dimension,
            truncation=_TRUNCATION[data.truncate] if data.truncate is not None else None,
        )
        return answer(
            {
                "id": str(uuid.uuid4()),
                "embeddings": {
                    each: _written(got.vectors, each) for each in data.embedding_types or ["float"]
                },
                "texts": texts,
                "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": got.stats.tokens}},
                "response_type": "embeddings_by_type",
            },
            headers=truncation(got.stats),
        )

    return Router("/", route_handlers=[embed], exception_handlers={Exception: told}, tags=["Cohere"])


def told(_request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Return an error in Cohere's form."""
    refusal = refused(error)
    document = {"id": str(uuid.uuid4()), "message": refusal.message}
    return answer(document, status=refusal.status, headers=refusal.headers)


def _texts(data: CohereRequest) -> list[str]:
    if data.texts is not None and data.inputs is not None:
        raise Refused("bad_request", "both texts and inputs; expected one of them", param="inputs")
    if data.inputs is None:
        return data.texts or []
    for part in (part for each in data.inputs for part in each.content):
        if part.type != "text":
            raise Refused("bad_request", f"content of type {part.type!r}; expected text", param="inputs")
    return ["\n".join(part.text for part in each.content) for each in data.inputs]


def _role(input_type: InputType, encoder: AsyncEncoder) -> str:
    if input_type == "image":
        raise Refused("bad_request", "input_type is image; the models take texts", param="input_type")
    roles = encoder.encoder.contract.roles
    return next((role for role in _ROLES[input_type] if role in roles), default_role(encoder))


def _written(vectors: Vectors, kind: EmbeddingType) -> Any:
    if kind == "base64":
        return written(vectors, "base64")
    return list(quantize_vectors(vectors, kind))
