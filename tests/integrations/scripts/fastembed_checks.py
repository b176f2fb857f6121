"""fastembed, and Qdrant's client through it."""

from __future__ import annotations

from pathlib import Path

from fastembed import TextEmbedding
from harness import Given, error_of, run
from qdrant_client import QdrantClient, models

from paritas import errors
from paritas.integrations.fastembed import register

NAME = "paritas/all-MiniLM-L6-v2"


def documents_and_queries(given: Given) -> None:
    for name, bundle in ((NAME, given.minilm), ("pairs", given.pairs), ("prompted", given.prompted)):
        register(name, bundle)
        model = TextEmbedding(name)
        given.check(list(model.embed(given.texts)), "passage", bundle)
        given.check(list(model.passage_embed(given.texts)), "passage", bundle)
        given.check(list(model.query_embed(given.queries)), "query", bundle)
        given.check([next(iter(model.query_embed(query))) for query in given.queries], "query", bundle)
        assert model.embedding_size == given.vectors(bundle, "query").shape[1]
    names = [one["model"] for one in TextEmbedding.list_supported_models()]
    assert {NAME, "pairs", "prompted"} <= set(names)


def a_generator_is_read_in_parts(given: Given) -> None:
    read = []
    vectors = TextEmbedding("pairs").embed(read.append(place) or str(place) for place in range(10_000))
    next(iter(vectors))
    assert len(read) < 5000, len(read)


def tokens_are_counted(given: Given) -> None:
    model = TextEmbedding(NAME)
    assert model.token_count("the river") == 4
    assert model.token_count(["the river", "", "the river"]) == 10


def threads(given: Given) -> None:
    model = TextEmbedding(NAME)
    given.check_threads(lambda query: next(iter(model.query_embed(query))), "query")


def a_collection_of_qdrants(given: Given) -> None:
    client = QdrantClient(":memory:")
    size = client.get_embedding_size(NAME)
    client.create_collection(
        "texts", vectors_config=models.VectorParams(size=size, distance=models.Distance.COSINE)
    )
    documents = [models.Document(text=text, model=NAME) for text in given.texts]
    client.upload_collection(
        "texts",
        vectors=documents,
        ids=list(range(len(documents))),
        payload=[{"text": text} for text in given.texts],
    )

    def find(query: str, k: int) -> list[str]:
        found = client.query_points("texts", query=models.Document(text=query, model=NAME), limit=k)
        return [point.payload["text"] for point in found.points]

    given.check_search(find)


def bad_input(given: Given) -> None:
    model = TextEmbedding(NAME)
    error_of(errors.InputError, lambda: list(model.embed(["a", None])), "text 1 is NoneType")
    error_of(errors.InputError, lambda: register("x", given.minilm, query_role="x"), "no role 'x'")
    for name in ("", None):
        error_of(errors.InputError, lambda name=name: register(name, given.minilm), "expected a string")
    register(NAME, given.minilm)  # the same once more
    error_of(errors.InputError, lambda: register(NAME, given.pairs), "is all-MiniLM-L6-v2 already")
    error_of(errors.InputError, lambda: list(model.embed({"a": "river"})), "yields its keys")
    error_of(errors.InputError, lambda: model.token_count({"river", "sky"}), "has no order")
    with Path(__file__).open() as file:
        error_of(errors.InputError, lambda: list(model.embed(file)), "an open file")
    taken = "BAAI/bge-small-en-v1.5"
    error_of(errors.InputError, lambda: register(taken, given.minilm), "of its own", f"paritas/{taken}")


if __name__ == "__main__":
    run(
        documents_and_queries,
        a_generator_is_read_in_parts,
        tokens_are_counted,
        threads,
        a_collection_of_qdrants,
        bad_input,
    )
