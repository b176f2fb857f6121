"""langchain-openai: it sends token ids of another model unless it is told to send texts."""

from __future__ import annotations

import asyncio
from typing import Any

from harness import Served, error_of, run
from langchain_openai import OpenAIEmbeddings
from openai import APIStatusError, AuthenticationError, BadRequestError, NotFoundError


def embeddings(served: Served, model: str, **options: Any) -> OpenAIEmbeddings:
    options = {"check_embedding_ctx_length": False, "api_key": served.key, **options}
    return OpenAIEmbeddings(base_url=f"{served.url}/v1", model=model, **options)


def texts_give_the_encoders_vectors(served: Served) -> None:
    served.check(embeddings(served, served.model).embed_documents(served.texts), "passage")
    query = embeddings(served, f"{served.model}:query")
    served.check([query.embed_query(text) for text in served.texts], "query")
    served.check(embeddings(served, served.other).embed_documents(served.texts), "passage", served.other)


def it_sends_several_requests(served: Served) -> None:
    few = embeddings(served, served.model, chunk_size=2)
    served.check(few.embed_documents(served.texts), "passage")


def a_field_of_the_body_says_the_role(served: Served) -> None:
    options = {"model_kwargs": {"extra_body": {"role": "query"}}}
    served.check(embeddings(served, served.model, **options).embed_documents(served.texts), "query")


def calls_of_an_event_loop(served: Served) -> None:
    rows = asyncio.run(embeddings(served, served.model).aembed_documents(served.texts))
    served.check(rows, "passage")


def ids_are_refused_and_the_error_says_what_to_type(served: Served) -> None:
    """It is the default. Ids of another tokenizer would give wrong vectors without an error."""
    there = embeddings(served, served.model, check_embedding_ctx_length=True)
    for call in (
        lambda: there.embed_documents(served.texts),
        lambda: there.embed_query("a"),
        lambda: asyncio.run(there.aembed_documents(served.texts)),
    ):
        error = error_of(BadRequestError, call, "token ids", "check_embedding_ctx_length=False")
        assert error.status_code == 400


def errors_are_openais(served: Served) -> None:
    error_of(NotFoundError, lambda: embeddings(served, "gpt").embed_query("a"), "unknown model 'gpt'")
    role = embeddings(served, f"{served.model}:x")
    error_of(BadRequestError, lambda: role.embed_query("a"), "no role 'x'")
    many = ["a"] * (served.max_texts + 1)
    there = embeddings(served, served.model)
    assert error_of(APIStatusError, lambda: there.embed_documents(many)).status_code == 413
    other = embeddings(served, served.model, api_key="another")
    error_of(AuthenticationError, lambda: other.embed_query("a"))


if __name__ == "__main__":
    run(
        texts_give_the_encoders_vectors,
        it_sends_several_requests,
        a_field_of_the_body_says_the_role,
        calls_of_an_event_loop,
        ids_are_refused_and_the_error_says_what_to_type,
        errors_are_openais,
    )
