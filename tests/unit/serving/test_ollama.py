"""Ollama's dialect: the same bits as the encoder's, names with a tag, and its errors."""

from __future__ import annotations

from typing import Any

import httpx2
import numpy as np
import pytest

from paritas.engine.encoder import Encoder

TEXTS = ["the river", "a city in the north", "the river", "why is the sky blue"]
LONG = "the river " * 100


def embed(client: httpx2.Client, **fields: Any) -> httpx2.Response:
    return client.post("/api/embed", json={"model": "bert", **fields})


@pytest.mark.parametrize(
    ("name", "role"), [("bert", "passage"), ("bert:latest", "passage"), ("bert:query", "query")]
)
def test_vectors_are_the_encoders_bit_for_bit(
    client: httpx2.Client, bert: Encoder, name: str, role: str
) -> None:
    # The fields that Ollama has besides change nothing here.
    answer = embed(client, model=name, input=TEXTS, keep_alive="5m", options={"num_ctx": 8})
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert np.array_equal(np.array(document["embeddings"], np.float32), bert.encode(TEXTS, role=role))
    assert bert.last_stats is not None
    assert (document["model"], document["prompt_eval_count"]) == (name, bert.last_stats.tokens)
    assert document["total_duration"] > 1_000  # nanoseconds


def test_one_text_may_stand_alone_and_dimensions_be_fewer(client: httpx2.Client, bert: Encoder) -> None:
    found = embed(client, input="the river", dimensions=4).json()["embeddings"]
    with Encoder(bert.bundle, truncate_dim=4) as encoder:
        assert np.array_equal(np.array(found, np.float32), encoder.encode(["the river"], role="passage"))


def test_models_are_listed(client: httpx2.Client) -> None:
    assert [each["name"] for each in client.get("/api/tags").json()["models"]] == ["bert", "org/mpnet"]


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"input": []}, 400, "there are no texts"),
        ({"input": [[1, 2]]}, 400, "Expected `str`, got `array`"),
        ({}, 400, "missing required field `input`"),
        ({"input": "a", "model": "llama3"}, 404, "unknown model 'llama3'"),
        ({"input": LONG, "truncate": False}, 413, "1 texts have more than 24 tokens"),
        ({"input": "a", "dimensions": 99}, 400, "dimensions is 99; expected 1 to 16"),
    ],
)
def test_bad_input_is_told_in_its_form(
    client: httpx2.Client, fields: dict[str, Any], status: int, message: str
) -> None:
    answer = embed(client, **fields)
    assert (answer.status_code, set(answer.json())) == (status, {"error"}), answer.text
    assert message in answer.json()["error"]
