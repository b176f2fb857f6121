"""Encoding a stream of documents into an index, and saying how it went."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from msgspec import Struct
from tqdm import tqdm

from paritas.documents import Document
from paritas.engine.encoder import Encoder
from paritas.engine.index import ScalarType, VectorIndex
from paritas.engine.schedule.stats import EncodeStats
from paritas.errors import InputError

# Documents encoded and added at a time. Sorting by length within so many leaves next to no small batches.
_CHUNK = 4096


def build_index(
    encoder: Encoder,
    documents: Iterable[Document],
    *,
    role: str,
    dtype: ScalarType = "f32",
    progress: bool = False,
) -> tuple[VectorIndex, EncodeStats]:
    """Encode documents as they come and add them to a new index.

    Args:
        encoder: makes the vectors.
        documents: read as they are needed.
        role: the documents' role, such as "passage".
        dtype: how the index stores vectors.
        progress: show a bar on standard error.

    Returns:
        The index, in memory, and what the encoder did.

    Raises:
        InputError: there are no documents, or the model lacks the role.
    """
    pair = encoder.stages.tokenizer.role(role).pair
    built = VectorIndex(encoder, dtype=dtype)
    total: EncodeStats | None = None
    iterator = iter(documents)
    with tqdm(unit=" texts", disable=not progress) as bar:
        while chunk := list(islice(iterator, _CHUNK)):
            vectors = encoder.encode([document.as_text(pair=pair) for document in chunk], role=role)
            built.add(
                [document.id for document in chunk],
                vectors,
                titles=[document.title for document in chunk],
                texts=[document.text for document in chunk],
            )
            assert encoder.last_stats is not None
            total = encoder.last_stats if total is None else total + encoder.last_stats
            bar.update(len(chunk))
    if total is None:
        raise InputError("there are no documents to index; expected at least one line that is not empty")
    return built, total


class Summary(Struct, frozen=True):
    """What indexing did."""

    index: str
    documents: int
    tokens: int
    truncated: int
    padding_share: float
    texts_per_s: float
    tokens_per_s: float
    encode_s: float
    total_s: float
    """From the model's loading to the index's saving."""

    def __str__(self) -> str:
        return (
            f"{self.documents} documents, {self.tokens} tokens "
            f"({self.truncated} texts truncated, padding {self.padding_share:.2%})\n"
            f"encoded in {self.encode_s:.1f} s: {self.texts_per_s:.0f} texts/s, "
            f"{self.tokens_per_s:.0f} tokens/s\nindex: {self.index}"
        )


def summarize(stats: EncodeStats, out: str, total_s: float) -> Summary:
    """Return what indexing did, for people and for JSON."""
    return Summary(
        index=out,
        documents=stats.texts,
        tokens=stats.tokens,
        truncated=stats.truncated,
        padding_share=stats.padding_share,
        texts_per_s=round(stats.texts / stats.total_s, 1),
        tokens_per_s=round(stats.tokens / stats.total_s, 1),
        encode_s=round(stats.total_s, 3),
        total_s=round(total_s, 3),
    )
