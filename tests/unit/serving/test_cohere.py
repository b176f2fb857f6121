"""Cohere's dialect: roles by input type, vectors in each type, and its errors."""

from __future__ import annotations

import base64
from typing import Any

import httpx2
import numpy as np
import pytest

from paritas.engine.encoder import Encoder
from paritas.engine.pool.embedding_quantization import quantize_vectors

TEXTS = ["the river", "a city in the north", "the river", "why is the sky blue"]
LONG = "the river " * 100


def embed(client: httpx2.Client, **fields: Any) -> httpx2.Response:
    return client.post("/v2/embed", json={"model": "bert", "input_type": "search_document"} | fields)


@pytest.mark.parametrize(
    ("input_type", "role"),
    [("search_query", "query"), ("search_document", "passage"), ("clustering", "passage")],
)
def test_input_types_are_roles_and_vectors_the_encoders_bit_for_bit(
    client: httpx2.Client, bert: Encoder, input_type: str, role: str
) -> None:
    answer = embed(client, texts=TEXTS, input_type=input_type)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    expected = bert.encode(TEXTS, role=role)
    assert np.array_equal(np.array(document["embeddings"].pop("float"), np.float32), expected)
    assert document["embeddings"] == {}
    assert (document["texts"], document["response_type"]) == (TEXTS, "embeddings_by_type")
    assert bert.last_stats is not None
    assert document["meta"]["billed_units"] == {"input_tokens": bert.last_stats.tokens}


def test_every_type_that_was_asked_for_comes_back(client: httpx2.Client, bert: Encoder) -> None:
    kinds = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    found = embed(client, texts=TEXTS, embedding_types=kinds).json()["embeddings"]
    assert list(found) == kinds
    expected = bert.encode(TEXTS, role="passage")
    packed = np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in found["base64"]])
    assert np.array_equal(packed, expected)
    for kind in ("int8", "uint8", "binary", "ubinary"):
        assert np.array_equal(np.array(found[kind]), quantize_vectors(expected, kind)), kind


def test_texts_may_come_in_parts(client: httpx2.Client, bert: Encoder) -> None:
    parts = [{"type": "text", "text": "the river"}, {"type": "text", "text": "a city"}]
    found = embed(client, inputs=[{"content": parts}]).json()
    assert found["texts"] == ["the river\na city"]
    expected = bert.encode(found["texts"], role="passage")
    assert np.array_equal(np.array(found["embeddings"]["float"], np.float32), expected)


def test_the_models_name_may_say_the_role_and_dimensions_may_be_fewer(
    client: httpx2.Client, bert: Encoder
) -> None:
    found = embed(client, texts=TEXTS, model="bert:query", output_dimension=4).json()["embeddings"]["float"]
    with Encoder(bert.bundle, truncate_dim=4) as encoder:
        assert np.array_equal(np.array(found, np.float32), encoder.encode(TEXTS, role="query"))


def test_long_texts_are_cut_where_the_model_cuts_them_or_an_error(client: httpx2.Client) -> None:
    for truncate in ("END", None):
        assert embed(client, texts=[LONG], truncate=truncate).headers["x-truncated-texts"] == "1"
    refused = embed(client, texts=[LONG], truncate="NONE")
    assert (refused.status_code, set(refused.json())) == (413, {"id", "message"})
    assert "1 texts have more than 24 tokens" in refused.json()["message"]
    assert embed(client, texts=["short"], truncate="NONE").status_code == 200


IMAGE = {"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({}, 400, "there are no texts"),
        ({"texts": []}, 400, "there are no texts"),
        ({"texts": ["a"], "inputs": []}, 400, "both texts and inputs"),
        ({"texts": ["a"], "input_type": "image"}, 400, "the models take texts"),
        ({"texts": ["a"], "input_type": "other"}, 400, "input_type"),
        ({"texts": ["a"], "embedding_types": ["float16"]}, 400, "embedding_types"),
        ({"texts": ["a"], "truncate": "START"}, 400, "cuts texts on the right, not on the left"),
        ({"texts": ["a"], "model": "embed-v4.0"}, 404, "this server has bert, org/mpnet"),
        ({"texts": ["a"], "model": "bert:document"}, 400, "no role 'document'"),
        ({"texts": [1]}, 400, "Expected `str`, got `int`"),
        ({"inputs": [IMAGE]}, 400, "content of type 'image_url'; expected text"),
    ],
)
def test_bad_input_is_told_in_its_form(
    client: httpx2.Client, fields: dict[str, Any], status: int, message: str
) -> None:
    answer = embed(client, **fields)
    assert (answer.status_code, set(answer.json())) == (status, {"id", "message"}), answer.text
    assert message in answer.json()["message"]
