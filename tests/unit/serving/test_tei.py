"""text-embeddings-inference's dialect, by huggingface_hub's client and by hand."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import numpy as np
import pytest
from huggingface_hub import InferenceClient

from paritas import AsyncEncoder
from paritas.engine.encoder import Encoder
from tests.unit.serving.running import running

TEXTS = ["the river", "a city in the north", "why is the sky blue"]
LONG = "the river " * 100


@pytest.mark.parametrize("path", ["/embed", "/", "/invocations"])
@pytest.mark.parametrize("role", ["query", "passage", None])
def test_vectors_are_the_encoders_bit_for_bit(
    client: httpx2.Client, bert: Encoder, path: str, role: str | None
) -> None:
    body = {"inputs": TEXTS} | ({"prompt_name": role} if role else {})
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert np.array_equal(np.array(answer.json(), np.float32), bert.encode(TEXTS, role=role or "passage"))
    assert "x-truncated-texts" not in answer.headers


def test_a_model_whose_vectors_have_unit_length_gives_them_so_whatever_is_asked(
    client: httpx2.Client, bert: Encoder
) -> None:
    # Haystack sends false where it is told nothing.
    answer = client.post("/embed", json={"inputs": TEXTS, "normalize": False})
    assert np.array_equal(np.array(answer.json(), np.float32), bert.encode(TEXTS, role="passage"))


def test_huggingfaces_own_client_gets_them(client: httpx2.Client, bert: Encoder) -> None:
    theirs = InferenceClient(str(client.base_url).rstrip("/"))
    found = theirs.feature_extraction("the river", prompt_name="query", normalize=True)
    assert np.array_equal(np.asarray(found, np.float32), bert.encode(["the river"], role="query"))


def test_what_is_served_and_whether_it_is_well(client: httpx2.Client, bert: Encoder) -> None:
    info = client.get("/info").json()
    assert (info["model_id"], info["model_type"]) == ("bert", {"embedding": {"pooling": "cls"}})
    assert info["max_input_length"] == max(rule.max_length for rule in bert.contract.roles.values())
    assert client.get("/health").status_code == 200


def test_texts_that_are_cut_are_an_error_or_counted_in_a_header(client: httpx2.Client, bert: Encoder) -> None:
    cut = client.post("/embed", json={"inputs": [LONG, "short"], "prompt_name": "query"})
    assert (cut.status_code, cut.headers["x-truncated-texts"]) == (200, "1")
    assert np.array_equal(np.array(cut.json(), np.float32), bert.encode([LONG, "short"], role="query"))
    refused = client.post("/embed", json={"inputs": LONG, "truncate": False})
    assert (refused.status_code, refused.json()["error_type"]) == (413, "Validation")
    bodies: dict[str, dict[str, Any]] = {
        "/v1/embeddings": {"input": LONG},
        "/v1/encode": {"texts": [LONG], "role": "query"},
        "/api/embed": {"model": "bert", "input": LONG},
    }
    for path, body in bodies.items():
        assert client.post(path, json=body).headers["x-truncated-texts"] == "1"
        assert client.post(path, json=body | {"truncate": False}).status_code == 413


# The vectors of tokens, and tokens.


def test_the_vectors_of_tokens_are_the_encoders(mpnet: Encoder) -> None:
    texts = [*TEXTS, TEXTS[0], ""]
    expected = mpnet.encode_tokens(texts, role="query")
    with running({"mpnet": mpnet}) as client:
        answer = client.post("/embed_all", json={"inputs": texts, "prompt_name": "query"})
        assert answer.status_code == 200, answer.text
        found = [np.array(rows, np.float32) for rows in answer.json()]
        one = client.post("/embed_all", json={"inputs": TEXTS[0], "prompt_name": "query"}).json()
        cut = client.post("/embed_all", json={"inputs": LONG, "prompt_name": "query"})
        refused = client.post("/embed_all", json={"inputs": LONG, "truncate": False})
        many = client.post("/embed_all", json={"inputs": [f"{LONG} {n}" for n in range(600)]})
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    assert np.array_equal(np.array(one[0], np.float32), expected[0])
    assert cut.headers["x-truncated-texts"] == "1"
    assert (refused.status_code, many.status_code) == (413, 413)
    assert "tokens; expected 8192 or fewer" in many.json()["error"]


def test_vectors_of_tokens_are_in_batches_of_their_own(mpnet: Encoder) -> None:
    expected = mpnet.encode(TEXTS, role="query")
    tokens = mpnet.encode_tokens(TEXTS, role="query")

    async def both() -> list[Any]:
        wide = AsyncEncoder(mpnet)
        calls = [wide.encode(TEXTS, role="query") for _ in range(8)]
        return await asyncio.gather(*calls, *(wide.encode_tokens(TEXTS, role="query") for _ in range(8)))

    found = asyncio.run(both())
    assert all(np.array_equal(each.vectors, expected) for each in found[:8])
    for each in found[8:]:
        assert all(np.array_equal(one, other) for one, other in zip(each.vectors, tokens, strict=True))


def test_a_model_that_computes_the_first_token_alone_says_so(client: httpx2.Client) -> None:
    answer = client.post("/embed_all", json={"inputs": "the river"})
    assert (answer.status_code, answer.json()["error_type"]) == (422, "Validation")
    assert "there are no vectors of tokens" in answer.json()["error"]


def test_tokens_come_with_their_places(client: httpx2.Client, bert: Encoder) -> None:
    asked = {"inputs": "the river", "prompt_name": "query"}
    (whole,) = client.post("/tokenize", json=asked).json()
    assert [(token["text"], token["special"], token["start"], token["stop"]) for token in whole] == [
        ("[CLS]", True, None, None),
        ("the", False, 0, 3),
        ("river", False, 4, 9),
        ("[SEP]", True, None, None),
    ]
    ids = bert.stages.tokenizer.encode(["the river"], "query").input_ids
    assert [token["id"] for token in whole] == ids.tolist()
    bare = client.post("/tokenize", json=asked | {"inputs": ["the river", LONG], "add_special_tokens": False})
    assert bare.json()[0] == whole[1:-1]
    assert len(bare.json()[1]) == 200  # nothing is cut off


def test_the_tokens_of_a_role_with_pairs_begin_with_the_title(client: httpx2.Client, bert: Encoder) -> None:
    (found,) = client.post("/tokenize", json={"inputs": "the river", "prompt_name": "passage"}).json()
    assert [token["text"] for token in found] == ["[CLS]", "-", "[SEP]", "the", "river", "[SEP]"]
    ids = bert.stages.tokenizer.encode([("-", "the river")], "passage").input_ids
    assert [token["id"] for token in found] == ids.tolist()


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"inputs": []}, 422, "there are no texts"),
        ({"inputs": ["a"] * 3_000}, 413, "3000 texts; expected 2048 or fewer"),
        ({"inputs": "a " * 500_001}, 413, "1000002 characters; expected 1000000 or fewer"),
        ({"inputs": "a", "prompt_name": "x"}, 422, "bert has no role 'x'"),
        ({"inputs": [[1, 2]]}, 422, "inputs[0]: Expected `str`, got `array`"),
    ],
)
def test_what_is_not_tokenised(
    client: httpx2.Client, body: dict[str, Any], status: int, message: str
) -> None:
    answer = client.post("/tokenize", json=body)
    assert (answer.status_code, set(answer.json())) == (status, {"error", "error_type"})
    assert message in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "status", "kind", "message"),
    [
        ({"inputs": []}, 422, "Empty", "there are no texts"),
        ({"inputs": [[1, 2]]}, 422, "Validation", "inputs holds token ids; expected texts"),
        ({"inputs": 7}, 422, "Validation", "inputs: Expected `str | array`, got `int`"),
        ({}, 422, "Validation", "missing required field `inputs`"),
        ({"inputs": "a", "truncation_direction": "Left"}, 422, "Validation", "cuts texts on the right"),
        ({"inputs": "a", "prompt_name": "x"}, 422, "Validation", "bert has no role 'x'"),
        ({"inputs": "a", "dimensions": 99}, 422, "Validation", "dimensions is 99; expected 1 to 16"),
    ],
)
def test_bad_input_is_told_in_its_form(
    client: httpx2.Client, body: dict[str, Any], status: int, kind: str, message: str
) -> None:
    answer = client.post("/embed", json=body)
    assert (answer.status_code, set(answer.json())) == (status, {"error", "error_type"})
    assert answer.json()["error_type"] == kind
    assert message in answer.json()["error"]


def test_a_body_that_is_too_large(bert: Encoder) -> None:
    with running({"bert": bert}, max_body_bytes=1_000, max_texts=2) as client:
        for body in ({"inputs": "x" * 2_000}, {"inputs": ["a", "b", "c"]}):
            answer = client.post("/embed", json=body)
            assert (answer.status_code, answer.json()["error_type"]) == (413, "Validation")
