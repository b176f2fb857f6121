"""LangChain: `Embeddings` for vector stores and retrievers."""

from __future__ import annotations

from typing import Any

from paritas.integrations import check
from paritas.integrations.dual_encoder import DualEncoder, Model

check(__name__)
from langchain_core.embeddings import Embeddings


class ParitasEmbeddings(Embeddings):
    """Embeddings of LangChain's: documents are passages, and a query is a query.

    The twins for event loops, `aembed_documents` and `aembed_query`, gather what waits into full batches.

    Args:
        model: as for `Encoder`, or an `Encoder`.
        query_role: the role that queries have.
        passage_role: the role that documents have.
        **options: of `Encoder`.
    """

    def __init__(
        self, model: Model, *, query_role: str = "query", passage_role: str = "passage", **options: Any
    ) -> None:
        """Load the bundle.

        Raises:
            ParitasError: as `Encoder`.
            InputError: the model has no such role.
        """
        self._encoder = DualEncoder(model, query_role=query_role, passage_role=passage_role, **options)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each document, in the order given."""
        return self._encoder.passages(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        """Return a query's vector."""
        return self._encoder.queries([text])[0].tolist()

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each document, without holding up the event loop."""
        return (await self._encoder.passages_async(texts)).tolist()

    async def aembed_query(self, text: str) -> list[float]:
        """Return a query's vector, without holding up the event loop."""
        return (await self._encoder.queries_async([text]))[0].tolist()
