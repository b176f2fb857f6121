"""txtai."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path

from harness import Given, error_of, run
from txtai import Embeddings

from paritas import errors
from paritas.integrations.txtai import ParitasVectors, settings


def documents_and_queries(given: Given) -> None:
    for bundle in (given.minilm, given.pairs, given.prompted):
        vectors = ParitasVectors(settings(bundle), None, None)
        given.check(vectors.encode(given.texts, "data"), "passage", bundle)
        given.check(vectors.encode(given.queries, "query"), "query", bundle)
        embeddings = Embeddings(settings(bundle))  # which scales vectors to unit length
        queries = [embeddings.transform(query) for query in given.queries]
        given.check(queries, "query", bundle, within=1e-6)
        given.check(embeddings.batchtransform(given.queries), "query", bundle, within=1e-6)
        given.check(embeddings.batchtransform(given.texts, "data"), "passage", bundle, within=1e-6)


def threads(given: Given) -> None:
    vectors = ParitasVectors(settings(given.minilm), None, None)
    given.check_threads(lambda text: vectors.encode([text], "data")[0], "passage")


def an_index(given: Given) -> None:
    embeddings = Embeddings(settings(given.minilm), content=True, backend="numpy")
    embeddings.index(given.texts)
    given.check_search(lambda query, k: [row["text"] for row in embeddings.search(query, k)])


def an_index_whose_roles_differ(given: Given) -> None:
    # Instructions of a user's own stand in front of texts, and change no role.
    for more in ({}, {"instructions": {"data": ""}}):
        embeddings = Embeddings({**settings(given.prompted), **more}, backend="numpy")
        embeddings.index(given.texts)
        exact = given.vectors(given.prompted, "query") @ given.vectors(given.prompted, "passage").T
        for query, scores in zip(given.queries[:20], exact, strict=False):
            best = embeddings.search(query, 1)[0]
            assert abs(best[1] - scores.max()) < 1e-5, (query, best, scores.max())


def an_index_is_opened_by_its_name(given: Given) -> None:
    embeddings = Embeddings(settings(given.minilm, precision="auto"), content=True, backend="numpy")
    embeddings.index(given.texts)
    embeddings.save("saved")
    opened = Embeddings()
    opened.load("saved")
    given.check_search(lambda query, k: [row["text"] for row in opened.search(query, k)])
    opened.load("saved", config=settings(given.minilm))  # the same once more
    given.check_search(lambda query, k: [row["text"] for row in opened.search(query, k)])


def a_closed_index_lets_its_encoder_go(given: Given) -> None:
    embeddings = Embeddings(settings(given.pairs, precision="auto", threads=1))
    embeddings.transform("the river")
    mine = weakref.ref(embeddings.model._loaded().encoder)
    embeddings.close()
    del embeddings
    gc.collect()
    assert mine() is None


def an_index_keeps_to_its_encoder(given: Given) -> None:
    moved = Path("moved")
    shutil.copytree(given.pairs, moved)
    embeddings = Embeddings(settings("moved"), content=True, backend="numpy")
    embeddings.index(["the river", "the sky"])
    embeddings.save("kept")
    opened = Embeddings()
    for other in (settings(given.prompted), settings("moved", query_role="passage")):
        opened.load("kept", config=other)
        error_of(errors.BundleError, lambda: opened.search("the river", 1), "other settings")
    shutil.rmtree(moved)
    shutil.copytree(given.prompted, moved)
    opened.load("kept")
    error_of(errors.BundleError, lambda: opened.search("the river", 1), "another model than the index")


def bad_input(given: Given) -> None:
    error_of(errors.InputError, lambda: settings(given.minilm, query_role="x"), "no role 'x'")
    vectors = ParitasVectors(settings(given.minilm), None, None)
    error_of(errors.InputError, lambda: vectors.encode(["a", None], "data"), "text 1 is NoneType")
    error_of(errors.InputError, lambda: vectors.encode("abc", "data"), "a single string")


if __name__ == "__main__":
    run(
        documents_and_queries,
        threads,
        an_index,
        an_index_whose_roles_differ,
        an_index_is_opened_by_its_name,
        a_closed_index_lets_its_encoder_go,
        an_index_keeps_to_its_encoder,
        bad_input,
    )
