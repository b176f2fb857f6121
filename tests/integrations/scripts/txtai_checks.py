"""txtai."""

from __future__ import annotations

from harness import Given, error_of, run
from txtai import Embeddings

from paritas import errors
from paritas.integrations.txtai import settings


def documents_and_queries(given: Given) -> None:
    for bundle in (given.minilm, given.pairs, given.prompted):
        transform = settings(bundle)["transform"]
        given.check(transform(given.texts), "passage", bundle)
        embeddings = Embeddings(settings(bundle))  # which scales vectors to unit length
        queries = [embeddings.transform(query) for query in given.queries]
        given.check(queries, "query", bundle, within=1e-6)
        given.check(embeddings.batchtransform(given.queries), "query", bundle, within=1e-6)
        given.check(embeddings.batchtransform(given.texts, "data"), "passage", bundle, within=1e-6)


def threads(given: Given) -> None:
    transform = settings(given.minilm)["transform"]
    given.check_threads(lambda text: transform([text])[0], "passage")


def an_index(given: Given) -> None:
    embeddings = Embeddings(settings(given.minilm), content=True, backend="numpy")
    embeddings.index(given.texts)
    given.check_search(lambda query, k: [row["text"] for row in embeddings.search(query, k)])


def an_index_whose_roles_differ(given: Given) -> None:
    embeddings = Embeddings(settings(given.prompted), backend="numpy")
    embeddings.index(given.texts)
    exact = given.vectors(given.prompted, "query") @ given.vectors(given.prompted, "passage").T
    for query, scores in zip(given.queries[:20], exact, strict=False):
        best = embeddings.search(query, 1)[0]
        assert abs(best[1] - scores.max()) < 1e-5, (query, best, scores.max())


def bad_input(given: Given) -> None:
    error_of(errors.InputError, lambda: settings(given.minilm, query_role="x"), "no role 'x'")
    transform = settings(given.minilm)["transform"]
    error_of(errors.InputError, lambda: transform(["a", None]), "text 1 is NoneType")


if __name__ == "__main__":
    run(documents_and_queries, threads, an_index, an_index_whose_roles_differ, bad_input)
