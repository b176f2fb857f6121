"""LiteLLM: a provider whose embeddings are computed in this process."""

from __future__ import annotations

import asyncio
from typing import Any

from paritas import errors
from paritas.integrations import check
from paritas.integrations.dual_encoder import DualEncoder, Model

check(__name__)
import litellm
from litellm import CustomLLM
from litellm.llms.custom_llm import CustomLLMError

_PROVIDER = "paritas"
_QUERY = ":query"


class _Provider(CustomLLM):
    """Answers LiteLLM's embedding calls.

    Queries have a model's name of their own: LiteLLM's cache knows a call by its model and texts, and not by
    parameters of a provider.
    """

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, DualEncoder] = {}

    def embedding(self, model: str, input: Any, model_response: Any, optional_params: Any, **_: Any) -> Any:
        encoder, queries = self._found(model, optional_params)
        texts = _listed(input)
        try:
            vectors = encoder.queries(texts) if queries else encoder.passages(texts)
        except errors.InputError as error:
            raise CustomLLMError(400, str(error)) from error
        return _filled(model_response, model, vectors, encoder.count_tokens(texts, queries=queries))

    async def aembedding(
        self, model: str, input: Any, model_response: Any, optional_params: Any, **_: Any
    ) -> Any:
        encoder, queries = self._found(model, optional_params)
        texts = _listed(input)
        try:
            vectors = await (encoder.queries_async(texts) if queries else encoder.passages_async(texts))
        except errors.InputError as error:
            raise CustomLLMError(400, str(error)) from error
        tokens = await asyncio.to_thread(encoder.count_tokens, texts, queries=queries)
        return _filled(model_response, model, vectors, tokens)

    def _found(self, model: str, params: dict[str, Any]) -> tuple[DualEncoder, bool]:
        """Return a model's encoder, and whether it is asked for queries."""
        name = model.removesuffix(_QUERY)
        if name not in self.models:
            known = errors.did_you_mean(name, self.models)
            raise CustomLLMError(404, f"no model {name!r} was registered{known}")
        if params:
            raise CustomLLMError(
                400,
                f"{', '.join(params)} cannot be asked for; for queries the model is 'paritas/{name}{_QUERY}'",
            )
        return self.models[name], model.endswith(_QUERY)


_provider = _Provider()


def register(
    name: str, model: Model, *, query_role: str = "query", passage_role: str = "passage", **options: Any
) -> None:
    """Make a model known to LiteLLM, as "paritas/NAME" for documents and "paritas/NAME:query" for queries.

    Args:
        name: what to call it.
        model: as for `Encoder`, or an `Encoder`.
        query_role: the role that queries have.
        passage_role: the role that documents have.
        **options: of `Encoder`.

    Raises:
        ParitasError: as `Encoder`.
        InputError: the model has no such role; or the name is none, or means another encoder already.
    """
    if not name or not isinstance(name, str) or name.endswith(_QUERY):
        raise errors.InputError(f"name is {name!r}; expected a string that does not end in {_QUERY}")
    encoder = DualEncoder(model, query_role=query_role, passage_role=passage_role, **options)
    encoder.check_name(name, _provider.models.get(name))
    _provider.models[name] = encoder
    entry = {"provider": _PROVIDER, "custom_handler": _provider}
    if entry not in litellm.custom_provider_map:
        litellm.custom_provider_map = [*litellm.custom_provider_map, entry]


def _listed(texts: Any) -> list[Any]:
    return [texts] if isinstance(texts, str) else texts


def _filled(response: Any, model: str, vectors: Any, tokens: int) -> Any:
    """Fill a response as OpenAI's interface has it."""
    response.object, response.model = "list", f"{_PROVIDER}/{model}"
    response.data = [
        {"object": "embedding", "index": place, "embedding": vector}
        for place, vector in enumerate(vectors.tolist())
    ]
    response.usage = litellm.Usage(prompt_tokens=tokens, completion_tokens=0, total_tokens=tokens)
    return response
