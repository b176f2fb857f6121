"""LanceDB: an embedding function for tables that embed what is added and what is searched."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from paritas.integrations import check
from paritas.integrations.dual_encoder import DualEncoder, check_settings

check(__name__)
from lancedb.embeddings import EmbeddingFunction, register
from pydantic import Field, PrivateAttr


@register("paritas")
class ParitasEmbeddings(EmbeddingFunction):
    """An embedding function of LanceDB's: rows are passages, and what is searched is a query.

    `get_registry().get("paritas").create(model="all-MiniLM-L6-v2")` makes one. A table keeps its
    configuration, and a process that has imported this module finds it there.

    Args:
        model: as for `Encoder`.
        query_role: the role that queries have.
        passage_role: the role that rows have.
        options: of `Encoder`, as in {"precision": "int8"}.
        fingerprint: the model's, which a table keeps; filled in where empty.
        family: the vectors' precision family, likewise.
    """

    model: str
    query_role: str = "query"
    passage_role: str = "passage"
    options: dict[str, Any] = Field(default_factory=dict)
    fingerprint: str = ""
    family: str = ""
    _encoder: DualEncoder = PrivateAttr()

    def __init__(self, **settings: Any) -> None:
        """Load the bundle.

        Raises:
            ParitasError: as `Encoder`.
            InputError: the model has no such role, or a setting that there is not.
            BundleError: what would run is not what a table was made with.
        """
        check_settings(settings, type(self).model_fields)
        super().__init__(**settings)
        roles = {"query_role": self.query_role, "passage_role": self.passage_role}
        self._encoder = DualEncoder(self.model, **roles, **self.options)
        kept = {"fingerprint": self.fingerprint, "family": self.family}
        self._encoder.check_facts(kept, "the table")
        self.fingerprint, self.family = (self._encoder.facts[name] for name in kept)
        self.options = self._encoder.options

    def compute_query_embeddings(self, query: Any, *_args: Any, **_kwargs: Any) -> list[NDArray[np.float32]]:
        """Return a vector for each query, float32."""
        return list(self._encoder.queries(self.sanitize_input(query)))

    def compute_source_embeddings(self, texts: Any, *_args: Any, **_kwargs: Any) -> list[NDArray[np.float32]]:
        """Return a vector for each row, float32."""
        return list(self._encoder.passages(self.sanitize_input(texts)))

    def safe_model_dump(self) -> dict[str, Any]:
        """Return what a table keeps."""
        kept = {"fingerprint": self.fingerprint, "family": self.family, "options": self.options}
        return {**super().safe_model_dump(), **kept}

    # What fails here fails again: LanceDB's seven tries would take minutes, and hide the error.
    def compute_query_embeddings_with_retry(self, *args: Any, **kwargs: Any) -> list[NDArray[np.float32]]:
        """Return a vector for each query, float32; nothing is tried again."""
        return self.compute_query_embeddings(*args, **kwargs)

    def compute_source_embeddings_with_retry(self, *args: Any, **kwargs: Any) -> list[NDArray[np.float32]]:
        """Return a vector for each row, float32; nothing is tried again."""
        return self.compute_source_embeddings(*args, **kwargs)

    def ndims(self) -> int:
        """Return the width of the vectors."""
        return self._encoder.dim
