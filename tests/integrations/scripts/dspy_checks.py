"""DSPy."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import dspy
import numpy as np
from harness import Given, error_of, run

from paritas import Encoder, errors
from paritas.integrations.dspy import ParitasEmbedder, ParitasRetriever


def texts_of_one_role(given: Given) -> None:
    for bundle in (given.minilm, given.pairs, given.prompted):
        passages, queries = ParitasEmbedder(bundle), ParitasEmbedder(bundle, role="query")
        given.check(passages(given.texts), "passage", bundle)
        given.check([queries(query) for query in given.queries], "query", bundle)
        given.check(asyncio.run(queries.acall(given.queries)), "query", bundle)


def without_us_the_cache_mixes_encoders(given: Given) -> None:
    """The fault that `caching=False` is there for: one function's source, two encoders."""

    def function(encoder: Encoder):
        return lambda texts: encoder.encode(texts, role="passage")

    first = dspy.Embedder(function(Encoder(given.pairs)))(["the river"])
    other = dspy.Embedder(function(Encoder(given.prompted)))(["the river"])
    assert np.array_equal(first, other), "DSPy tells functions apart now: caching could be allowed"
    ours = ParitasEmbedder(given.pairs)(["the river"]), ParitasEmbedder(given.prompted)(["the river"])
    assert not np.array_equal(*ours)
    error_of(
        errors.InputError, lambda: ParitasEmbedder(given.pairs)(["a"], caching=True), "leave out caching"
    )


def threads(given: Given) -> None:
    given.check_threads(ParitasEmbedder(given.minilm, role="query"), "query")


def a_retriever(given: Given) -> None:
    for bundle in (given.pairs, given.prompted):
        retriever = ParitasRetriever(given.texts, bundle, k=3, normalize=False)
        given.check(retriever.corpus_embeddings, "passage", bundle)
        given.check(retriever.embedder(given.queries), "query", bundle)
    retriever = ParitasRetriever(given.texts, given.minilm, k=3, normalize=False)
    given.check_search(lambda query, _k: retriever(query).passages)
    retriever.save("saved")
    again = ParitasRetriever.from_saved("saved", given.minilm)
    given.check_search(lambda query, _k: again(query).passages)
    given.check(again.embedder(given.queries), "query")
    error_of(errors.BundleError, lambda: ParitasRetriever.from_saved("saved", given.pairs), "another model")
    error_of(
        errors.BundleError, lambda: ParitasRetriever.from_saved("nowhere", given.pairs), "no paritas.json"
    )


def what_was_saved_opens_with_its_encoder_alone(given: Given) -> None:
    ParitasRetriever(["blue", "night"], given.prompted).save("prompted")
    retriever = ParitasRetriever(["river", "sky"], given.pairs)
    retriever.load("prompted", ParitasEmbedder(given.prompted, role="query")).save("again")
    assert ParitasRetriever.from_saved("again", given.prompted).corpus == ["blue", "night"]
    for embedder, said in (
        (ParitasEmbedder(given.pairs, role="query"), "another model"),
        (ParitasEmbedder(given.prompted, role="passage"), "query_role 'query'"),
        (ParitasEmbedder(given.prompted, role="query", truncate_dim=8), "truncate_dim=16"),
    ):
        error_of(errors.BundleError, lambda one=embedder: retriever.load("prompted", one), said)
    error_of(errors.InputError, lambda: retriever.load("prompted", len), "from_saved(path, model)")
    facts = json.loads(Path("prompted/paritas.json").read_text())
    Path("prompted/paritas.json").write_text(json.dumps({**facts, "family": "int8"}))
    error_of(
        errors.BundleError,
        lambda: ParitasRetriever.from_saved("prompted", given.prompted),
        'precision="int8"',
    )


def bad_input(given: Given) -> None:
    embedder = ParitasEmbedder(given.minilm)
    error_of(ValueError, lambda: embedder(["a", None]), "strings")
    error_of(errors.InputError, lambda: ParitasEmbedder(given.minilm, role="x"), "type: role='query'")
    error_of(errors.InputError, lambda: ParitasRetriever([], given.minilm), "the corpus is empty")
    error_of(errors.InputError, lambda: ParitasRetriever("abc", given.minilm), "a single string")
    error_of(errors.InputError, lambda: ParitasRetriever({"a": "b"}, given.minilm), "yields its keys")
    error_of(
        errors.InputError,
        lambda: ParitasRetriever(["a"], given.minilm, precision="int8"),
        "type: options={'precision': ...}",
    )


if __name__ == "__main__":
    run(
        texts_of_one_role,
        without_us_the_cache_mixes_encoders,
        threads,
        a_retriever,
        what_was_saved_opens_with_its_encoder_alone,
        bad_input,
    )
