"""cohere: ClientV2 says the role by `input_type`, and asks for numbers of several types."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import numpy as np
from cohere import AsyncClientV2, ClientV2
from cohere.core.api_error import ApiError
from cohere.errors import BadRequestError, NotFoundError, UnauthorizedError
from harness import Served, error_of, run

ROLES = {"search_query": "query", "search_document": "passage"}


def client(served: Served) -> ClientV2:
    return ClientV2(api_key=served.key, base_url=served.url)


def embeddings(served: Served, *types: str) -> Any:
    """Return the embeddings of the texts as passages, in these types."""
    ask = {"model": served.model, "input_type": "search_document", "texts": served.texts}
    return client(served).embed(**ask, embedding_types=list(types)).embeddings


def input_type_says_the_role(served: Served) -> None:
    for model in (served.model, served.other):
        for kind, role in ROLES.items():
            ask = {"model": model, "input_type": kind, "texts": served.texts}
            answer = client(served).embed(**ask, embedding_types=["float"])
            served.check(answer.embeddings.float_, role, model)
            assert answer.id
            served.check(client(served).embed(**ask).embeddings.float_, role, model)


def base64_has_the_same_float32(served: Served) -> None:
    packed = embeddings(served, "base64").base64
    served.check([np.frombuffer(base64.b64decode(row), "<f4") for row in packed], "passage")


def integers_keep_a_vectors_direction(served: Served) -> None:
    """How numbers become integers is the server's to say, so only how near they stay is checked."""
    found = embeddings(served, "int8", "uint8")
    for rows, kind in ((found.int8, np.int8), (found.uint8, np.uint8)):
        info = np.iinfo(kind)
        assert all(info.min <= number <= info.max for row in rows for number in row)
        for row, vector in zip(rows, served.vectors("passage"), strict=True):
            assert np.corrcoef(row, vector)[0, 1] > 0.99


def bits_are_the_signs(served: Served) -> None:
    found = embeddings(served, "binary", "ubinary")
    packed = np.packbits(served.vectors("passage") > 0, axis=-1)
    assert np.array_equal(found.ubinary, packed)
    assert np.array_equal(found.binary, packed.astype(int) - 128)


def several_types_in_one_answer(served: Served) -> None:
    types = ("float", "int8", "uint8", "binary", "ubinary", "base64")
    found = embeddings(served, *types)
    served.check(found.float_, "passage")
    rows = (found.int8, found.uint8, found.binary, found.ubinary, found.base64)
    assert [len(each) for each in rows] == [len(served.texts)] * 5


def calls_of_an_event_loop(served: Served) -> None:
    async def ask() -> Any:
        async with AsyncClientV2(api_key=served.key, base_url=served.url) as there:
            return await there.embed(
                model=served.model,
                input_type="search_query",
                texts=served.texts,
                embedding_types=["float"],
            )

    served.check(asyncio.run(ask()).embeddings.float_, "query")


def errors_have_its_own_classes(served: Served) -> None:
    def ask(there: ClientV2, **fields: Any) -> Any:
        given = {"model": served.model, "input_type": "search_query", "texts": ["a"], **fields}
        return there.embed(**given, embedding_types=["float"])

    here = client(served)
    unknown = error_of(NotFoundError, lambda: ask(here, model="gpt"), "unknown model 'gpt'")
    assert set(unknown.body) == {"id", "message"}
    error_of(BadRequestError, lambda: ask(here, input_type="poem"))
    error_of(BadRequestError, lambda: ask(here, texts=[]))
    many = ["a"] * (served.max_texts + 1)
    assert error_of(ApiError, lambda: ask(here, texts=many), "or fewer").status_code == 413
    long = {"texts": served.texts, "truncate": "NONE"}
    assert error_of(ApiError, lambda: ask(here, **long)).status_code == 413
    error_of(UnauthorizedError, lambda: ask(ClientV2(api_key="another", base_url=served.url)))


if __name__ == "__main__":
    run(
        input_type_says_the_role,
        base64_has_the_same_float32,
        integers_keep_a_vectors_direction,
        bits_are_the_signs,
        several_types_in_one_answer,
        calls_of_an_event_loop,
        errors_have_its_own_classes,
    )
