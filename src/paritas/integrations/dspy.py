"""DSPy: an embedder, and a retriever that keeps queries and passages apart."""

from __future__ import annotations

import json
from pathlib import Path
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
_FACTS = "paritas.json"


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
        self._encoder = DualEncoder.of_one_role(model, "role", role, **options)
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
        self._dual = DualEncoder(model, query_role=query_role, passage_role=passage_role, **(options or {}))
        super().__init__(corpus, ParitasEmbedder(self._dual.encoder, role=passage_role), **settings)
        # From here on it is asked.
        self.embedder = ParitasEmbedder(self._dual.encoder, role=query_role)

    def save(self, path: str) -> None:
        """Write corpus and vectors, and which model they are of."""
        super().save(path)
        facts = {
            "query_role": self._dual.query_role,
            "passage_role": self._dual.passage_role,
            "fingerprint": self._dual.encoder.fingerprint,
            "dim": self._dual.dim,
        }
        (Path(path) / _FACTS).write_text(json.dumps(facts), encoding="utf-8")

    @classmethod
    def from_saved(cls, path: str, model: Model, options: dict[str, Any] | None = None) -> ParitasRetriever:
        """Return the retriever that `save` wrote; nothing is encoded.

        Args:
            path: where `save` wrote it.
            model: as for `Encoder`, or an `Encoder`; the model that it was made with.
            options: of `Encoder`.

        Raises:
            BundleError: it is another model, or the folder is no saved retriever of this class.
            InputError: the vectors have another width.
        """
        try:
            facts = json.loads((Path(path) / _FACTS).read_text(encoding="utf-8"))
        except OSError as error:
            raise errors.BundleError(f"{path}: no {_FACTS}; expected what `save` wrote: {error}") from error
        roles = {name: facts[name] for name in ("query_role", "passage_role")}
        dual = DualEncoder(model, **roles, **(options or {}))
        dual.check_fingerprint(facts["fingerprint"], path)
        if dual.dim != facts["dim"]:
            raise errors.InputError(
                f"{path}: vectors of {facts['dim']} channels, not {dual.dim}; see truncate_dim"
            )
        retriever: ParitasRetriever = super().from_saved(
            path, ParitasEmbedder(dual.encoder, role=dual.query_role)
        )
        retriever._dual = dual
        return retriever
