"""Chroma: an embedding function that a collection remembers."""

from __future__ import annotations

import os
from typing import Any

from paritas import errors
from paritas.integrations import check
from paritas.integrations.dual_encoder import DualEncoder

check(__name__)
from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space
from chromadb.utils.embedding_functions import register_embedding_function

# What vectors depend on. FP16 and FP32 are of one family: their vectors may lie side by side.
_SAME = ("fingerprint", "family", "dim", "query_role", "passage_role")


@register_embedding_function
class ParitasEmbeddingFunction(EmbeddingFunction[Documents]):
    """An embedding function of Chroma's: documents are passages, and what is queried is a query.

    A collection keeps its configuration. A client that has imported this module opens it without naming a
    function. Chroma compares functions by their name alone, so another model that is named there is taken.

    Args:
        model: as for `Encoder`; in another process the same name or directory must mean the same model.
        query_role: the role that queries have.
        passage_role: the role that documents have.
        **options: of `Encoder`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        query_role: str = "query",
        passage_role: str = "passage",
        **options: Any,
    ) -> None:
        """Load the bundle.

        Raises:
            ParitasError: as `Encoder`.
            InputError: the model has no such role.
        """
        self._model = os.fspath(model)
        self._encoder = DualEncoder(model, query_role=query_role, passage_role=passage_role, **options)

    def __call__(self, input: Documents) -> Embeddings:
        """Return a vector for each document, float32."""
        return list(self._encoder.passages(input))

    def embed_query(self, input: Documents) -> Embeddings:
        """Return a vector for each query, float32."""
        return list(self._encoder.queries(input))

    @staticmethod
    def name() -> str:
        """Return the name under which Chroma knows it."""
        return "paritas"

    def default_space(self) -> Space:
        """Return the space of a new collection."""
        return "cosine"

    def get_config(self) -> dict[str, Any]:
        """Return what a collection keeps."""
        return {"model": self._model, "options": self._encoder.options, **self._encoder.facts}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> ParitasEmbeddingFunction:
        """Return the function that a collection was made with.

        Raises:
            BundleError: what would run is another model, or of another precision family.
        """
        found = ParitasEmbeddingFunction(
            config["model"],
            query_role=config["query_role"],
            passage_role=config["passage_role"],
            **config["options"],
        )
        found._encoder.check_facts(config, "the collection")
        return found

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Refuse to let a collection have vectors of two kinds.

        Raises:
            InputError: another model, or other roles.
        """
        changed = [name for name in _SAME if old_config.get(name) != new_config.get(name)]
        if changed:
            raise errors.InputError(
                f"the collection has vectors already, and {' and '.join(changed)} would change; make a new "
                "collection"
            )

    @staticmethod
    def validate_config(config: dict[str, Any]) -> None:
        """Make sure that a collection's configuration is whole.

        Raises:
            InputError: a field is missing.
        """
        missing = {"model", "options", *_SAME} - set(config)
        if missing:
            raise errors.InputError(f"the collection's configuration lacks {', '.join(sorted(missing))}")
