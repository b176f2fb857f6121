"""paritas's own dialect: roles, pairs, statistics, and errors as problems."""

from __future__ import annotations

import base64
from typing import Any

import httpx2
import numpy as np
import pytest

from paritas.engine.encoder import Encoder


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_pairs_and_texts_are_encoded_under_their_role(
    client: httpx2.Client, mpnet: Encoder, bert: Encoder, encoding: str
) -> None:
    for name, encoder in (("bert", bert), ("org/mpnet", mpnet)):
        for role, rule in encoder.contract.roles.items():
            texts: list[Any] = ["the river", "a city", "the river"]
            if rule.pair:
                texts += [["north", "the city"], ["", "the sky"]]
            body = {"model": name, "role": role, "texts": texts, "encoding_format": encoding}
            answer = client.post("/v1/encode", json=body).json()
            rows = answer["vectors"]
            if encoding == "base64":
                rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
            expected = encoder.encode([tuple(t) if isinstance(t, list) else t for t in texts], role=role)
            assert np.array_equal(np.array(rows, np.float32), expected)
            assert (answer["model"], answer["role"], answer["dim"]) == (name, role, encoder.dim)
            assert answer["stats"]["texts"] == len(texts)
            assert answer["stats"]["tokens"] > 0


@pytest.mark.parametrize(
    ("body", "status", "title", "detail"),
    [
        ({"texts": ["a"]}, 400, "bad_request", "missing required field `role`"),
        ({"texts": ["a"], "role": ""}, 400, "bad_request", "bert has no role ''"),
        ({"texts": ["a"], "role": "query", "model": "bert:x"}, 400, "bad_request", "says 'x', role 'query'"),
        ({"texts": ["a"], "role": "x"}, 400, "bad_request", "bert has no role 'x', but query, passage"),
        (
            {"texts": [["t", "x"]], "role": "query"},
            400,
            "bad_request",
            "text 0 is a pair, and this",
        ),
        ({"texts": [["t"]], "role": "query"}, 400, "bad_request", "texts[0]: Expected `array` of length 2"),
        ({"texts": ["a"], "role": "query", "rolle": 1}, 400, "bad_request", "unknown field `rolle`"),
        ({"texts": ["a"], "role": "query", "model": "x"}, 404, "model_not_found", "unknown model 'x'"),
    ],
)
def test_errors_are_problems(
    client: httpx2.Client, body: dict[str, Any], status: int, title: str, detail: str
) -> None:
    response = client.post("/v1/encode", json=body)
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, problem["status"], problem["title"]) == (status, status, title)
    assert detail in problem["detail"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/encode", 405), ("GET", "/nothing", 404)])
def test_other_paths_and_methods(client: httpx2.Client, method: str, path: str, status: int) -> None:
    assert client.request(method, path).status_code == status
