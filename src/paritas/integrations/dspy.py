"""DSPy: an embedder, and a retriever that keeps queries and passages apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from paritas import errors
from paritas.integrations import check
from paritas.integrations.dual_encoder import DualEncoder, Model

check(__name__)
import dspy
from dspy.retrievers import Embeddings

_BATCH = 4096


class ParitasEmbedder(dspy.Embedder):
    """An embedder of DSPy's, for texts of one role.

    DSPy's cache knows a function by its source alone, and would hand one encoder's vectors to another. So
    nothing is cached here.

    Args:
        model: as for `Encoder`, or an `Encoder`.
        role: the role of the texts.
        **options: of `Encoder`.
    """

    def __init__(self, model: Model, *, role: str = "passage", **options: Any) -> None:
        """Load the bundle.

        Raises:
            ParitasError: as `Encoder`.
            InputError: the model has no such role.
        """
        self._encoder = DualEncoder(model, query_role=role, passage_role=role, **options)
        super().__init__(self._encode, batch_size=_BATCH, caching=False)

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        return self._encoder.passages(texts)

    def _preprocess(
        self, inputs: Any, batch_size: int | None = None, caching: bool | None = None, **kwargs: Any
    ) -> Any:
        if caching:
            raise errors.InputError(
                "DSPy's cache cannot tell encoders apart; leave out caching, or keep the vectors yourself"
            )
        return super()._preprocess(inputs, batch_size, caching, **kwargs)


class ParitasRetriever(Embeddings):
    """DSPy's retriever over a corpus, whose texts are passages, and what is asked is a query.

    Args:
        corpus: the passages.
        model: as for `Encoder`, or an `Encoder`.
        query_role: the role that queries have.
        passage_role: the role that passages have.
        options: of `Encoder`, as in {"precision": "int8"}.
        **settings: of `dspy.Embeddings`: k, brute_force_threshold, ...
    """

    def __init__(
        self,
        corpus: list[str],
        model: Model,
        *,
        query_role: str = "query",
        passage_role: str = "passage",
        options: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """Encode the corpus.

        Raises:
            ParitasError: as `Encoder`.
            InputError: the model has no such role, or a passage is no text.
        """
        encoder = DualEncoder(
            model, query_role=query_role, passage_role=passage_role, **(options or {})
        ).encoder
        super().__init__(corpus, ParitasEmbedder(encoder, role=passage_role), **settings)
        # From here on it is asked.
        self.embedder = ParitasEmbedder(encoder, role=query_role)
