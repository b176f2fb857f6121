"""llama-index's OpenAILikeEmbedding: one model's name for queries and texts, so one object for each role."""

from __future__ import annotations

import asyncio
from typing import Any

from harness import Served, error_of, run
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from openai import APIStatusError, AuthenticationError, BadRequestError, NotFoundError


def embedding(served: Served, model: str, **options: Any) -> OpenAILikeEmbedding:
    options = {"api_key": served.key, **options}
    return OpenAILikeEmbedding(model_name=model, api_base=f"{served.url}/v1", **options)


def texts_and_queries(served: Served) -> None:
    served.check(embedding(served, served.model).get_text_embedding_batch(served.texts), "passage")
    query = embedding(served, f"{served.model}:query")
    served.check([query.get_query_embedding(text) for text in served.texts], "query")
    other = embedding(served, f"{served.other}:passage")
    served.check(other.get_text_embedding_batch(served.texts), "passage", served.other)


def it_sends_several_requests(served: Served) -> None:
    few = embedding(served, served.model, embed_batch_size=2)
    served.check(few.get_text_embedding_batch(served.texts), "passage")


def a_field_of_the_body_says_the_role(served: Served) -> None:
    there = embedding(served, served.model, additional_kwargs={"extra_body": {"role": "query"}})
    served.check(there.get_text_embedding_batch(served.texts), "query")


def calls_of_an_event_loop(served: Served) -> None:
    there = embedding(served, served.model)
    served.check(asyncio.run(there.aget_text_embedding_batch(served.texts)), "passage")


def errors_are_openais(served: Served) -> None:
    unknown = embedding(served, "gpt")
    error_of(NotFoundError, lambda: unknown.get_text_embedding("a"), "unknown model 'gpt'")
    role = embedding(served, f"{served.model}:x")
    error_of(BadRequestError, lambda: role.get_query_embedding("a"), "no role 'x'")
    large = embedding(served, served.model, embed_batch_size=served.max_texts + 1)
    many = ["a"] * (served.max_texts + 1)
    assert error_of(APIStatusError, lambda: large.get_text_embedding_batch(many)).status_code == 413
    other = embedding(served, served.model, api_key="another")
    error_of(AuthenticationError, lambda: other.get_text_embedding("a"))


if __name__ == "__main__":
    run(
        texts_and_queries,
        it_sends_several_requests,
        a_field_of_the_body_says_the_role,
        calls_of_an_event_loop,
        errors_are_openais,
    )
