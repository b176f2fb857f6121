"""One framework in an environment of its own, as bench_integrations asks for it.

    python integrations.py MODULE BUNDLE TEXTS ROUNDS

It encodes the texts of a JSON file through the integration and through `Encoder`, in turns, and writes the
seconds of both as JSON. It imports nothing of kernels_bench, which is not installed there.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from paritas import Encoder

Both = tuple[Callable[[list[str]], Any], Callable[[str], Any]]
"""Passages to vectors, and a query to its vector."""


def _haystack(module: Any, encoder: Encoder) -> Both:
    from haystack import Document

    path = str(encoder.bundle.directory)
    options = {"precision": encoder.precision}
    documents = module.ParitasDocumentEmbedder(path, options=options)
    asking = module.ParitasTextEmbedder(path, options=options)
    return (
        lambda texts: [
            one.embedding
            for one in documents.run(
                [Document(content=text, id=str(place)) for place, text in enumerate(texts)]
            )["documents"]
        ],
        lambda text: asking.run(text)["embedding"],
    )


def _fastembed(module: Any, encoder: Encoder) -> Both:
    from fastembed import TextEmbedding

    module.register("bench", encoder)
    model = TextEmbedding("bench")
    return lambda texts: list(model.embed(texts)), lambda text: next(iter(model.query_embed(text)))


def _litellm(module: Any, encoder: Encoder) -> Both:
    import litellm

    module.register("bench", encoder)

    def embed(name: str, texts: list[str]) -> Any:
        return [one["embedding"] for one in litellm.embedding(name, input=texts).data]

    return partial(embed, "paritas/bench"), lambda text: embed("paritas/bench:query", [text])[0]


def _mteb(module: Any, encoder: Encoder) -> Both:
    from mteb.types import PromptType

    model = module.ParitasEncoder(encoder)

    def passages(texts: list[str]) -> Any:
        batches = [{"text": texts[start : start + 32]} for start in range(0, len(texts), 32)]
        return model.encode(batches, prompt_type=PromptType.document)

    return passages, lambda text: model.encode([{"text": [text]}], prompt_type=PromptType.query)[0]


def _dspy(module: Any, encoder: Encoder) -> Both:
    asking = module.ParitasEmbedder(encoder, role="query")
    return module.ParitasEmbedder(encoder), lambda text: asking([text])[0]


def _txtai(module: Any, encoder: Encoder) -> Both:
    settings = module.settings(encoder.bundle.directory, precision=encoder.precision)
    vectors = module.ParitasVectors(settings, None, None)
    return lambda texts: vectors.encode(texts, "data"), lambda text: vectors.encode([text], "query")[0]


def _sentence_encoder(module: Any, encoder: Encoder) -> Both:
    model = module.SentenceEncoder(encoder)
    return model.encode_document, model.encode_query


def _sentence_transformers(module: Any, encoder: Encoder) -> Both:
    model = module.load(encoder)
    return model.encode_document, model.encode_query


def _langchain(module: Any, encoder: Encoder) -> Both:
    embeddings = module.ParitasEmbeddings(encoder)
    return embeddings.embed_documents, embeddings.embed_query


def _llama_index(module: Any, encoder: Encoder) -> Both:
    model = module.ParitasEmbedding(encoder.bundle.directory, options={"precision": encoder.precision})
    return model.get_text_embedding_batch, model.get_query_embedding


def _chroma(module: Any, encoder: Encoder) -> Both:
    function = module.ParitasEmbeddingFunction(encoder.bundle.directory, precision=encoder.precision)
    return function, lambda text: function.embed_query([text])[0]


def _beir(module: Any, encoder: Encoder) -> Both:
    model = module.ParitasModel(encoder)
    return model.encode_corpus, lambda text: model.encode_queries([text])[0]


def _lancedb(module: Any, encoder: Encoder) -> Both:
    options = {"precision": encoder.precision}
    made = module.ParitasEmbeddings.create(model=str(encoder.bundle.directory), options=options)
    return made.compute_source_embeddings, lambda text: made.compute_query_embeddings(text)[0]


RECIPES: dict[str, Callable[[Any, Encoder], Both]] = {
    "sentence_encoder": _sentence_encoder,
    "sentence_transformers": _sentence_transformers,
    "mteb": _mteb,
    "langchain": _langchain,
    "llama_index": _llama_index,
    "haystack": _haystack,
    "chroma": _chroma,
    "lancedb": _lancedb,
    "dspy": _dspy,
    "txtai": _txtai,
    "litellm": _litellm,
    "fastembed": _fastembed,
    "beir": _beir,
}


def main(name: str, bundle: str, texts: str, rounds: int) -> None:
    """Print the seconds of each round."""
    encoder = Encoder(bundle, precision="int8")
    given = json.loads(Path(texts).read_text(encoding="utf-8"))
    many, one = RECIPES[name](import_module(f"paritas.integrations.{name}"), encoder)
    ours: dict[str, Callable[[], Any]] = {
        "bulk": lambda: encoder.encode(given["passages"], role="passage"),
        "query": lambda: [encoder.encode([text], role="query")[0] for text in given["queries"]],
    }
    theirs: dict[str, Callable[[], Any]] = {
        "bulk": lambda: many(given["passages"]),
        "query": lambda: [one(text) for text in given["queries"]],
    }
    seconds: dict[str, dict[str, list[float]]] = {}
    for task, own in ours.items():
        expected = np.asarray(own(), np.float32)
        if not np.array_equal(np.asarray(theirs[task](), np.float32), expected):
            raise SystemExit(f"{name}: other vectors than Encoder's ({task})")
        seconds[task] = {"encoder": [], "integration": []}
        for _ in range(rounds):
            for who, call in (("encoder", own), ("integration", theirs[task])):
                begun = time.perf_counter()
                call()
                seconds[task][who].append(time.perf_counter() - begun)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
