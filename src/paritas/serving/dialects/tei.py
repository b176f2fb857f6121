"""The dialect of text-embeddings-inference: `/embed` and what is beside it.

`/embed` is at `/` and `/invocations` too.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from litestar import Request, Response, Router, get, post, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import Struct

from paritas import __version__
from paritas.engine.pool.pooling import normalize
from paritas.engine.tokenize.tokenizer import Piece
from paritas.serving.answers import answer, described, truncation, written
from paritas.serving.keys import PROBE
from paritas.serving.refusals import Kind, Refused, refused
from paritas.serving.service import Service, Truncation
from paritas.serving.token_input import as_texts

_TYPES: dict[Kind, str] = {
    "overloaded": "Overloaded",
    "internal": "Backend",
    "not_ready": "Unhealthy",
    "timeout": "Backend",
}
# What is wrong with the inputs, text-embeddings-inference says with 422; a failed backend with 424.
_STATUS = {400: 422, 500: 424}


MOST_CHARACTERS = 1_000_000
"""Characters that may be tokenised a request: some 20 MB of JSON."""

Direction = Literal["right", "left", "Right", "Left"]


class EmbedRequest(Struct):
    """The body of `POST /embed`."""

    inputs: str | list[str | int | list[int]]
    """A text, or several; token ids where the server takes them."""
    normalize: bool = True
    """Unit length. False: as the model has them, and that is unit length for most."""
    truncate: bool | None = None
    """False: texts that are too long are an error. Otherwise they are cut, and a header counts them."""
    truncation_direction: Direction | None = None
    """Where they are cut; the model's own where it is not given, and no other."""
    prompt_name: str | None = None
    """A role of the model, such as query or passage."""
    dimensions: int | None = None
    """Channels to keep of each vector."""


class EmbedAllRequest(Struct):
    """The body of `POST /embed_all`."""

    inputs: str | list[str | int | list[int]]
    """A text, or several; token ids where the server takes them."""
    truncate: bool | None = None
    """As for `POST /embed`."""
    truncation_direction: Direction | None = None
    """As for `POST /embed`."""
    prompt_name: str | None = None
    """A role of the model, such as query or passage."""


class TokenizeRequest(Struct):
    """The body of `POST /tokenize`."""

    inputs: str | list[str]
    """A text, or several."""
    add_special_tokens: bool = True
    """With the tokens that the model's tokenizer adds."""
    prompt_name: str | None = None
    """A role of the model, whose prompt stands in front."""


class SimpleToken(Struct):
    """A token of a text."""

    id: int
    text: str
    """What of the text it stands for; a special token's own name."""
    special: bool
    """The tokenizer added it."""
    start: int | None
    stop: int | None
    """Characters of the text, with the role's prompt in front; null for a special token."""


class Info(Struct):
    """The answer of `GET /info`."""

    model_id: str
    model_sha: str | None
    model_dtype: str
    model_type: dict[str, dict[str, str]]
    prompts: dict[str, str]
    """By role."""
    max_input_length: int
    max_batch_tokens: int
    max_client_batch_size: int
    tokenization_workers: int
    version: str


class TeiError(Struct):
    """A refusal in the form of text-embeddings-inference."""

    error: str
    error_type: str


_REFUSALS = (401, 413, 422, 424, 429, 503, 504)


def router(service: Service) -> Router:
    """Return the dialect's routes."""
    return Router(
        "/",
        route_handlers=[*_vectors(service), *_facts(service)],
        exception_handlers={Exception: told},
        tags=["text-embeddings-inference"],
    )


def _vectors(service: Service) -> list[HTTPRouteHandler]:
    @post(
        ["/embed", "/", "/invocations"],
        status_code=200,
        responses=described(list[list[float]], TeiError, _REFUSALS),
    )
    async def embed(data: JSONBody[EmbedRequest], request: Request[Any, Any, Any]) -> Response[bytes]:
        """Return the vectors of texts, by the first model."""
        _, _, encoder = service.find("")
        texts = as_texts(data.inputs, service.decode, encoder.encoder.stages.tokenizer, "inputs")
        contract = encoder.encoder.contract
        got = await service.embed(
            request,
            "",
            texts,
            role=data.prompt_name,
            dimensions=data.dimensions,
            truncation="error" if data.truncate is False else _side(data.truncation_direction),
        )
        vectors = normalize(got.vectors) if data.normalize and not contract.normalize else got.vectors
        return answer(written(vectors, "float"), headers=truncation(got.stats))

    @post("/embed_all", status_code=200, responses=described(list[list[list[float]]], TeiError, _REFUSALS))
    async def embed_all(data: JSONBody[EmbedAllRequest], request: Request[Any, Any, Any]) -> Response[bytes]:
        """Return the vector of each token, before pooling, by the first model."""
        _, _, encoder = service.find("")
        got = await service.embed_tokens(
            request,
            "",
            as_texts(data.inputs, service.decode, encoder.encoder.stages.tokenizer, "inputs"),
            role=data.prompt_name,
            truncation="error" if data.truncate is False else _side(data.truncation_direction),
        )
        return answer(got.vectors, headers=truncation(got.stats))

    return [embed, embed_all]


def _facts(service: Service) -> list[HTTPRouteHandler]:
    @post("/tokenize", status_code=200, responses=described(list[list[SimpleToken]], TeiError, _REFUSALS))
    async def tokenize(data: JSONBody[TokenizeRequest]) -> Response[bytes]:
        """Return the tokens of texts, by the first model; nothing is cut off."""
        texts = [data.inputs] if isinstance(data.inputs, str) else data.inputs
        service.check_count(texts)
        characters = sum(map(len, texts))
        if characters > MOST_CHARACTERS:
            message = f"{characters} characters; expected {MOST_CHARACTERS} or fewer a request"
            raise Refused("too_large", message, param="inputs")
        name, _, encoder = service.find("")
        pieces = encoder.encoder.stages.tokenizer.pieces
        role = service.role(name, data.prompt_name)
        found = await asyncio.to_thread(pieces, texts, role, special=data.add_special_tokens)
        return answer([[_token(piece) for piece in text] for text in found])

    @get("/info", responses=described(Info, TeiError, [401, 503]))
    async def info() -> Response[bytes]:
        """Return what is served."""
        name, _, encoder = service.find("")
        contract, settings = encoder.encoder.contract, encoder.encoder.settings
        return answer(
            {
                "model_id": name,
                "model_sha": encoder.encoder.bundle.manifest.source.revision,
                "model_dtype": {"fp32": "float32", "fp16": "float16"}.get(contract.precision, "int8"),
                "model_type": {"embedding": {"pooling": contract.pooling}},
                "prompts": {role: rule.prompt for role, rule in contract.roles.items()},
                "max_input_length": max(rule.max_length for rule in contract.roles.values()),
                "max_batch_tokens": settings.max_batch_tokens,
                "max_client_batch_size": service.limits.max_texts,
                "tokenization_workers": settings.workers,
                "version": __version__,
            }
        )

    @route("/health", **PROBE, responses=described(dict[str, str], TeiError, [503]))
    async def health() -> Response[bytes]:
        """Say whether all models are ready."""
        reasons = "; ".join(f"{name}: {reason}" for name, reason in service.unready().items())
        if reasons:
            raise Refused("not_ready", reasons)
        return answer({})

    return [tokenize, info, health]


def _token(piece: Piece) -> dict[str, object]:
    places = {"start": None, "stop": None} if piece.special else {"start": piece.start, "stop": piece.stop}
    return {"id": piece.id, "text": piece.text, "special": piece.special, **places}


def _side(direction: Direction | None) -> Truncation:
    match direction:
        case "left" | "Left":
            return "left"
        case "right" | "Right":
            return "right"
        case None:
            return None


def told(_request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Return an error in the form of text-embeddings-inference."""
    refusal = refused(error)
    status = _STATUS.get(refusal.status, refusal.status)
    kind = "Empty" if refusal.message.startswith("there are no texts") else "Validation"
    document = {"error": refusal.message, "error_type": _TYPES.get(refusal.kind, kind)}
    return answer(document, status=status, headers=refusal.headers)
