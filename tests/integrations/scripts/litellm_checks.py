"""LiteLLM."""

from __future__ import annotations

import asyncio

import litellm
import numpy as np
from harness import Given, error_of, run

from paritas import errors
from paritas.integrations.litellm import register


def rows(answer: litellm.EmbeddingResponse) -> list[list[float]]:
    assert [one["index"] for one in answer.data] == list(range(len(answer.data)))
    return [one["embedding"] for one in answer.data]


def documents_and_queries(given: Given) -> None:
    for name in ("minilm", "pairs", "prompted"):
        bundle = getattr(given, name)
        register(name, bundle)
        answer = litellm.embedding(f"paritas/{name}", input=given.texts)
        given.check(rows(answer), "passage", bundle)
        answer = litellm.embedding(f"paritas/{name}:query", input=given.queries)
        given.check(rows(answer), "query", bundle)
    assert sum(entry["provider"] == "paritas" for entry in litellm.custom_provider_map) == 1


def calls_of_an_event_loop(given: Given) -> None:
    async def many() -> list[litellm.EmbeddingResponse]:
        calls = [litellm.aembedding("paritas/minilm:query", input=[one]) for one in given.queries]
        return await asyncio.gather(*calls)

    given.check([rows(answer)[0] for answer in asyncio.run(many())], "query")


def the_cache_keeps_queries_and_documents_apart(given: Given) -> None:
    litellm.cache = litellm.Cache(type="local")

    async def twice(model: str) -> list[list[float]]:
        for _ in range(2):
            answer = await litellm.aembedding(model=model, input=["the river"], caching=True)
            await asyncio.sleep(0.5)  # it is written behind the call
        return rows(answer)

    both = [asyncio.run(twice(model)) for model in ("paritas/prompted", "paritas/prompted:query")]
    litellm.cache = None
    assert both[0] != both[1]


def tokens_are_counted(given: Given) -> None:
    answer = litellm.embedding("paritas/minilm", input=["the river", "the river"])
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 8


def threads(given: Given) -> None:
    given.check_threads(
        lambda query: rows(litellm.embedding("paritas/minilm:query", input=[query]))[0], "query"
    )


def a_router(given: Given) -> None:
    router = litellm.Router(
        model_list=[
            {"model_name": name, "litellm_params": {"model": f"paritas/{name}"}}
            for name in ("minilm", "minilm:query")
        ]
    )
    documents = np.array(rows(router.embedding("minilm", input=given.texts)))

    def find(query: str, k: int) -> list[str]:
        (vector,) = rows(router.embedding("minilm:query", input=[query]))
        return [given.texts[place] for place in np.argsort(-documents @ vector)[:k]]

    given.check_search(find)


def bad_input(given: Given) -> None:
    error_of(errors.InputError, lambda: register("x", given.minilm, query_role="x"), "no role 'x'")
    for name in ("", None, "minilm:query"):
        error_of(errors.InputError, lambda name=name: register(name, given.minilm), "does not end in :query")
    register("minilm", given.minilm)  # the same once more
    error_of(errors.InputError, lambda: register("minilm", given.pairs), "is all-MiniLM-L6-v2 already")
    error_of(Exception, lambda: litellm.embedding("paritas/minilmm", input=["a"]), "did you mean 'minilm'")
    error_of(Exception, lambda: litellm.embedding("paritas/minilm", input=["a", None]), "text 1 is NoneType")
    error_of(
        Exception,
        lambda: litellm.embedding("paritas/minilm", input=["a"], input_type="query"),
        "the model is 'paritas/minilm:query'",
    )


if __name__ == "__main__":
    run(
        documents_and_queries,
        calls_of_an_event_loop,
        the_cache_keeps_queries_and_documents_apart,
        tokens_are_counted,
        threads,
        a_router,
        bad_input,
    )
