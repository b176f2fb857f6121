"""openai: roles by the model's name and by a field, numbers and base64, and its classes of errors."""

from __future__ import annotations

import asyncio
from typing import Any

from harness import Served, error_of, run
from openai import (
    APIStatusError,
    AsyncOpenAI,
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    OpenAI,
)


def client(served: Served) -> OpenAI:
    return OpenAI(base_url=f"{served.url}/v1", api_key=served.key)


def rows(answer: Any) -> list[list[float]]:
    assert [each.index for each in answer.data] == list(range(len(answer.data)))
    return [each.embedding for each in answer.data]


def the_models_name_says_the_role(served: Served) -> None:
    for model in (served.model, served.other):
        for role in ("query", "passage"):
            answer = client(served).embeddings.create(model=f"{model}:{role}", input=served.texts)
            served.check(rows(answer), role, model)
            assert answer.model == f"{model}:{role}"
            assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0


def a_field_of_the_body_says_the_role(served: Served) -> None:
    create = client(served).embeddings.create
    role = {"role": "query"}
    served.check(rows(create(model=served.model, input=served.texts, extra_body=role)), "query")
    served.check(rows(create(model=served.model, input=served.texts)), "passage")


def numbers_and_base64_are_the_same_float32(served: Served) -> None:
    create = client(served).embeddings.create
    numbers = create(model=served.model, input=served.texts, encoding_format="float")
    served.check(rows(numbers), "passage")
    packed = create(model=served.model, input=served.texts, encoding_format="base64")
    assert isinstance(packed.data[0].embedding, str)


def fewer_dimensions(served: Served) -> None:
    answer = client(served).embeddings.create(model=served.model, input=served.texts, dimensions=4)
    assert {len(row) for row in rows(answer)} == {4}


def the_header_counts_the_texts_that_were_cut(served: Served) -> None:
    create = client(served).embeddings.with_raw_response.create
    answer = create(model=f"{served.model}:query", input=served.texts)
    assert answer.headers["X-Truncated-Texts"] == str(served.cut_queries)
    served.check(rows(answer.parse()), "query")


def calls_of_an_event_loop(served: Served) -> None:
    async def both() -> list[Any]:
        async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key=served.key) as there:
            calls = [
                there.embeddings.create(model=f"{served.model}:{role}", input=served.texts)
                for role in ("query", "passage")
            ]
            return await asyncio.gather(*calls)

    for role, answer in zip(("query", "passage"), asyncio.run(both()), strict=True):
        served.check(rows(answer), role)


def models_are_listed(served: Served) -> None:
    assert [model.id for model in client(served).models.list()] == [served.model, served.other]
    assert client(served).models.retrieve(served.other).id == served.other


def errors_have_its_own_classes(served: Served) -> None:
    create = client(served).embeddings.create
    unknown = error_of(NotFoundError, lambda: create(model="gpt", input="a"), "unknown model 'gpt'")
    assert (unknown.code, unknown.param) == ("model_not_found", "model")
    role = error_of(BadRequestError, lambda: create(model=f"{served.model}:x", input="a"), "no role 'x'")
    assert (role.type, role.param) == ("invalid_request_error", "role")
    error_of(BadRequestError, lambda: create(model=served.model, input=[[9906, 1917]]), "token ids")
    error_of(BadRequestError, lambda: create(model=served.model, input=[]), "there are no texts")
    many = ["a"] * (served.max_texts + 1)
    large = error_of(APIStatusError, lambda: create(model=served.model, input=many), "or fewer a request")
    assert large.status_code == 413
    other = OpenAI(base_url=f"{served.url}/v1", api_key="another")
    error_of(AuthenticationError, lambda: other.embeddings.create(model=served.model, input="a"))


if __name__ == "__main__":
    run(
        the_models_name_says_the_role,
        a_field_of_the_body_says_the_role,
        numbers_and_base64_are_the_same_float32,
        fewer_dimensions,
        the_header_counts_the_texts_that_were_cut,
        calls_of_an_event_loop,
        models_are_listed,
        errors_have_its_own_classes,
    )
