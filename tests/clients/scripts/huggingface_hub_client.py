"""huggingface_hub's InferenceClient: text-embeddings-inference's dialect, at the server's own address."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from harness import Served, error_of, run
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError


def client(served: Served) -> InferenceClient:
    return InferenceClient(served.url, token=served.key)


def prompt_name_says_the_role(served: Served) -> None:
    ask = client(served).feature_extraction
    for role in ("query", "passage"):
        rows = ask(served.texts, prompt_name=role)
        assert rows.dtype == np.float32
        served.check(rows, role)
    served.check(ask(served.texts), "passage")
    served.check(ask(served.texts, normalize=True, truncate=True, truncation_direction="right"), "passage")
    served.check(ask(served.texts, normalize=False), "passage")


def one_text_has_one_row(served: Served) -> None:
    for number, text in enumerate(served.texts):
        row = client(served).feature_extraction(text, prompt_name="query")
        assert np.array_equal(row, served.vectors("query")[[number]])


def the_address_may_end_in_embed(served: Served) -> None:
    there = InferenceClient(f"{served.url}/embed", token=served.key)
    served.check(there.feature_extraction(served.texts), "passage")


def calls_of_an_event_loop(served: Served) -> None:
    async def both() -> list[Any]:
        async with AsyncInferenceClient(served.url, token=served.key) as there:
            calls = [
                there.feature_extraction(served.texts, prompt_name=role) for role in ("query", "passage")
            ]
            return await asyncio.gather(*calls)

    for role, rows in zip(("query", "passage"), asyncio.run(both()), strict=True):
        served.check(rows, role)


def errors_have_its_own_class(served: Served) -> None:
    ask = client(served).feature_extraction
    status = lambda error: error.response.status_code  # noqa: E731
    role = error_of(HfHubHTTPError, lambda: ask("a", prompt_name="x"), "no role 'x'")
    assert status(role) == 422
    long = error_of(HfHubHTTPError, lambda: ask(served.texts, truncate=False), "texts have more")
    assert status(long) == 413
    many = ["a"] * (served.max_texts + 1)
    assert status(error_of(HfHubHTTPError, lambda: ask(many), "or fewer a request")) == 413
    other = InferenceClient(served.url, token="another")
    assert status(error_of(HfHubHTTPError, lambda: other.feature_extraction("a"))) == 401


if __name__ == "__main__":
    run(
        prompt_name_says_the_role,
        one_text_has_one_row,
        the_address_may_end_in_embed,
        calls_of_an_event_loop,
        errors_have_its_own_class,
    )
