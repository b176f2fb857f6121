"""The description of the API is true: real answers have the types that it gives them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import msgspec
import pytest

from paritas import Encoder
from paritas.serving import app
from paritas.serving.dialects import cohere, ollama, openai, own, search, tei
from paritas.serving.searching import Searcher
from tests.unit.serving.running import running
from tests.unit.serving.test_search import index_of


@pytest.fixture(scope="module")
def client(bert: Encoder) -> Iterator[httpx2.Client]:
    with running({"bert": bert}, searcher=Searcher(index_of(bert), "bert")) as client:
        yield client


TEXTS = ["the river", "a city"]
ALL_TYPES = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
ASKED: list[tuple[str, dict[str, Any] | None, Any, Any]] = [
    ("/v1/embeddings", {"input": TEXTS}, openai.Embeddings, openai.OpenAIError),
    ("/v1/embeddings", {"input": "a", "encoding_format": "base64"}, openai.Embeddings, openai.OpenAIError),
    ("/v1/models", None, openai.ModelList, None),
    ("/v1/models/bert", None, openai.Model, None),
    ("/v1/encode", {"texts": TEXTS, "role": "query"}, own.Encoded, own.Problem),
    ("/v1/search", {"queries": TEXTS}, search.SearchAnswer, own.Problem),
    (
        "/v2/embed",
        {"model": "bert", "input_type": "clustering", "texts": TEXTS, "embedding_types": ALL_TYPES},
        cohere.CohereEmbeddings,
        cohere.CohereError,
    ),
    ("/api/embed", {"model": "bert", "input": TEXTS}, ollama.OllamaEmbeddings, ollama.OllamaError),
    ("/api/tags", None, ollama.Tags, None),
    ("/embed", {"inputs": TEXTS}, list[list[float]], tei.TeiError),
    ("/info", None, tei.Info, None),
    ("/health", None, dict[str, str], None),
    ("/livez", None, app.Alive, None),
    ("/readyz", None, app.Readiness, None),
]


def fields_of(answer: Any, kind: Any) -> None:
    """Hold an answer against a type, and back: no field may be there that the type has not."""
    document = answer.json()
    converted = msgspec.convert(document, kind)
    assert msgspec.to_builtins(converted) == document


@pytest.mark.parametrize(("path", "body", "success", "failure"), ASKED, ids=lambda value: str(value)[:30])
def test_answers_are_as_described(
    client: httpx2.Client, path: str, body: dict[str, Any] | None, success: Any, failure: Any
) -> None:
    answer = client.get(path) if body is None else client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    fields_of(answer, success)
    if body is not None:
        refused = client.post(path, json={})
        assert refused.status_code in (400, 422)
        fields_of(refused, failure)
    described = client.get("/docs/openapi.json").json()
    route = "/v1/models/{name}" if path == "/v1/models/bert" else path
    operation = described["paths"][route]["get" if body is None else "post"]
    schema = next(iter(operation["responses"]["200"]["content"].values()))["schema"]
    assert schema.get("type") != "string"
    if body is not None:
        assert str(refused.status_code) in operation["responses"]
        assert "429" in operation["responses"]
