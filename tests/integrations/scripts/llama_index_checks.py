"""LlamaIndex."""

from __future__ import annotations

import asyncio
import copy
import pickle

from harness import Given, error_of, run
from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.storage.kvstore import SimpleKVStore

from paritas import errors
from paritas.integrations.llama_index import ParitasEmbedding


def nodes_and_queries(given: Given) -> None:
    for bundle in (given.minilm, given.pairs, given.prompted):
        model = ParitasEmbedding(bundle)
        given.check(model.get_text_embedding_batch(given.texts), "passage", bundle)
        given.check([model.get_query_embedding(query) for query in given.queries], "query", bundle)
        given.check([model.get_text_embedding(text) for text in given.texts], "passage", bundle)


def calls_of_an_event_loop(given: Given) -> None:
    model = ParitasEmbedding(given.minilm)

    async def many() -> None:
        given.check(await asyncio.gather(*map(model.aget_query_embedding, given.queries)), "query")
        given.check(await model.aget_text_embedding_batch(given.texts), "passage")

    asyncio.run(many())


def threads(given: Given) -> None:
    given.check_threads(ParitasEmbedding(given.minilm).get_query_embedding, "query")


def copies(given: Given) -> None:
    model = ParitasEmbedding(given.minilm, options={"threads": 1})
    again = ParitasEmbedding.from_dict(model.to_dict())
    assert again._encoder.encoder is model._encoder.encoder  # one bundle is loaded once
    for other in (again, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.options == {"threads": 1, "precision": "fp32"}
        given.check(other.get_text_embedding_batch(given.texts), "passage")


def a_batch_is_as_large_as_may_be(given: Given) -> None:
    model = ParitasEmbedding(given.minilm)
    model.get_text_embedding_batch(given.texts)
    assert model._encoder.encoder.last_stats.texts == len(given.texts)


def an_index(given: Given) -> None:
    documents = [Document(text=text) for text in given.texts if text]
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(chunk_size=4096), ParitasEmbedding(given.minilm)]
    )
    nodes = pipeline.run(documents=documents)
    index = VectorStoreIndex(nodes, embed_model=ParitasEmbedding(given.minilm))

    def find(query: str, k: int) -> list[str]:
        found = index.as_retriever(similarity_top_k=k).retrieve(query)
        return [
            text for one in found for text in given.texts if text.strip() == one.node.get_content().strip()
        ]

    given.check_search(find)


def a_cache_that_mixes_roles_is_refused(given: Given) -> None:
    cache = SimpleKVStore()
    error_of(
        errors.InputError,
        lambda: ParitasEmbedding(given.prompted, embeddings_cache=cache),
        "embeddings_cache",
    )
    roles = {"query_role": "passage"}
    model = ParitasEmbedding(given.prompted, embeddings_cache=cache, **roles)
    given.check(model.get_text_embedding_batch(given.texts), "passage", given.prompted)
    model = ParitasEmbedding(given.prompted)
    error_of(errors.InputError, lambda: setattr(model, "embeddings_cache", cache), "embeddings_cache")
    error_of(errors.InputError, lambda: setattr(model, "query_role", "passage"), "make another")
    model.embed_batch_size = 7


def a_cache_keeps_to_one_encoder(given: Given) -> None:
    cache = SimpleKVStore()
    expected = ParitasEmbedding(given.minilm, embeddings_cache=cache).get_text_embedding("the river")
    again = ParitasEmbedding(given.minilm, embeddings_cache=SimpleKVStore.from_dict(cache.to_dict()))
    assert again.get_text_embedding("the river") == expected
    roles = {"query_role": "passage"}
    ParitasEmbedding(given.minilm, embeddings_cache=cache, **roles)  # which encodes both alike
    filled = SimpleKVStore()
    MockEmbedding(embed_dim=384, embeddings_cache=filled).get_text_embedding_batch(["the river"])
    error_of(
        errors.BundleError, lambda: ParitasEmbedding(given.minilm, embeddings_cache=filled), "an empty one"
    )
    for other in (
        lambda: ParitasEmbedding(given.minilm, embeddings_cache=cache, options={"truncate_dim": 64}),
        lambda: ParitasEmbedding(given.prompted, embeddings_cache=cache, **roles),
    ):
        error_of(errors.BundleError, other, "embeddings_cache")


def what_was_saved_keeps_to_its_model(given: Given) -> None:
    saved = ParitasEmbedding(given.pairs, options={"precision": "auto"}).to_dict()
    assert saved["options"] == {"precision": "fp32"}  # "auto" may be another elsewhere
    error_of(
        errors.BundleError,
        lambda: ParitasEmbedding.from_dict({**saved, "model": given.prompted}),
        "another model",
    )
    error_of(
        errors.BundleError,
        lambda: ParitasEmbedding.from_dict({**saved, "family": "int8"}),
        'precision="int8"',
    )


def bad_input(given: Given) -> None:
    model = ParitasEmbedding(given.minilm)
    error_of(errors.InputError, lambda: model.get_text_embedding_batch(["a", None]), "text 1 is NoneType")
    error_of(errors.InputError, lambda: model.get_text_embedding_batch("abc"), "a single string")
    error_of(
        errors.InputError, lambda: asyncio.run(model.aget_text_embedding_batch({"a": "b"})), "yields its keys"
    )
    error_of(
        errors.InputError, lambda: ParitasEmbedding(given.minilm, precision="fp32"), "options={'precision'"
    )
    error_of(
        errors.InputError, lambda: ParitasEmbedding(given.minilm, nonsense=1), "unknown setting 'nonsense'"
    )
    error_of(
        errors.InputError, lambda: ParitasEmbedding(given.minilm, passage_role="text"), "passage_role='query'"
    )


if __name__ == "__main__":
    run(
        nodes_and_queries,
        calls_of_an_event_loop,
        threads,
        copies,
        a_batch_is_as_large_as_may_be,
        an_index,
        a_cache_that_mixes_roles_is_refused,
        a_cache_keeps_to_one_encoder,
        what_was_saved_keeps_to_its_model,
        bad_input,
    )
