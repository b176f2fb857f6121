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
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from paritas import Encoder

Both = tuple[Callable[[list[str]], Any], Callable[[str], Any]]
"""Passages to vectors, and a query to its vector."""


def _haystack(module: Any, encoder: Encoder) -> Both:
    from haystack import Document  # type: ignore[import-not-found]

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
    import litellm  # type: ignore[import-not-found]

    module.register("bench", encoder)

    def embed(texts: list[str], **options: Any) -> Any:
        return [one["embedding"] for one in litellm.embedding("paritas/bench", input=texts, **options).data]

    return embed, lambda text: embed([text], input_type="query")[0]


def _mteb(module: Any, encoder: Encoder) -> Both:
    from mteb.types import PromptType  # type: ignore[import-not-found]

    model = module.ParitasEncoder(encoder)

    def passages(texts: list[str]) -> Any:
        batches = [{"text": texts[start : start + 32]} for start in range(0, len(texts), 32)]
        return model.encode(batches, prompt_type=PromptType.document)

    return passages, lambda text: model.encode([{"text": [text]}], prompt_type=PromptType.query)[0]


def _dspy(module: Any, encoder: Encoder) -> Both:
    asking = module.ParitasEmbedder(encoder, role="query")
    return module.ParitasEmbedder(encoder), lambda text: asking([text])[0]


def _txtai(module: Any, encoder: Encoder) -> Both:
    transform = module.settings(encoder)["transform"]
    return transform, lambda text: transform(["\0query\0" + text])[0]


def _of(attribute: str, passages: str, query: str, *, path: bool = False) -> Callable[[Any, Encoder], Both]:
    def both(module: Any, encoder: Encoder) -> Both:
        options = {"precision": encoder.precision}
        if attribute == "ParitasEmbedding":
            options = {"options": options}
        model = encoder.bundle.directory if path else encoder
        made = getattr(module, attribute)(str(model) if path else model, **(options if path else {}))
        many, one = getattr(made, passages), getattr(made, query)
        single = query in ("encode_query", "embed_query", "get_query_embedding") and attribute != (
            "ParitasEmbeddingFunction"
        )
        return many, one if single else lambda text: one([text])[0]

    return both


def _lancedb(module: Any, encoder: Encoder) -> Both:
    options = {"precision": encoder.precision}
    made = module.ParitasEmbeddings.create(model=str(encoder.bundle.directory), options=options)
    return made.compute_source_embeddings, lambda text: made.compute_query_embeddings(text)[0]


RECIPES: dict[str, Callable[[Any, Encoder], Both]] = {
    "sentence_encoder": _of("SentenceEncoder", "encode_document", "encode_query"),
    "sentence_transformers": _of("load", "encode_document", "encode_query"),
    "mteb": _mteb,
    "langchain": _of("ParitasEmbeddings", "embed_documents", "embed_query"),
    "llama_index": _of("ParitasEmbedding", "get_text_embedding_batch", "get_query_embedding", path=True),
    "haystack": _haystack,
    "chroma": _of("ParitasEmbeddingFunction", "__call__", "embed_query", path=True),
    "lancedb": _lancedb,
    "dspy": _dspy,
    "txtai": _txtai,
    "litellm": _litellm,
    "fastembed": _fastembed,
    "beir": _of("ParitasModel", "encode_corpus", "encode_queries"),
}


def main(name: str, bundle: str, texts: str, rounds: int) -> None:
    """Print the seconds of each round."""
    encoder = Encoder(bundle, precision="int8")
    given = json.loads(Path(texts).read_text(encoding="utf-8"))
    many, one = RECIPES[name](import_module(f"paritas.integrations.{name}"), encoder)
    ours = {
        "bulk": lambda: encoder.encode(given["passages"], role="passage"),
        "query": lambda: [encoder.encode([text], role="query")[0] for text in given["queries"]],
    }
    theirs = {
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
