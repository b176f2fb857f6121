"""paritas inside other frameworks: a module for each, imported only when it is asked for.

    >>> from paritas.integrations.langchain import ParitasEmbeddings
    >>> embeddings = ParitasEmbeddings("all-MiniLM-L6-v2", precision="int8")

Queries are encoded as queries and documents as passages, whatever the framework calls them. `INTEGRATIONS`
lists what is there, and with which release of the framework it was tested.
"""

from __future__ import annotations

from importlib import metadata

from msgspec import Struct
from packaging.version import InvalidVersion, Version

from paritas.errors import MissingExtraError

__all__ = ["INTEGRATIONS", "Integration"]


class Integration(Struct, frozen=True):
    """A framework, and the module of this package that is for it."""

    module: str
    """Its name here, as in `paritas.integrations.langchain`."""
    names: tuple[str, ...]
    """What the module has for users."""
    distribution: str
    """The framework, as package indexes name it; empty where none is needed."""
    least: str
    """The oldest release that is taken; the checks of the tests were run with it once."""
    tested: str
    """The release that the tests run with."""

    @property
    def install(self) -> str:
        """What to type where the framework is missing or too old."""
        return f"pip install '{self.distribution}>={self.least}'"

    def check(self) -> None:
        """Make sure that the framework is there and new enough.

        Raises:
            MissingExtraError: it is not; the message says what to type.
        """
        try:
            version = metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            raise MissingExtraError(f"{self.distribution} is not installed; type: {self.install}") from None
        try:
            old = Version(version) < Version(self.least)
        except InvalidVersion:  # of a build by hand
            return
        if old:
            raise MissingExtraError(
                f"{self.distribution} is {version}; expected {self.least} or later; type: {self.install}"
            )


INTEGRATIONS = (
    Integration("sentence_encoder", ("SentenceEncoder",), "", "", ""),
    Integration(
        "sentence_transformers", ("load", "ParitasModule"), "sentence-transformers", "5.7", "5.7.0, 6.2.0"
    ),
    Integration("mteb", ("ParitasEncoder",), "mteb", "2.18", "2.26.24"),
    Integration("langchain", ("ParitasEmbeddings",), "langchain-core", "1.0", "1.8.3"),
    Integration("llama_index", ("ParitasEmbedding",), "llama-index-core", "0.14", "0.14.25"),
    Integration(
        "haystack", ("ParitasTextEmbedder", "ParitasDocumentEmbedder"), "haystack-ai", "2.20", "3.4.1"
    ),
    Integration("chroma", ("ParitasEmbeddingFunction",), "chromadb", "1.2", "1.5.9"),
    Integration("lancedb", ("ParitasEmbeddings",), "lancedb", "0.25", "0.40.0"),
    Integration("dspy", ("ParitasEmbedder", "ParitasRetriever"), "dspy", "3.4.1", "3.4.1"),
    Integration("txtai", ("settings",), "txtai", "9.0", "9.14.0"),
    Integration("litellm", ("register",), "litellm", "1.75", "1.110.2"),
    Integration("fastembed", ("register",), "fastembed", "0.9.1", "0.9.1"),
    Integration("beir", ("ParitasModel",), "beir", "2.2", "2.2.0"),
)
"""What there is."""


def check(module: str) -> None:
    """Make sure that the framework of a module here can be imported.

    Raises:
        MissingExtraError: it is missing or too old; the message says what to type.
    """
    next(one for one in INTEGRATIONS if one.module == module.rpartition(".")[2]).check()
