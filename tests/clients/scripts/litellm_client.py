"""litellm: any server of OpenAI's dialect, as `openai/NAME`, with litellm's classes of errors."""

from __future__ import annotations

import asyncio
from typing import Any

import litellm
from harness import Served, error_of, run

litellm.suppress_debug_info = True


def options(served: Served, model: str, key: str = "") -> dict[str, Any]:
    return {
        "model": f"openai/{model}",
        "api_base": f"{served.url}/v1",
        "api_key": key or served.key,
        "max_retries": 0,
    }


def rows(answer: Any) -> list[list[float]]:
    assert [each["index"] for each in answer.data] == list(range(len(answer.data)))
    return [each["embedding"] for each in answer.data]


def the_models_name_says_the_role(served: Served) -> None:
    for model in (served.model, served.other):
        for role in ("query", "passage"):
            answer = litellm.embedding(input=served.texts, **options(served, f"{model}:{role}"))
            served.check(rows(answer), role, model)
            assert answer.usage.prompt_tokens > 0


def a_field_of_the_body_says_the_role(served: Served) -> None:
    role = {"extra_body": {"role": "query"}}
    answer = litellm.embedding(input=served.texts, **options(served, served.model), **role)
    served.check(rows(answer), "query")


def numbers_are_the_same_float32(served: Served) -> None:
    answer = litellm.embedding(input=served.texts, encoding_format="float", **options(served, served.model))
    served.check(rows(answer), "passage")


def calls_of_an_event_loop(served: Served) -> None:
    answer = asyncio.run(litellm.aembedding(input=served.texts, **options(served, served.model)))
    served.check(rows(answer), "passage")


def errors_have_its_own_classes(served: Served) -> None:
    def ask(model: str, texts: Any = "a", key: str = "") -> Any:
        return litellm.embedding(input=texts, **options(served, model, key))

    error_of(litellm.NotFoundError, lambda: ask("gpt"), "unknown model 'gpt'")
    error_of(litellm.BadRequestError, lambda: ask(f"{served.model}:x"), "no role 'x'")
    many = ["a"] * (served.max_texts + 1)
    assert error_of(litellm.APIError, lambda: ask(served.model, many)).status_code == 413
    error_of(litellm.AuthenticationError, lambda: ask(served.model, key="another"))


if __name__ == "__main__":
    run(
        the_models_name_says_the_role,
        a_field_of_the_body_says_the_role,
        numbers_are_the_same_float32,
        calls_of_an_event_loop,
        errors_have_its_own_classes,
    )
