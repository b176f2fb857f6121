"""Token ids in place of texts: refused by default, else decoded by the tokenizer that the operator names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import httpx2
import numpy as np
import pytest

from paritas import AsyncEncoder, Encoder, errors
from paritas.serving.token_input import decoder
from tests.unit.serving.running import running
from tests.unit.serving.test_openai import vectors

TEXTS = ["the river", "a city in the north"]


@pytest.fixture(scope="module")
def client(bert: Encoder) -> Iterator[httpx2.Client]:
    with running({"bert": bert}, decode=decoder("model")) as client:
        yield client


def ids_of(bert: Encoder, text: str) -> list[int]:
    return bert.stages.tokenizer.encode([text], "query").input_ids.tolist()


def embed(client: httpx2.Client, given: Any) -> httpx2.Response:
    return client.post("/v1/embeddings", json={"input": given, "role": "query"})


def test_the_models_own_ids_give_the_vectors_of_their_texts(client: httpx2.Client, bert: Encoder) -> None:
    rows = [ids_of(bert, text) for text in TEXTS]
    expected = bert.encode(TEXTS, role="query")
    assert np.array_equal(vectors(embed(client, rows)), expected)
    assert np.array_equal(vectors(embed(client, rows[0])), expected[:1])
    assert np.array_equal(vectors(embed(client, [rows[1][1:-1]])), expected[1:])
    theirs = client.post("/embed", json={"inputs": rows, "prompt_name": "query"})
    assert np.array_equal(np.array(theirs.json(), np.float32), expected)
    assert np.array_equal(vectors(embed(client, TEXTS)), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[1, 10**6]], "token id 1000000; the model has 0 to"),
        ([[-1]], "token id -1; the model has 0 to"),
        (["a", [1]], "input mixes texts and token ids"),
        ([1, [1]], "input mixes texts and token ids"),
        ([1, "a"], "input mixes texts and token ids"),
    ],
)
def test_ids_that_are_none_of_the_models_are_refused(client: httpx2.Client, given: Any, message: str) -> None:
    answer = embed(client, given)
    assert (answer.status_code, message in answer.json()["error"]["message"]) == (400, True), answer.text


class Encoding:
    """What tiktoken gives: a character an id."""

    def decode(self, ids: list[int]) -> str:
        if max(ids) > 255:
            raise KeyError(max(ids))
        return bytes(ids).decode(errors="replace")


def test_openais_ids_are_decoded_by_tiktoken(bert: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    tiktoken = ModuleType("tiktoken")
    tiktoken.get_encoding = {"cl100k_base": Encoding()}.__getitem__  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tiktoken", tiktoken)
    with running({"bert": bert}, decode=decoder("cl100k")) as client:
        found = vectors(embed(client, [list(text.encode()) for text in TEXTS]))
        assert np.array_equal(found, bert.encode(TEXTS, role="query"))
        answer = embed(client, [[7, 100_300]])
        assert (answer.status_code, "not one of cl100k_base" in answer.text) == (400, True)


def test_what_is_missing_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(errors.MissingExtraError, match="pip install tiktoken"):
        decoder("cl100k")

    def unreachable(_name: str) -> None:
        raise OSError("no such host")

    tiktoken = ModuleType("tiktoken")
    tiktoken.get_encoding = unreachable  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tiktoken", tiktoken)
    with pytest.raises(errors.InputError, match=r"no such host; .* set TIKTOKEN_CACHE_DIR"):
        decoder("cl100k")


def test_more_tokens_than_a_request_may_have_are_refused(bert: Encoder) -> None:
    with running({"bert": lambda: AsyncEncoder(bert, max_call_tokens=40)}) as client:
        refused = embed(client, ["the river " * 100] * 2 + ["a city " * number for number in range(1, 9)])
        assert refused.status_code == 413
        assert "tokens; expected 40 or fewer a call: send it in parts" in refused.json()["error"]["message"]
        # Equal texts are encoded once.
        assert embed(client, ["the river"] * 30).status_code == 200
        lines = client.get("/metrics").text.splitlines()
        assert 'paritas_queue_tokens{model="bert"} 0.0' in lines
