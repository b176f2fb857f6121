"""Haystack: an embedder for queries and one for documents."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from paritas import errors
from paritas.integrations import check
from paritas.integrations.dual_encoder import DualEncoder, as_options

check(__name__)
from haystack import Document, component, default_from_dict, default_to_dict
from haystack.core import serialization

# Later releases read a pipeline's file only where they trust the modules it names. To import this one is to
# trust it.
if hasattr(serialization, "allow_deserialization_module"):
    serialization.allow_deserialization_module(__name__)


class _Embedder:
    """What both have in common: the bundle is loaded when it is first needed, and once for both."""

    model: str
    options: dict[str, Any]
    _role: str
    """What the argument for the role is called."""
    _encoder: DualEncoder | None = None
    _loaded_as: Any = None

    def warm_up(self) -> None:
        """Load the bundle.

        Raises:
            ParitasError: as `Encoder`.
            InputError: the model has no such role.
        """
        self._loaded()

    def close(self) -> None:
        """Let go of the encoder; its memory is free once nobody else holds it."""
        self._encoder = None

    def _loaded(self) -> DualEncoder:
        # Attributes may be set until the end, and a pipeline's file has what they are.
        asked = (self.model, getattr(self, self._role), as_options(self.options))
        encoder = self._encoder
        if encoder is None or self._loaded_as != asked:
            model, role, options = asked
            encoder = DualEncoder.of_one_role(model, self._role, role, **options)
            self._encoder, self._loaded_as = encoder, asked
        return encoder

    def _meta(self) -> dict[str, Any]:
        return {"model": self._loaded().name}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """Return the embedder that `to_dict` described."""
        return default_from_dict(cls, data)


@component
class ParitasTextEmbedder(_Embedder):
    """Embeds a query.

    Args:
        model: as for `Encoder`.
        query_role: the role that queries have.
        options: of `Encoder`, as in {"precision": "int8"}.
    """

    _role = "query_role"

    def __init__(
        self,
        model: str | os.PathLike[str],
        query_role: str = "query",
        options: dict[str, Any] | None = None,
    ) -> None:
        """Note what to load; `warm_up` loads it, and `run` where it was not called."""
        self.model, self.query_role, self.options = os.fspath(model), query_role, as_options(options)

    def to_dict(self) -> dict[str, Any]:
        """Return what a pipeline's file keeps."""
        return default_to_dict(self, model=self.model, query_role=self.query_role, options=self.options)

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    def run(self, text: str) -> dict[str, Any]:
        """Return the query's vector as "embedding"."""
        return self._answer(self._loaded().queries([_checked(text)])[0])

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    async def run_async(self, text: str) -> dict[str, Any]:
        """Return the query's vector, without holding up the event loop."""
        return self._answer((await self._loaded().queries_async([_checked(text)]))[0])

    def _answer(self, vector: Any) -> dict[str, Any]:
        return {"embedding": vector.tolist(), "meta": self._meta()}


@component
class ParitasDocumentEmbedder(_Embedder):
    """Embeds documents.

    Args:
        model: as for `Encoder`.
        passage_role: the role that documents have.
        meta_fields_to_embed: fields of a document's meta that are encoded with it: as the title where the
            model takes (title, text) pairs, and otherwise in front of the text.
        embedding_separator: what stands between them.
        progress_bar: show a bar on standard error.
        options: of `Encoder`, as in {"precision": "int8"}.
    """

    _role = "passage_role"

    def __init__(
        self,
        model: str | os.PathLike[str],
        passage_role: str = "passage",
        meta_fields_to_embed: Sequence[str] | None = None,
        embedding_separator: str = "\n",
        progress_bar: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Note what to load; `warm_up` loads it, and `run` where it was not called."""
        self.model, self.passage_role, self.options = os.fspath(model), passage_role, as_options(options)
        if isinstance(meta_fields_to_embed, str):
            raise errors.InputError(f"meta_fields_to_embed is a string; type: [{meta_fields_to_embed!r}]")
        self.meta_fields_to_embed = list(meta_fields_to_embed or ())
        self.embedding_separator = embedding_separator
        self.progress_bar = progress_bar

    def to_dict(self) -> dict[str, Any]:
        """Return what a pipeline's file keeps."""
        return default_to_dict(
            self,
            model=self.model,
            passage_role=self.passage_role,
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
            progress_bar=self.progress_bar,
            options=self.options,
        )

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Return the documents with their vectors; those given stay as they are."""
        vectors = self._loaded().passages(self._texts(documents), progress=self.progress_bar)
        return self._answer(documents, vectors)

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """Return the documents with their vectors, without holding up the event loop."""
        return self._answer(documents, await self._loaded().passages_async(self._texts(documents)))

    def _texts(self, documents: list[Document]) -> list[Any]:
        if not isinstance(documents, list) or not all(isinstance(one, Document) for one in documents):
            raise errors.InputError("documents is no list of Documents; for a query use ParitasTextEmbedder")
        return [self._text(document) for document in documents]

    def _text(self, document: Document) -> Any:
        """Return a document as the model takes it; one without content, such as an image, is empty."""
        values = [document.meta.get(field) for field in self.meta_fields_to_embed]
        before = [str(value) for value in values if value is not None]
        content = document.content or ""
        if self._loaded().takes_titles:
            return self._loaded().titled(self.embedding_separator.join(before), content)
        return self.embedding_separator.join([*before, content])

    def _answer(self, documents: list[Document], vectors: Any) -> dict[str, Any]:
        pairs = zip(documents, vectors.tolist(), strict=True)
        return {
            "documents": [replace(document, embedding=vector) for document, vector in pairs],
            "meta": self._meta(),
        }


def _checked(text: Any) -> str:
    if isinstance(text, str):
        return text
    raise errors.InputError(
        f"text is {type(text).__name__}; expected a string; for Documents use ParitasDocumentEmbedder"
    )
