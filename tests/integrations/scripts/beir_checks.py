"""BEIR."""

from __future__ import annotations

import numpy as np
from beir.retrieval.evaluation import EvaluateRetrieval
from beir.retrieval.search.dense import DenseRetrievalExactSearch
from harness import Given, error_of, run

from paritas import errors
from paritas.integrations.beir import ParitasModel


def queries_and_documents(given: Given) -> None:
    for bundle in (given.minilm, given.pairs, given.prompted):
        model = ParitasModel(bundle)
        given.check(
            model.encode_queries(given.queries, batch_size=16, convert_to_tensor=True), "query", bundle
        )
        given.check(model.encode_corpus(given.texts), "passage", bundle)
        rows = [{"title": title, "text": text} for title, text in zip(given.titles, given.texts, strict=True)]
        given.check(model.encode_corpus(rows, batch_size=8), "titled", bundle)
        given.check(model.encode_corpus({"title": given.titles, "text": given.texts}), "titled", bundle)


def threads(given: Given) -> None:
    model = ParitasModel(given.minilm)
    given.check_threads(lambda query: model.encode_queries([query])[0], "query")


def an_evaluation(given: Given) -> None:
    corpus = {f"d{place}": {"title": "", "text": text} for place, text in enumerate(given.texts)}
    queries = {f"q{place}": text for place, text in enumerate(given.queries)}
    exact = given.vectors(given.minilm, "query") @ given.vectors(given.minilm, "passage").T
    best = np.argmax(exact, axis=1)
    qrels = {
        f"q{place}": {f"d{other}": 1 for other, text in enumerate(given.texts) if text == given.texts[one]}
        for place, one in enumerate(best)
    }
    search = EvaluateRetrieval(DenseRetrievalExactSearch(ParitasModel(given.minilm)), score_function="dot")
    results = search.retrieve(corpus, queries)
    ndcg, *_ = search.evaluate(qrels, results, [1, 10])
    assert ndcg["NDCG@10"] > 0.98, ndcg
    given.check_search(
        lambda query, k: [
            given.texts[int(one[1:])]
            for one, _ in sorted(results[f"q{given.queries.index(query)}"].items(), key=lambda hit: -hit[1])[
                :k
            ]
        ]
    )


def bad_input(given: Given) -> None:
    model = ParitasModel(given.minilm)
    error_of(errors.InputError, lambda: model.encode_queries(["a", None]), "text 1 is NoneType")
    error_of(errors.InputError, lambda: ParitasModel(given.minilm, query_role="x"), "no role 'x'")
    for corpus, said in (
        ("river", "a single string"),
        ({"text": "abc"}, "a single string"),
        ({"d1": {"text": "river"}}, "list(corpus.values())"),
        ({"text": ["a", "b"], "title": ["x"]}, "2 texts and 1 titles"),
        ([None], "a document is None"),
        ([("title", "text")], "a document is ('title', 'text')"),
        ([{"title": "sky", "text": None}], "text is NoneType"),
        ([{"title": 5, "text": "sky"}], "title is int"),
    ):
        error_of(errors.InputError, lambda corpus=corpus: model.encode_corpus(corpus), said)
    given.check(model.encode_corpus([{"title": None, "text": text} for text in given.texts]), "passage")


if __name__ == "__main__":
    run(queries_and_documents, threads, an_evaluation, bad_input)
