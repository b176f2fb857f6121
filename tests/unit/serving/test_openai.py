"""OpenAI's dialect: the same bits as the encoder's, its errors, and the token ids that it must not take."""

from __future__ import annotations

import base64
import re
from typing import Any

import httpx2
import numpy as np
import pytest

from paritas.engine.encoder import Encoder
from tests.unit.serving.running import running

TEXTS = ["the river", "a city in the north", "the river", "why is the sky blue"]


def embeddings(client: httpx2.Client, **fields: Any) -> httpx2.Response:
    return client.post("/v1/embeddings", json={"model": "bert", **fields})


def vectors(response: httpx2.Response) -> np.ndarray[Any, np.dtype[np.float32]]:
    assert response.status_code == 200, response.text
    rows = [each["embedding"] for each in response.json()["data"]]
    if isinstance(rows[0], str):
        return np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in rows])
    return np.array(rows, np.float32)


@pytest.mark.parametrize("encoding", ["float", "base64", None])
@pytest.mark.parametrize("role", ["query", "passage"])
def test_vectors_are_the_encoders_bit_for_bit(
    client: httpx2.Client, bert: Encoder, encoding: str | None, role: str
) -> None:
    fields = {"encoding_format": encoding} if encoding else {}
    response = embeddings(client, input=TEXTS, role=role, **fields)
    assert np.array_equal(vectors(response), bert.encode(TEXTS, role=role))
    document = response.json()
    assert (document["object"], document["model"]) == ("list", "bert")
    assert [each["index"] for each in document["data"]] == [0, 1, 2, 3]
    assert {each["object"] for each in document["data"]} == {"embedding"}
    stats = bert.last_stats
    assert stats is not None
    assert document["usage"] == {"prompt_tokens": stats.tokens, "total_tokens": stats.tokens}


def test_one_text_may_stand_alone(client: httpx2.Client, bert: Encoder) -> None:
    expected = bert.encode(["the river"], role="passage")
    assert np.array_equal(vectors(embeddings(client, input="the river")), expected)


def test_the_models_name_may_say_the_role(client: httpx2.Client, bert: Encoder, mpnet: Encoder) -> None:
    response = embeddings(client, input=TEXTS, model="bert:query")
    assert np.array_equal(vectors(response), bert.encode(TEXTS, role="query"))
    assert response.json()["model"] == "bert:query"
    other = vectors(embeddings(client, input=TEXTS, model="org/mpnet"))
    assert np.array_equal(other, mpnet.encode(TEXTS, role="passage"))
    first = vectors(client.post("/v1/embeddings", json={"input": TEXTS}))
    assert np.array_equal(first, bert.encode(TEXTS, role="passage"))


def test_fewer_dimensions_have_unit_length_again(client: httpx2.Client, bert: Encoder) -> None:
    short = vectors(embeddings(client, input=TEXTS, dimensions=4))
    with Encoder(bert.bundle, truncate_dim=4) as encoder:
        assert np.array_equal(short, encoder.encode(TEXTS, role="passage"))


def test_models_are_listed(client: httpx2.Client) -> None:
    listed = client.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["bert", "org/mpnet"]
    assert client.get("/v1/models/org/mpnet").json() == listed["data"][1]
    missing = client.get("/v1/models/gpt")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


IDS = "input holds token ids; expected texts.*check_embedding_ctx_length=False"


@pytest.mark.parametrize(
    ("body", "status", "message", "param"),
    [
        ('{"input": [[1, 2], [3]]}', 400, IDS, "input"),
        ('{"input": [9906, 1917]}', 400, IDS, "input"),
        ('{"input": []}', 400, "there are no texts", "input"),
        ('{"input": 7}', 400, "input: Expected `str | array`, got `int`", "input"),
        ('{"input": ["a", {}]}', 400, r"input\[1\]: Expected", "input[1]"),
        ('{"input": ["a", null]}', 400, r"input\[1\]: Expected", "input[1]"),
        ('{"model": "bert"}', 400, "missing required field `input`", None),
        (
            '{"input": "a", "model": "gpt"}',
            404,
            "unknown model 'gpt'; this server has bert, org/mpnet",
            "model",
        ),
        ('{"input": "a", "model": "bert:x"}', 400, "bert has no role 'x', but query, passage", "role"),
        ('{"input": "a", "dimensions": 0}', 400, "dimensions is 0; expected 1 to 16", "dimensions"),
        ('{"input": "a", "dimensions": 17}', 400, "dimensions is 17; expected 1 to 16", "dimensions"),
        ('{"input": "a", "encoding_format": "hex"}', 400, "Invalid enum value 'hex'", "encoding_format"),
        ('{"input": "cut \\ud83d"}', 400, "the body is no JSON", None),
        ('{"input": "a"', 400, "the body is no JSON: Input data was truncated", None),
        ("[]", 400, "the body: Expected `object`, got `array`", None),
        ("", 400, "the body is empty; expected a JSON object", None),
        ("\x00", 400, "the body is no JSON", None),
        ("[" * 50_000, 400, "the body is nested too deeply", None),
    ],
)
def test_bad_input_is_told_in_openais_form(
    client: httpx2.Client, body: str, status: int, message: str, param: str | None
) -> None:
    headers = {"content-type": "application/json"}
    response = client.post("/v1/embeddings", content=body.encode(), headers=headers)
    error = response.json()["error"]
    assert response.status_code == status, error
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"

    assert re.search(message, error["message"]), error
    assert param is None or error["param"] == param
    assert "Traceback" not in response.text


def test_a_body_that_is_not_utf_8(client: httpx2.Client) -> None:
    headers = {"content-type": "application/json"}
    response = client.post("/v1/embeddings", content=b'{"input": "\xff"}', headers=headers)
    assert response.status_code == 400
    # In the words of msgspec 0.23, or of Python before it.
    assert "UTF-8" in response.json()["error"]["message"]


def test_more_texts_than_a_request_may_have(bert: Encoder) -> None:
    with running({"bert": bert}, max_texts=3) as client:
        assert embeddings(client, input=TEXTS[:3]).status_code == 200
        refused = embeddings(client, input=TEXTS)
        assert refused.status_code == 413
        assert refused.json()["error"]["message"] == "4 texts; expected 3 or fewer a request"
