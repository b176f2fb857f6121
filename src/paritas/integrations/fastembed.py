"""fastembed, and Qdrant's client through it: models that `TextEmbedding` finds by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paritas import errors
from paritas.engine.tokenize.inputs import listed
from paritas.integrations import check
from paritas.integrations.dual_encoder import DualEncoder, Model

check(__name__)
from fastembed import TextEmbedding
from fastembed.common.model_description import DenseModelDescription, ModelSource
from fastembed.text.text_embedding_base import TextEmbeddingBase

# Texts that are encoded at a time: whoever has a generator may have millions.
_PART = 4096
# By name in small letters: the name as it was given, and the encoder.
_models: dict[str, tuple[str, DualEncoder]] = {}


class _ParitasTextEmbedding(TextEmbeddingBase):
    """What `TextEmbedding` makes of a registered name."""

    def __init__(self, model_name: str, **settings: Any) -> None:
        super().__init__(model_name, **settings)
        _, self._encoder = _models[model_name.lower()]

    @classmethod
    def _list_supported_models(cls) -> list[DenseModelDescription]:
        return [_description(name, encoder) for name, encoder in _models.values()]

    @property
    def embedding_size(self) -> int:
        return self._encoder.dim

    @classmethod
    def get_embedding_size(cls, model_name: str) -> int:
        return _models[model_name.lower()][1].dim

    def embed(
        self,
        documents: str | Iterable[str],
        batch_size: int = 256,
        parallel: int | None = None,
        **_: Any,
    ) -> Iterable[NDArray[np.float32]]:
        """Yield the vectors of passages; the engine has batches and threads of its own."""
        texts = iter(_listed(documents))
        while part := list(islice(texts, _PART)):
            yield from self._encoder.passages(part)

    def query_embed(self, query: str | Iterable[str], **_: Any) -> Iterable[NDArray[np.float32]]:
        """Yield the vectors of queries."""
        yield from self._encoder.queries(_listed(query))

    def token_count(self, texts: str | Iterable[str], **_: Any) -> int:
        """Return how many tokens passages have, special ones included and what is cut off not."""
        return self._encoder.count_tokens(_listed(texts))


def register(
    name: str, model: Model, *, query_role: str = "query", passage_role: str = "passage", **options: Any
) -> None:
    """Make a model known to fastembed, and so to Qdrant's client, under a name.

    `TextEmbedding(name)`, `models.Document(text=..., model=name)` and the like then run it. Documents are
    passages, and what `query_embed` and `query_points` take are queries.

    Args:
        name: what to call it, such as "paritas/all-MiniLM-L6-v2".
        model: as for `Encoder`, or an `Encoder`.
        query_role: the role that queries have.
        passage_role: the role that documents have.
        **options: of `Encoder`.

    Raises:
        ParitasError: as `Encoder`.
        InputError: the model has no such role; or the name is none, means another encoder already, or is a
            model of fastembed's.
    """
    if not name or not isinstance(name, str):
        raise errors.InputError(f"name is {name!r}; expected a string, such as 'paritas/all-MiniLM-L6-v2'")
    if _ParitasTextEmbedding not in TextEmbedding.EMBEDDINGS_REGISTRY:
        TextEmbedding.EMBEDDINGS_REGISTRY.append(_ParitasTextEmbedding)
    theirs = {one["model"].lower() for one in TextEmbedding.list_supported_models()} - set(_models)
    if name.lower() in theirs:
        raise errors.InputError(
            f"fastembed has a model {name!r} of its own; type: register('paritas/{name}', ...)"
        )
    encoder = DualEncoder(model, query_role=query_role, passage_role=passage_role, **options)
    _, known = _models.get(name.lower(), ("", None))
    encoder.check_name(name, known)
    _models[name.lower()] = name, encoder


def _listed(texts: str | Iterable[str]) -> Iterable[str]:
    if isinstance(texts, str):
        return [texts]
    return texts if isinstance(texts, Iterator) and not hasattr(texts, "readline") else listed(texts)


def _description(name: str, encoder: DualEncoder) -> DenseModelDescription:
    return DenseModelDescription(
        model=name,
        sources=ModelSource(url=encoder.encoder.bundle.directory.absolute().as_uri()),
        model_file="",
        description=f"paritas, {encoder.encoder.precision}",
        license="",
        size_in_GB=0.0,
        dim=encoder.dim,
    )
