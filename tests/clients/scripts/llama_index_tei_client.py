"""llama-index's TextEmbeddingsInference: it names no role, and reads no status."""

from __future__ import annotations

import asyncio
from typing import Any

from harness import Served, error_of, run
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference


def embedding(served: Served, **options: Any) -> TextEmbeddingsInference:
    options = {"auth_token": served.key, "query_instruction": "", "text_instruction": "", **options}
    return TextEmbeddingsInference(model_name=served.model, base_url=served.url, **options)


def texts(served: Served) -> None:
    served.check(embedding(served).get_text_embedding_batch(served.texts), "passage")
    served.check([embedding(served).get_text_embedding(text) for text in served.texts], "passage")


def it_sends_several_requests(served: Served) -> None:
    served.check(embedding(served, embed_batch_size=2).get_text_embedding_batch(served.texts), "passage")


def a_query_is_a_passage_to_the_server(served: Served) -> None:
    """It sends no prompt_name."""
    there = embedding(served)
    served.check([there.get_query_embedding(text) for text in served.texts], "passage")


def calls_of_an_event_loop(served: Served) -> None:
    served.check(asyncio.run(embedding(served).aget_text_embedding_batch(served.texts)), "passage")


def an_error_gives_no_vector(served: Served) -> None:
    """It takes the error's document for the vectors, and stumbles over it."""
    other = embedding(served, auth_token="another")
    error_of(KeyError, lambda: other.get_text_embedding("a"))
    error_of(KeyError, lambda: other.get_query_embedding("a"))
    error_of(ValueError, lambda: other.get_text_embedding_batch(["a", "b"]), "no such API")


if __name__ == "__main__":
    run(
        texts,
        it_sends_several_requests,
        a_query_is_a_passage_to_the_server,
        calls_of_an_event_loop,
        an_error_gives_no_vector,
    )
