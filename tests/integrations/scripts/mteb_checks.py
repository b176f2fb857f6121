"""mteb, with a local task."""

from __future__ import annotations

from typing import Any

import mteb
from datasets import Dataset
from harness import Given, error_of, run
from mteb.models import EncoderProtocol, ModelMeta
from mteb.types import PromptType

from paritas import errors
from paritas.integrations.mteb import ParitasEncoder


def batches(**columns: list[str]) -> list[dict[str, list[str]]]:
    count = len(next(iter(columns.values())))
    return [
        {name: column[start : start + 32] for name, column in columns.items()}
        for start in range(0, count, 32)
    ]


def encode(model: ParitasEncoder, inputs: Any, kind: PromptType | None) -> Any:
    return model.encode(inputs, task_metadata=None, hf_split="test", hf_subset="default", prompt_type=kind)


def queries_and_documents(given: Given) -> None:
    for bundle in (given.minilm, given.pairs, given.prompted):
        model = ParitasEncoder(bundle)
        assert isinstance(model, EncoderProtocol)
        given.check(encode(model, batches(text=given.queries), PromptType.query), "query", bundle)
        given.check(encode(model, batches(text=given.queries), None), "query", bundle)
        given.check(encode(model, batches(text=given.texts), PromptType.document), "passage", bundle)
        joined = [f"{title} {text}".strip() for title, text in zip(given.titles, given.texts, strict=True)]
        titled = batches(text=joined, title=given.titles, body=given.texts)
        given.check(encode(model, titled, PromptType.document), "titled", bundle)


def it_is_described(given: Given) -> None:
    meta = ParitasEncoder(given.minilm).mteb_model_meta
    assert isinstance(meta, ModelMeta)
    assert (meta.name, meta.embed_dim, meta.max_tokens) == ("paritas/all-MiniLM-L6-v2", 384, 256)
    assert meta.revision and meta.revision.endswith("-fp32")
    others = [
        ParitasEncoder(given.minilm, truncate_dim=64),
        ParitasEncoder(given.minilm, query_role="passage"),
        ParitasEncoder(given.pairs),
    ]
    assert len({meta.revision, *(other.mteb_model_meta.revision for other in others)}) == 4
    assert meta.use_instructions is False
    assert ParitasEncoder(given.prompted).mteb_model_meta.use_instructions is True


def threads(given: Given) -> None:
    model = ParitasEncoder(given.minilm)
    given.check_threads(lambda query: encode(model, [{"text": [query]}], PromptType.query)[0], "query")


def retrieval(corpus: list[dict[str, str]], queries: dict[str, str], qrels: dict[str, dict[str, int]]) -> Any:
    """Return SciFact's task over a collection of ours."""
    task = mteb.get_task("SciFact")
    asked = [{"id": key, "text": text} for key, text in queries.items()]
    split = {
        "corpus": Dataset.from_list(corpus),
        "queries": Dataset.from_list(asked),
        "relevant_docs": qrels,
        "top_ranked": None,
    }
    task.dataset, task.data_loaded = {"default": {"test": split}}, True
    return task


def result_of(model: ParitasEncoder, task: Any) -> dict[str, Any]:
    found = mteb.evaluate(model, task, cache=None, show_progress_bar=False, co2_tracker=False)
    assert found.model_name == model.mteb_model_meta.name
    return found.task_results[0].scores["test"][0]


def a_search(given: Given) -> None:
    exact = given.vectors(given.minilm, "query") @ given.vectors(given.minilm, "passage").T
    exact[:, [not text for text in given.texts]] = -1  # mteb takes no empty document
    corpus = [
        {"id": f"d{place}", "title": "", "text": text} for place, text in enumerate(given.texts) if text
    ]
    queries = {f"q{place}": text for place, text in enumerate(given.queries) if text}
    best = {key: given.texts[exact[int(key[1:])].argmax()] for key in queries}
    qrels = {
        key: {f"d{place}": 1 for place, text in enumerate(given.texts) if text == best[key]}
        for key in queries
    }
    scores = result_of(ParitasEncoder(given.minilm), retrieval(corpus, queries, qrels))
    assert scores["ndcg_at_10"] > 0.99, scores["ndcg_at_10"]


def bad_input(given: Given) -> None:
    model = ParitasEncoder(given.minilm)
    error_of(
        errors.InputError, lambda: encode(model, [{"text": ["a", None]}], PromptType.query), "is NoneType"
    )
    error_of(errors.InputError, lambda: ParitasEncoder(given.minilm, query_role="x"), "no role 'x'")
    error_of(errors.InputError, lambda: encode(model, [{"text": ["a"]}], "passage"), "'query' or 'document'")
    error_of(errors.InputError, lambda: encode(model, ["a"], None), "expected a mapping with")
    error_of(errors.InputError, lambda: encode(model, [{"text": "abc"}], None), "a single string")
    titled = {"text": ["sky"], "title": ["sky"], "body": [None]}
    error_of(errors.InputError, lambda: encode(model, [titled], PromptType.document), "text is NoneType")


if __name__ == "__main__":
    run(queries_and_documents, it_is_described, threads, a_search, bad_input)
