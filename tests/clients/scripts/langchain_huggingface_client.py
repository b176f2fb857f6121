"""langchain-huggingface: HuggingFaceEndpointEmbeddings takes an address through its client alone."""

from __future__ import annotations

import asyncio
from typing import Any

from harness import Served, error_of, run
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from langchain_huggingface import HuggingFaceEndpointEmbeddings


def embeddings(served: Served, role: str = "", key: str = "") -> HuggingFaceEndpointEmbeddings:
    """Return embeddings whose texts have a role.

    The field `model` refuses an address, and a client that is given is replaced; so it is set afterwards.
    """
    options: dict[str, Any] = {"prompt_name": role} if role else {}
    there = HuggingFaceEndpointEmbeddings(model_kwargs=options)
    there.client = InferenceClient(served.url, token=key or served.key)
    there.async_client = AsyncInferenceClient(served.url, token=key or served.key)
    return there


def documents_and_queries(served: Served) -> None:
    served.check(embeddings(served).embed_documents(served.texts), "passage")
    query = embeddings(served, "query")
    served.check([query.embed_query(text) for text in served.texts], "query")


def calls_of_an_event_loop(served: Served) -> None:
    served.check(asyncio.run(embeddings(served, "query").aembed_documents(served.texts)), "query")


def an_address_is_no_model(served: Served) -> None:
    error_of(ValueError, lambda: HuggingFaceEndpointEmbeddings(model=served.url), "not a URL")


def errors_are_huggingface_hubs(served: Served) -> None:
    there = embeddings(served, "x")
    error_of(HfHubHTTPError, lambda: there.embed_query("a"), "no role 'x'")
    many = ["a"] * (served.max_texts + 1)
    error_of(HfHubHTTPError, lambda: embeddings(served).embed_documents(many), "or fewer a request")
    other = embeddings(served, key="another")
    assert error_of(HfHubHTTPError, lambda: other.embed_query("a")).response.status_code == 401


if __name__ == "__main__":
    run(documents_and_queries, calls_of_an_event_loop, an_address_is_no_model, errors_are_huggingface_hubs)
