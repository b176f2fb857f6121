"""Haystack."""

from __future__ import annotations

import asyncio
import copy

from harness import Given, error_of, run
from haystack import Document, Pipeline
from haystack.components.retrievers import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore

from paritas import errors
from paritas.integrations.haystack import ParitasDocumentEmbedder, ParitasTextEmbedder


def documents_of(given: Given) -> list[Document]:
    rows = zip(given.texts, given.titles, strict=True)
    return [Document(content=text, meta={"title": title}) for text, title in rows]


def embeddings(answer: dict[str, list[Document]]) -> list[list[float] | None]:
    return [document.embedding for document in answer["documents"]]


def documents_and_queries(given: Given) -> None:
    for bundle in (given.minilm, given.pairs, given.prompted):
        documents = documents_of(given)
        embedder = ParitasDocumentEmbedder(bundle)
        given.check(embeddings(embedder.run(documents)), "passage", bundle)
        assert all(document.embedding is None for document in documents)
        asking = ParitasTextEmbedder(bundle)
        given.check([asking.run(query)["embedding"] for query in given.queries], "query", bundle)


def a_title_is_encoded_where_it_is_asked_for(given: Given) -> None:
    for bundle in (given.minilm, given.pairs):
        embedder = ParitasDocumentEmbedder(bundle, meta_fields_to_embed=["title"], embedding_separator=" ")
        given.check(embeddings(embedder.run(documents_of(given))), "titled", bundle)


def calls_of_an_event_loop(given: Given) -> None:
    async def many() -> None:
        asking, embedder = ParitasTextEmbedder(given.minilm), ParitasDocumentEmbedder(given.minilm)
        answers = await asyncio.gather(*map(asking.run_async, given.queries))
        given.check([answer["embedding"] for answer in answers], "query")
        given.check(embeddings(await embedder.run_async(documents_of(given))), "passage")

    asyncio.run(many())


def threads(given: Given) -> None:
    embedder = ParitasTextEmbedder(given.minilm)
    given.check_threads(lambda query: embedder.run(query)["embedding"], "query")


def dictionaries_and_copies(given: Given) -> None:
    embedder = ParitasDocumentEmbedder(given.pairs, meta_fields_to_embed=["title"], options={"threads": 1})
    again = ParitasDocumentEmbedder.from_dict(embedder.to_dict())
    for other in (again, copy.deepcopy(embedder)):
        assert other.to_dict() == embedder.to_dict()
        given.check(embeddings(other.run(documents_of(given))), "titled", given.pairs)


def attributes_that_change_are_what_runs(given: Given) -> None:
    options = {"truncate_dim": 8}
    embedder = ParitasTextEmbedder(given.pairs, options=options)
    options["truncate_dim"] = 4
    assert len(embedder.run("the river")["embedding"]) == 8
    embedder.model, embedder.options = given.prompted, None
    assert embedder.to_dict()["init_parameters"]["model"] == given.prompted
    given.check([embedder.run(query)["embedding"] for query in given.queries], "query", given.prompted)


def both_share_one_encoder_that_close_lets_go(given: Given) -> None:
    asking, embedder = ParitasTextEmbedder(given.minilm), ParitasDocumentEmbedder(given.minilm)
    asking.warm_up()
    embedder.warm_up()
    assert asking._encoder.encoder is embedder._encoder.encoder
    asking.close()
    assert asking._encoder is None
    asking.run("works again")


def a_pipeline(given: Given) -> None:
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    indexing = Pipeline()
    indexing.add_component("embedder", ParitasDocumentEmbedder(given.minilm))
    indexing.add_component("writer", DocumentWriter(store))
    indexing.connect("embedder.documents", "writer.documents")
    indexing.run({"embedder": {"documents": [Document(content=text) for text in dict.fromkeys(given.texts)]}})
    asking = Pipeline()
    asking.add_component("embedder", ParitasTextEmbedder(given.minilm))
    asking.add_component("retriever", InMemoryEmbeddingRetriever(store))
    asking.connect("embedder.embedding", "retriever.query_embedding")
    saved = Pipeline.loads(asking.dumps())
    assert saved.get_component("embedder").model == given.minilm

    def find(query: str, k: int) -> list[str]:
        found = asking.run({"embedder": {"text": query}, "retriever": {"top_k": k}})
        return [document.content or "" for document in found["retriever"]["documents"]]

    given.check_search(find)


def bad_input(given: Given) -> None:
    embedder, asking = ParitasDocumentEmbedder(given.minilm), ParitasTextEmbedder(given.minilm)
    error_of(errors.InputError, lambda: embedder.run("a"), "ParitasTextEmbedder")
    error_of(errors.InputError, lambda: embedder.run([Document(content="a"), None]), "no list of Documents")
    error_of(errors.InputError, lambda: asking.run(None), "expected a string")
    error_of(
        errors.InputError,
        lambda: ParitasDocumentEmbedder(given.minilm, meta_fields_to_embed="title"),
        "type: ['title']",
    )
    assert ParitasDocumentEmbedder(given.minilm, meta_fields_to_embed=None).meta_fields_to_embed == []
    error_of(
        errors.InputError, lambda: ParitasTextEmbedder(given.minilm, options="int8"), "as in {'precision'"
    )
    other = ParitasTextEmbedder(given.minilm, query_role="question")
    error_of(errors.InputError, other.warm_up, "no role 'question'", "type: query_role='query'")
    other = ParitasDocumentEmbedder(given.minilm, passage_role="text")
    error_of(errors.InputError, other.warm_up, "no role 'text'", "type: passage_role='query'")


if __name__ == "__main__":
    run(
        documents_and_queries,
        a_title_is_encoded_where_it_is_asked_for,
        calls_of_an_event_loop,
        threads,
        dictionaries_and_copies,
        attributes_that_change_are_what_runs,
        both_share_one_encoder_that_close_lets_go,
        a_pipeline,
        bad_input,
    )
