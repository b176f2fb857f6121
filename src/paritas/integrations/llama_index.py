"""LlamaIndex: an embedding model for indexes, retrievers and ingestion pipelines."""

from __future__ import annotations

import os
from typing import Any

from paritas import errors
from paritas.engine.tokenize.inputs import listed
from paritas.integrations import check
from paritas.integrations.dual_encoder import DualEncoder, check_settings

check(__name__)
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr

# The most that LlamaIndex allows; with its default of 10 no batch was ever full.
_BATCH = 2048
_FIXED = ("model", "query_role", "passage_role", "options", "fingerprint", "family")
# Where a cache has LlamaIndex's vectors, and what they depend on.
_VECTORS, _STAMP = "embeddings", "paritas"


class ParitasEmbedding(BaseEmbedding):
    """An embedding model of LlamaIndex's: nodes are passages, and a query is a query.

    Args:
        model: as for `Encoder`.
        query_role: the role that queries have.
        passage_role: the role that nodes have.
        options: of `Encoder`, as in {"precision": "int8"}.
        fingerprint: the model's, which caches and files keep; filled in where empty.
        family: the vectors' precision family, likewise.
        **settings: of LlamaIndex's `BaseEmbedding`.
    """

    model: str = Field(description="What was exported, or a bundle's directory.")
    query_role: str = Field(default="query", description="The role that queries have.")
    passage_role: str = Field(default="passage", description="The role that nodes have.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of paritas.Encoder.")
    fingerprint: str = Field(default="", description="The model's; filled in where empty.")
    family: str = Field(default="", description="The precision family; filled in where empty.")
    _encoder: DualEncoder = PrivateAttr()

    def __init__(self, model: str | os.PathLike[str], **settings: Any) -> None:
        """Load the bundle.

        Raises:
            ParitasError: as `Encoder`.
            InputError: no such role or setting, or a cache that would mix queries and passages.
            BundleError: what would run is not what was saved, or not what a cache was filled with.
        """
        settings = {"embed_batch_size": _BATCH, "model_name": os.fspath(model), **settings}
        check_settings([name for name in settings if name != "class_name"], type(self).model_fields)
        super().__init__(model=os.fspath(model), **settings)
        roles = {"query_role": self.query_role, "passage_role": self.passage_role}
        encoder = DualEncoder(self.model, **roles, **self.options)
        kept = {"fingerprint": self.fingerprint, "family": self.family}
        encoder.check_facts(kept, "what was saved")
        self.fingerprint, self.family = (encoder.facts[name] for name in kept)
        self.options = encoder.options
        self._encoder = encoder
        self._check_cache(self.embeddings_cache)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field of LlamaIndex's.

        Raises:
            InputError: a field that the encoder was made from, or a cache that would mix its roles.
        """
        made = (getattr(self, "__pydantic_private__", None) or {}).get("_encoder") is not None
        if made and name in _FIXED:
            raise errors.InputError(f"{name} cannot change any longer; make another ParitasEmbedding")
        if made and name == "embeddings_cache":
            self._check_cache(value)
        super().__setattr__(name, value)

    def _check_cache(self, cache: Any) -> None:
        """Make sure that a cache, which knows a vector by its text alone, has none of another encoder."""
        if cache is None:
            return
        if not self._encoder.is_symmetric:
            raise errors.InputError(
                f"embeddings_cache knows a text and not its role, and {self._encoder.name} encodes queries "
                "and passages differently; leave it out"
            )
        kept = cache.get(_STAMP, collection=_STAMP)
        if kept is None and cache.get_all(collection=_VECTORS):
            raise errors.BundleError(
                "embeddings_cache has vectors, and not whose they are; give an empty one"
            )
        self._encoder.check_facts(kept or {}, "embeddings_cache")
        cache.put(_STAMP, self._encoder.facts, collection=_STAMP)

    def get_text_embedding_batch(self, texts: list[str], *args: Any, **kwargs: Any) -> list[list[float]]:
        """Return a vector for each text, in the order given."""
        return super().get_text_embedding_batch(list(listed(texts)), *args, **kwargs)

    async def aget_text_embedding_batch(
        self, texts: list[str], *args: Any, **kwargs: Any
    ) -> list[list[float]]:
        """Return a vector for each text, without holding up the event loop."""
        return await super().aget_text_embedding_batch(list(listed(texts)), *args, **kwargs)

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex writes into what it saves."""
        return "ParitasEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._encoder.queries([query])[0].tolist()

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await self._encoder.queries_async([query]))[0].tolist()

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._encoder.passages([text])[0].tolist()

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._encoder.passages_async([text]))[0].tolist()

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._encoder.passages(texts).tolist()

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return (await self._encoder.passages_async(texts)).tolist()
