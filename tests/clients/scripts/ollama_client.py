"""ollama: `POST /api/embed`; the model's name says the role, where Ollama has a tag."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from harness import Served, error_of, run
from ollama import AsyncClient, Client, ResponseError


def headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def client(served: Served) -> Client:
    return Client(host=served.url, headers=headers(served.key))


def the_models_name_says_the_role(served: Served) -> None:
    for model in (served.model, served.other):
        for role in ("query", "passage"):
            answer = client(served).embed(model=f"{model}:{role}", input=served.texts)
            served.check(answer.embeddings, role, model)
            assert answer.model == f"{model}:{role}"
    served.check(client(served).embed(model=served.model, input=served.texts).embeddings, "passage")


def one_text_has_one_row(served: Served) -> None:
    expected = served.vectors("passage")
    for number, text in enumerate(served.texts):
        if text:  # to load a model, Ollama's clients send an empty text
            answer = client(served).embed(model=served.model, input=text)
            assert np.array_equal(np.asarray(answer.embeddings, np.float32), expected[[number]])


def a_name_without_a_tag_is_the_latest(served: Served) -> None:
    answer = client(served).embed(model=f"{served.model}:latest", input=served.texts)
    served.check(answer.embeddings, "passage")


def models_are_listed(served: Served) -> None:
    assert [model.model for model in client(served).list().models] == [served.model, served.other]


def figures_come_with_it(served: Served) -> None:
    answer = client(served).embed(model=served.model, input=served.texts)
    assert 0 < answer.total_duration < 60e9  # nanoseconds
    assert 0 <= answer.load_duration <= answer.total_duration
    assert answer.prompt_eval_count > len(served.texts)


def fewer_dimensions(served: Served) -> None:
    answer = client(served).embed(model=served.model, input=served.texts, dimensions=4)
    assert {len(row) for row in answer.embeddings} == {4}


def calls_of_an_event_loop(served: Served) -> None:
    async def ask() -> Any:
        there = AsyncClient(host=served.url, headers=headers(served.key))
        return await there.embed(model=f"{served.model}:query", input=served.texts)

    served.check(asyncio.run(ask()).embeddings, "query")


def errors_have_its_own_class(served: Served) -> None:
    embed = client(served).embed
    unknown = error_of(ResponseError, lambda: embed(model="gpt", input="a"), "unknown model 'gpt'")
    assert (unknown.status_code, unknown.error[:13]) == (404, "unknown model")
    role = error_of(ResponseError, lambda: embed(model=f"{served.model}:x", input="a"), "no role 'x'")
    assert role.status_code == 400
    long = error_of(ResponseError, lambda: embed(model=served.model, input=served.texts, truncate=False))
    assert long.status_code == 413
    many = ["a"] * (served.max_texts + 1)
    large = error_of(ResponseError, lambda: embed(model=served.model, input=many), "or fewer a request")
    assert large.status_code == 413
    other = Client(host=served.url, headers=headers("another"))
    assert error_of(ResponseError, lambda: other.embed(model=served.model, input="a")).status_code == 401


if __name__ == "__main__":
    run(
        the_models_name_says_the_role,
        one_text_has_one_row,
        a_name_without_a_tag_is_the_latest,
        models_are_listed,
        figures_come_with_it,
        fewer_dimensions,
        calls_of_an_event_loop,
        errors_have_its_own_class,
    )
