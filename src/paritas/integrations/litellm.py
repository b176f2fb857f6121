"""LiteLLM: a provider whose embeddings are computed in this process."""

from __future__ import annotations

from typing import Any

from paritas import errors
from paritas.integrations import check
from paritas.integrations.dual_encoder import DualEncoder, Model

check(__name__)
import litellm
from litellm import CustomLLM
from litellm.llms.custom_llm import CustomLLMError

_PROVIDER = "paritas"


class _Provider(CustomLLM):
    """Answers LiteLLM's embedding calls; `input_type="query"` asks for queries."""

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, DualEncoder] = {}

    def embedding(self, model: str, input: Any, model_response: Any, optional_params: Any, **_: Any) -> Any:
        encode = self._encode(model, optional_params, "")
        try:
            return _filled(model_response, model, encode(_listed(input)))
        except errors.InputError as error:
            raise CustomLLMError(400, str(error)) from error

    async def aembedding(
        self, model: str, input: Any, model_response: Any, optional_params: Any, **_: Any
    ) -> Any:
        encode = self._encode(model, optional_params, "_async")
        try:
            return _filled(model_response, model, await encode(_listed(input)))
        except errors.InputError as error:
            raise CustomLLMError(400, str(error)) from error

    def _encode(self, model: str, params: dict[str, Any], suffix: str) -> Any:
        if model not in self.models:
            known = errors.did_you_mean(model, self.models)
            raise CustomLLMError(404, f"no model {model!r} was registered{known}")
        kind = params.get("input_type", "document")
        sides = {"query": "queries", "document": "passages"}
        if kind not in sides:
            raise CustomLLMError(400, f"input_type is {kind!r}; expected 'query' or 'document'")
        return getattr(self.models[model], sides[kind] + suffix)


_provider = _Provider()


def register(
    name: str, model: Model, *, query_role: str = "query", passage_role: str = "passage", **options: Any
) -> None:
    """Make a model known to LiteLLM as "paritas/NAME".

    `litellm.embedding("paritas/NAME", input=[...])` encodes documents; with `input_type="query"` queries.

    Args:
        name: what to call it.
        model: as for `Encoder`, or an `Encoder`.
        query_role: the role that queries have.
        passage_role: the role that documents have.
        **options: of `Encoder`.

    Raises:
        ParitasError: as `Encoder`.
        InputError: the model has no such role.
    """
    _provider.models[name] = DualEncoder(model, query_role=query_role, passage_role=passage_role, **options)
    entry = {"provider": _PROVIDER, "custom_handler": _provider}
    if entry not in litellm.custom_provider_map:
        litellm.custom_provider_map = [*litellm.custom_provider_map, entry]


def _listed(texts: Any) -> list[Any]:
    return [texts] if isinstance(texts, str) else texts


def _filled(response: Any, model: str, vectors: Any) -> Any:
    """Fill a response as OpenAI's interface has it."""
    response.object, response.model = "list", f"{_PROVIDER}/{model}"
    response.data = [
        {"object": "embedding", "index": place, "embedding": vector}
        for place, vector in enumerate(vectors.tolist())
    ]
    return response
