"""Chroma."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import chromadb
import numpy as np
from harness import Given, error_of, run

from paritas import errors
from paritas.integrations.chroma import ParitasEmbeddingFunction


def documents_and_queries(given: Given) -> None:
    for bundle in (given.minilm, given.pairs, given.prompted):
        function = ParitasEmbeddingFunction(bundle)
        given.check(function(given.texts), "passage", bundle)
        given.check(function.embed_query(given.queries), "query", bundle)


def threads(given: Given) -> None:
    function = ParitasEmbeddingFunction(given.minilm)
    given.check_threads(lambda query: function.embed_query([query])[0], "query")


def a_collection_that_another_client_opens(given: Given) -> None:
    client = chromadb.PersistentClient("store")
    collection = client.create_collection(
        "texts", embedding_function=ParitasEmbeddingFunction(given.minilm, threads=1)
    )
    assert collection.configuration["hnsw"]["space"] == "cosine"
    ids = [f"{place:03}" for place in range(len(given.texts))]
    collection.add(ids=ids, documents=given.texts)
    stored = collection.get(ids=ids, include=["embeddings"])
    order = [stored["ids"].index(one) for one in ids]
    given.check([stored["embeddings"][place] for place in order], "passage", within=1e-6)

    opened = client.get_collection("texts")  # without naming a function

    def find(query: str, k: int) -> list[str]:
        return opened.query(query_texts=[query], n_results=k)["documents"][0]

    given.check_search(find)


def a_collection_keeps_to_its_model(given: Given) -> None:
    moved = Path("moved")
    shutil.copytree(given.pairs, moved)
    client = chromadb.PersistentClient("other")
    collection = client.create_collection("texts", embedding_function=ParitasEmbeddingFunction(str(moved)))
    collection.add(ids=["0"], documents=["the river"])
    shutil.rmtree(moved)
    shutil.copytree(given.prompted, moved)
    error_of(
        Exception,
        lambda: client.get_collection("texts").query(query_texts=["a"]),
        "another model than the collection was made with",
    )


def a_collection_keeps_to_its_precision(given: Given) -> None:
    config = ParitasEmbeddingFunction(given.pairs, precision="auto", truncate_dim=np.int64(8)).get_config()
    assert config["options"] == {"precision": "fp32", "truncate_dim": 8}  # "auto" may be another elsewhere
    config = json.loads(json.dumps(config))
    assert ParitasEmbeddingFunction.build_from_config(config).get_config() == config
    config["family"] = "int8"
    error_of(
        errors.BundleError,
        lambda: ParitasEmbeddingFunction.build_from_config(config),
        "the collection has vectors with family 'int8'",
        'type: precision="int8"',
    )


def other_models_and_roles_are_refused(given: Given) -> None:
    client = chromadb.PersistentClient("store")
    collection = client.get_collection("texts")
    function = ParitasEmbeddingFunction(given.minilm)
    old = function.get_config()
    assert json.loads(json.dumps(old)) == old
    error_of(
        errors.InputError,
        lambda: function.validate_config_update(old, ParitasEmbeddingFunction(given.pairs).get_config()),
        "fingerprint",
        "new collection",
    )
    function.validate_config_update(old, ParitasEmbeddingFunction(given.minilm, threads=1).get_config())
    cut = ParitasEmbeddingFunction(given.minilm, truncate_dim=64).get_config()
    error_of(errors.InputError, lambda: function.validate_config_update(old, cut), "dim")
    error_of(
        errors.InputError, lambda: function.validate_config({"model": "x"}), "lacks dim, family, fingerprint"
    )
    narrow = ParitasEmbeddingFunction(given.pairs)
    vectors = narrow(["a"])
    error_of(Exception, lambda: collection.add(ids=["x"], embeddings=vectors), "dimension")


def bad_input(given: Given) -> None:
    function = ParitasEmbeddingFunction(given.minilm)
    error_of(errors.InputError, lambda: function(["a", None]), "text 1 is NoneType")
    error_of(errors.InputError, lambda: ParitasEmbeddingFunction(given.minilm, query_role="x"), "no role 'x'")
    error_of(errors.InputError, lambda: ParitasEmbeddingFunction(given.minilm, precison="x"), "'precision'?")


if __name__ == "__main__":
    run(
        documents_and_queries,
        threads,
        a_collection_that_another_client_opens,
        a_collection_keeps_to_its_model,
        a_collection_keeps_to_its_precision,
        other_models_and_roles_are_refused,
        bad_input,
    )
