"""LangChain."""

from __future__ import annotations

import asyncio
import copy
import pickle

from harness import Given, error_of, run
from langchain_core.vectorstores import InMemoryVectorStore

from paritas import Encoder, errors
from paritas.integrations.langchain import ParitasEmbeddings


def documents_and_queries(given: Given) -> None:
    for bundle in (given.minilm, given.pairs, given.prompted):
        embeddings = ParitasEmbeddings(bundle)
        given.check(embeddings.embed_documents(given.texts), "passage", bundle)
        given.check([embeddings.embed_query(query) for query in given.queries], "query", bundle)


def calls_of_an_event_loop(given: Given) -> None:
    embeddings = ParitasEmbeddings(given.minilm)

    async def many() -> None:
        queries = await asyncio.gather(*map(embeddings.aembed_query, given.queries))
        given.check(queries, "query")
        # More at once than an AsyncEncoder's queue takes: they wait.
        for rows in await asyncio.gather(*[embeddings.aembed_documents(given.texts * 4) for _ in range(12)]):
            given.check(rows[: len(given.texts)], "passage")

    asyncio.run(many())
    asyncio.run(many())  # in another loop


def threads(given: Given) -> None:
    given.check_threads(ParitasEmbeddings(given.minilm).embed_query, "query")


def copies(given: Given) -> None:
    embeddings = ParitasEmbeddings(given.minilm)
    asyncio.run(embeddings.aembed_query("a"))
    for other in (copy.deepcopy(embeddings), pickle.loads(pickle.dumps(embeddings))):
        given.check(other.embed_documents(given.texts), "passage")
        asyncio.run(other.aembed_query("a"))


def a_vector_store(given: Given) -> None:
    store = InMemoryVectorStore.from_texts(given.texts, ParitasEmbeddings(Encoder(given.minilm)))
    given.check_search(lambda query, k: [one.page_content for one in store.similarity_search(query, k=k)])


def bad_input(given: Given) -> None:
    embeddings = ParitasEmbeddings(given.minilm)
    error_of(errors.InputError, lambda: embeddings.embed_documents(["a", None]), "text 1 is NoneType")
    error_of(errors.InputError, lambda: embeddings.embed_query(None), "text 0 is NoneType")
    error_of(errors.InputError, lambda: asyncio.run(embeddings.aembed_documents("abc")), "single string")
    error_of(
        errors.InputError,
        lambda: ParitasEmbeddings(given.minilm, query_role="question"),
        "no role 'question'",
        "query_role='query'",
    )
    error_of(
        errors.InputError, lambda: ParitasEmbeddings(Encoder(given.minilm), threads=1), "leave out threads"
    )


if __name__ == "__main__":
    run(documents_and_queries, calls_of_an_event_loop, threads, copies, a_vector_store, bad_input)
