"""Vectors that somebody has: Parquet, .npy or an index, and those of some documents among them."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paritas.bulk.readers import Reading, read
from paritas.bulk.sources import find_sources
from paritas.documents import Document
from paritas.engine.index import VectorIndex
from paritas.errors import InputError

_NAMES = ("vector", "embedding", "embeddings", "vectors")


class Pairs(NamedTuple):
    """Documents, and the vector that somebody has of each."""

    documents: list[Document]
    vectors: NDArray[np.float32]
    """(documents, dim)"""


def pairs_of(
    place: str, inputs: Sequence[str], reading: Reading, *, column: str | None, sample: int, seed: int = 0
) -> Pairs:
    """Return some documents with their vectors, any of them as likely as any other.

    Args:
        place: an index's directory; a .npy file; a Parquet file, or a folder or pattern of them.
        inputs: the documents, as `find_sources` takes them; none where an index keeps its texts.
        reading: how they are read. Where a Parquet file has no column of ids, and of .npy, the vectors stand
            in the documents' order.
        column: the vectors' column; looked for where None.
        sample: how many.
        seed: another one takes others.

    Raises:
        InputError: there are no vectors, or none of these documents.
        VectorIndexError: the index is damaged.
    """
    path = Path(place)
    if (path / "index.json").exists():
        return _of_index(path, inputs, reading, sample, seed)
    if not inputs:
        raise InputError(f"{place}: the texts are needed to compare; type: --texts FILE")
    chosen = _sampled(_documents(inputs, reading), sample, seed)
    if path.suffix == ".npy":
        return _of_array(path, chosen)
    return _of_parquet(place, chosen, reading, column)


def _documents(inputs: Sequence[str], reading: Reading) -> Iterator[tuple[int, Document]]:
    """Yield documents with their places among all records, those that are none counted too."""
    place = 0
    for source in find_sources(inputs, Path("-")):
        for record in read(source, reading):
            if record.document is not None:
                yield place, record.document
            place += 1


def _sampled(documents: Iterable[tuple[int, Document]], count: int, seed: int) -> list[tuple[int, Document]]:
    """Return those whose ids have the smallest digests: an even choice in one pass, by the seed alone."""

    def rank(entry: tuple[int, Document]) -> bytes:
        key = seed.to_bytes(8, "little")
        return hashlib.blake2b(entry[1].id.encode(), digest_size=16, key=key).digest()

    chosen = heapq.nsmallest(count, documents, key=rank)
    if not chosen:
        raise InputError("there are no texts to compare with; expected at least one")
    return sorted(chosen, key=lambda entry: entry[0])


def _of_index(path: Path, inputs: Sequence[str], reading: Reading, sample: int, seed: int) -> Pairs:
    with VectorIndex.load(path) as index:
        if index.info.dtype == "b1":
            raise InputError(
                f"{path}: keeps a bit a channel, too little to compare; give the vectors that it was made of"
            )
        hits, vectors = index.sample_documents(sample, seed=seed)
    if inputs:
        texts = {document.id: document for _, document in _documents(inputs, reading)}
        kept = [place for place, hit in enumerate(hits) if hit.id in texts]
        documents = [texts[hits[place].id] for place in kept]
        vectors = vectors[kept]
    else:
        documents = [Document(hit.id, hit.title, hit.text) for hit in hits]
        if documents and not any(document.text for document in documents):
            raise InputError(f"{path}: the index keeps no texts; type: --texts FILE")
    if not documents:
        raise InputError(f"{path}: has no vector of these texts")
    return Pairs(documents, vectors)


def _of_array(path: Path, chosen: list[tuple[int, Document]]) -> Pairs:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as .npy: {error}") from error
    if array.ndim != 2 or array.dtype.kind not in "fi":
        raise InputError(f"{path}: is {array.dtype} {array.shape}; expected numbers, (texts, dim)")
    places = [place for place, _ in chosen]
    if places[-1] >= len(array):
        raise InputError(
            f"{path}: has {len(array)} vectors, and there are more texts; expected a vector a text, in order"
        )
    return Pairs([document for _, document in chosen], np.asarray(array[places], np.float32))


def _of_parquet(
    place: str, chosen: list[tuple[int, Document]], reading: Reading, column: str | None
) -> Pairs:
    import pyarrow as arrow
    import pyarrow.dataset as datasets

    try:
        files = [source.place for source in find_sources([place], Path("-"))]
        dataset = datasets.dataset(files, format="parquet")
        names = dataset.schema.names
        vector = _vector_column(dataset.schema, column, place)
        id_ = next((name for name in reading.columns.ids if name in names), None)
        if id_ is None:
            table = dataset.take([row for row, _ in chosen], columns=[vector])
            documents = [document for _, document in chosen]
        else:
            wanted = {document.id: document for _, document in chosen}
            field = datasets.field(id_).cast(arrow.string())
            table = dataset.to_table(columns=[id_, vector], filter=field.isin(list(wanted)))
            documents = [wanted[str(name)] for name in table.column(id_).to_pylist()]
    except (arrow.ArrowException, IndexError, OSError) as error:
        raise InputError(f"{place}: cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    if not documents:
        raise InputError(f"{place}: has no vector of these texts: no id is the same")
    vectors = [row.as_py() for row in table.column(vector)]
    if any(row is None for row in vectors) or len({len(row) for row in vectors}) > 1:
        raise InputError(f"{place}: column {vector!r} has vectors of several lengths, or none; expected one")
    return Pairs(documents, np.array(vectors, np.float32))


def _vector_column(schema: Any, column: str | None, place: str) -> str:
    from pyarrow import types

    def holds_vectors(kind: Any) -> bool:
        lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
        return bool(lists and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)))

    fitting = [field.name for field in schema if holds_vectors(field.type)]
    if column is not None and column in fitting:
        return column
    named = [name for name in _NAMES if name in fitting] or fitting
    if column is not None or not named:
        known = ", ".join(map(repr, fitting)) or "none"
        raise InputError(
            f"{place}: no column {column or _NAMES[0]!r} of lists of numbers; there are: {known}"
        )
    return named[0]
