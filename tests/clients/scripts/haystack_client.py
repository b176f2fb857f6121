"""Haystack: the embedders for OpenAI's dialect, and those for text-embeddings-inference's."""

from __future__ import annotations

import asyncio
from typing import Any

from harness import Served, error_of, run
from haystack import Document, Pipeline
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret
from haystack_integrations.components.embedders.huggingface_api import (
    HuggingFaceAPIDocumentEmbedder,
    HuggingFaceAPITextEmbedder,
)
from huggingface_hub.errors import HfHubHTTPError
from openai import AuthenticationError, BadRequestError, NotFoundError


def openai(served: Served, model: str, key: str = "") -> dict[str, Any]:
    token = Secret.from_token(key or served.key)
    return {"api_key": token, "api_base_url": f"{served.url}/v1", "model": model}


def tei(served: Served, key: str = "") -> dict[str, Any]:
    token = Secret.from_token(key or served.key)
    return {"api_type": "text_embeddings_inference", "api_params": {"url": served.url}, "token": token}


def documents(served: Served) -> list[Document]:
    return [Document(content=text) for text in served.texts]


def embeddings(answer: dict[str, Any]) -> list[Any]:
    return [document.embedding for document in answer["documents"]]


def by_openais_dialect(served: Served) -> None:
    passage = OpenAIDocumentEmbedder(**openai(served, f"{served.model}:passage"), progress_bar=False)
    served.check(embeddings(passage.run(documents(served))), "passage")
    query = OpenAITextEmbedder(**openai(served, f"{served.model}:query"))
    served.check([query.run(text)["embedding"] for text in served.texts], "query")
    other = OpenAITextEmbedder(**openai(served, served.other))
    served.check([other.run(text)["embedding"] for text in served.texts], "passage", served.other)


def by_the_dialect_of_text_embeddings_inference(served: Served) -> None:
    passage = HuggingFaceAPIDocumentEmbedder(**tei(served), progress_bar=False)
    served.check(embeddings(passage.run(documents(served))), "passage")
    text = HuggingFaceAPITextEmbedder(**tei(served))
    served.check([text.run(each)["embedding"] for each in served.texts], "passage")


def in_a_pipeline(served: Served) -> None:
    pipeline = Pipeline()
    pipeline.add_component("embedder", OpenAITextEmbedder(**openai(served, f"{served.model}:query")))
    rows = [pipeline.run({"embedder": {"text": text}})["embedder"]["embedding"] for text in served.texts]
    served.check(rows, "query")


def calls_of_an_event_loop(served: Served) -> None:
    there = OpenAIDocumentEmbedder(**openai(served, served.model), progress_bar=False)
    served.check(embeddings(asyncio.run(there.run_async(documents(served)))), "passage")


def errors_are_openais_and_huggingface_hubs(served: Served) -> None:
    unknown = OpenAITextEmbedder(**openai(served, "gpt"))
    error_of(NotFoundError, lambda: unknown.run("a"), "unknown model 'gpt'")
    role = OpenAITextEmbedder(**openai(served, f"{served.model}:x"))
    error_of(BadRequestError, lambda: role.run("a"), "no role 'x'")
    other = OpenAIDocumentEmbedder(
        **openai(served, served.model, "another"), progress_bar=False, raise_on_failure=True
    )
    error_of(AuthenticationError, lambda: other.run(documents(served)))
    text = HuggingFaceAPITextEmbedder(**tei(served, "another"))
    assert error_of(HfHubHTTPError, lambda: text.run("a")).response.status_code == 401


if __name__ == "__main__":
    run(
        by_openais_dialect,
        by_the_dialect_of_text_embeddings_inference,
        in_a_pipeline,
        calls_of_an_event_loop,
        errors_are_openais_and_huggingface_hubs,
    )
