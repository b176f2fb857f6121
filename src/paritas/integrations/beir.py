"""BEIR: a model for its dense retrievers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paritas import errors
from paritas.engine.tokenize.inputs import listed
from paritas.integrations import check
from paritas.integrations.dual_encoder import DualEncoder, Model

check(__name__)


class ParitasModel:
    """A model as `beir.retrieval.search.dense` takes it; titles reach models that take pairs as titles.

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

    def encode_queries(self, queries: Sequence[str], batch_size: int = 16, **_: Any) -> NDArray[np.float32]:
        """Return the vectors of queries, float32, (queries, dim); the engine has batches of its own."""
        return self._encoder.queries(queries)

    def encode_corpus(
        self,
        corpus: Sequence[Mapping[str, str] | str] | Mapping[str, Sequence[str]],
        batch_size: int = 8,
        **_: Any,
    ) -> NDArray[np.float32]:
        """Return the vectors of documents, float32, (documents, dim).

        Args:
            corpus: documents with "text" and perhaps "title", plain texts, or a column of each.
            batch_size: not used; the engine has batches of its own.

        Raises:
            InputError: it is none of these.
        """
        rows = _columns(corpus) if isinstance(corpus, Mapping) else map(_row, listed(corpus))
        return self._encoder.passages([self._encoder.titled(title, text) for title, text in rows])


def _columns(corpus: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    if "text" not in corpus:
        raise errors.InputError(
            'the corpus has no column "text"; of BEIR\'s own give the documents: list(corpus.values())'
        )
    texts = listed(corpus["text"])
    titles = listed(corpus["title"]) if "title" in corpus else [""] * len(texts)
    if len(titles) != len(texts):
        raise errors.InputError(f"the corpus has {len(texts)} texts and {len(titles)} titles")
    return list(zip(titles, texts, strict=True))


def _row(document: Mapping[str, str] | str) -> tuple[str | None, Any]:
    if isinstance(document, Mapping) and "text" in document:
        return document.get("title"), document["text"]
    if isinstance(document, str):
        return None, document
    raise errors.InputError(f'a document is {document!r}; expected {{"title": ..., "text": ...}}, or a text')
