"""DSPy: an embedder, and a retriever that keeps queries and passages apart."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paritas import errors
from paritas.engine.tokenize.inputs import listed
from paritas.integrations import check
from paritas.integrations.dual_encoder import DualEncoder, Model, as_options, check_settings

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
        self.encoder = DualEncoder.of_one_role(model, "role", role, **options)
        """What encodes."""
        super().__init__(self._encode, batch_size=_BATCH, caching=False)

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        return self.encoder.passages(texts)

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
            InputError: no such role or setting, no passages, or one that is no text.
        """
        check_settings(settings, inspect.signature(Embeddings.__init__).parameters)
        if not (corpus := list(listed(corpus))):
            raise errors.InputError("the corpus is empty; expected a list of texts")
        roles = {"query_role": query_role, "passage_role": passage_role}
        self._dual = DualEncoder(model, **roles, **as_options(options))
        super().__init__(corpus, ParitasEmbedder(self._dual.encoder, role=passage_role), **settings)
        # From here on it is asked.
        self.embedder = ParitasEmbedder(self._dual.encoder, role=query_role)

    def save(self, path: str) -> None:
        """Write corpus and vectors, and what they depend on."""
        super().save(path)
        (Path(path) / _FACTS).write_text(json.dumps(self._dual.facts), encoding="utf-8")

    def load(self, path: str, embedder: Any) -> ParitasRetriever:
        """Take corpus and vectors that `save` wrote; nothing is encoded.

        Args:
            path: where `save` wrote them.
            embedder: a `ParitasEmbedder` for queries, of the model that they were made with.

        Raises:
            BundleError: it is of another model, width or precision family; or the folder is no saved
                retriever of this class.
            InputError: it is no such embedder.
        """
        if not isinstance(embedder, ParitasEmbedder):
            raise errors.InputError(
                f"embedder is {type(embedder).__name__}; expected a ParitasEmbedder, or type: "
                "ParitasRetriever.from_saved(path, model)"
            )
        facts = _saved_facts(path)
        asking = embedder.encoder
        roles = {"query_role": asking.query_role, "passage_role": facts["passage_role"]}
        dual = DualEncoder(asking.encoder, **roles)
        dual.check_facts(facts, path)
        super().load(path, embedder)
        self._dual = dual
        return self

    @classmethod
    def from_saved(cls, path: str, model: Model, options: dict[str, Any] | None = None) -> ParitasRetriever:
        """Return the retriever that `save` wrote; nothing is encoded.

        Args:
            path: where `save` wrote it.
            model: as for `Encoder`, or an `Encoder`; the model that it was made with.
            options: of `Encoder`.

        Raises:
            BundleError, InputError: as `load`.
        """
        role = _saved_facts(path)["query_role"]
        retriever: ParitasRetriever = super().from_saved(
            path, ParitasEmbedder(model, role=role, **as_options(options))
        )
        return retriever


def _saved_facts(path: str) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((Path(path) / _FACTS).read_text(encoding="utf-8"))
    except OSError as error:
        raise errors.BundleError(f"{path}: no {_FACTS}; expected what `save` wrote: {error}") from error
    return facts
