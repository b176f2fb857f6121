"""langchain-openai as it is by default, and a server that turns its token ids back into texts."""

from __future__ import annotations

import asyncio

from harness import Served, error_of, run
from langchain_openai import OpenAIEmbeddings
from openai import NotFoundError


def embeddings(served: Served, model: str) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(base_url=f"{served.url}/v1", model=model, api_key=served.key)


def ids_give_the_vectors_of_their_texts(served: Served) -> None:
    served.check(embeddings(served, served.model).embed_documents(served.texts), "passage")
    query = embeddings(served, f"{served.other}:query")
    served.check([query.embed_query(text) for text in served.texts], "query", served.other)


def calls_of_an_event_loop(served: Served) -> None:
    rows = asyncio.run(embeddings(served, served.model).aembed_documents(served.texts))
    served.check(rows, "passage")


def errors_are_openais(served: Served) -> None:
    error_of(NotFoundError, lambda: embeddings(served, "gpt").embed_query("a"), "unknown model 'gpt'")


if __name__ == "__main__":
    run(ids_give_the_vectors_of_their_texts, calls_of_an_event_loop, errors_are_openais)
