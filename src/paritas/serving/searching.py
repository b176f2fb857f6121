"""An index behind the models: the nearest documents of a query."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from paritas.engine.index import Hit, VectorIndex
from paritas.engine.pool.head import Vectors
from paritas.serving.async_encoder import AsyncEncoder

# usearch lets other threads run while it walks its graph.
_THREADS = 2


class Searcher:
    """An index and the name of the model whose vectors it holds."""

    def __init__(self, index: VectorIndex, model: str) -> None:
        """Take what is searched.

        Args:
            index: opened; it stays the caller's to close.
            model: the name under which the model that made it is served.
        """
        self.index, self.model = index, model
        # Of its own: a search must not wait for a model that the event loop's threads load.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="paritas-search")

    def check(self, encoder: AsyncEncoder) -> None:
        """Raise a VectorIndexError where the model's vectors cannot be searched with."""
        self.index.check(encoder.encoder, dim=min(encoder.dim, self.index.info.dim))

    async def nearest(self, vectors: Vectors, k: int) -> list[list[Hit]]:
        """Return the k nearest documents of each query's vector, beside the event loop.

        Raises:
            VectorIndexError: the index is damaged, or was closed.
        """
        search = partial(self.index.search, vectors, k)
        return await asyncio.get_running_loop().run_in_executor(self._threads, search)
