"""LanceDB."""

from __future__ import annotations

import lancedb
import pyarrow as pa
from harness import Given, error_of, run
from lancedb.embeddings import get_registry
from lancedb.pydantic import LanceModel, Vector

import paritas.integrations.lancedb  # noqa: F401 - registers the function
from paritas import errors


def function_of(model: str, **settings: object):
    return get_registry().get("paritas").create(model=model, **settings)


def rows_and_queries(given: Given) -> None:
    for bundle in (given.minilm, given.pairs, given.prompted):
        function = function_of(bundle)
        for texts in (given.texts, pa.array(given.texts), pa.chunked_array([given.texts])):
            given.check(function.compute_source_embeddings(texts), "passage", bundle)
        queries = [function.compute_query_embeddings(query)[0] for query in given.queries]
        given.check(queries, "query", bundle)


def threads(given: Given) -> None:
    function = function_of(given.minilm)
    given.check_threads(lambda query: function.compute_query_embeddings(query)[0], "query")


def a_table_that_another_connection_opens(given: Given) -> None:
    function = function_of(given.minilm, options={"threads": 1})

    class Row(LanceModel):
        text: str = function.SourceField()
        vector: Vector(function.ndims()) = function.VectorField()  # type: ignore[valid-type]

    table = lancedb.connect("store").create_table("texts", schema=Row)
    table.add([{"text": text} for text in given.texts])
    given.check(table.to_arrow()["vector"].to_pylist(), "passage")
    opened = lancedb.connect("store").open_table("texts")

    def find(query: str, k: int) -> list[str]:
        return [row["text"] for row in opened.search(query).metric("cosine").limit(k).to_list()]

    given.check_search(find)


def a_table_keeps_to_its_model(given: Given) -> None:
    kept = function_of(given.pairs, options={"precision": "auto"}).safe_model_dump()
    assert kept["fingerprint"]
    assert kept["options"] == {"precision": "fp32"}  # "auto" may be another elsewhere
    error_of(errors.BundleError, lambda: function_of(**{**kept, "model": given.prompted}), "another model")
    error_of(errors.BundleError, lambda: function_of(**{**kept, "family": "int8"}), 'precision="int8"')


def bad_input(given: Given) -> None:
    function = function_of(given.minilm)
    error_of(errors.InputError, lambda: function_of(given.minilm, precision="fp32"), "options={'precision'")
    error_of(errors.InputError, lambda: function_of(given.minilm, nonsense=1), "unknown setting 'nonsense'")
    error_of(
        errors.InputError,
        lambda: function.compute_source_embeddings_with_retry(["a", None]),
        "text 1 is NoneType",
    )
    error_of(errors.InputError, lambda: function_of(given.minilm, query_role="x"), "no role 'x'")


if __name__ == "__main__":
    run(
        rows_and_queries,
        threads,
        a_table_that_another_connection_opens,
        a_table_keeps_to_its_model,
        bad_input,
    )
