"""What a precision costs a search: nDCG@10 and recall@10 over a judged collection, against FP32."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paritas.arguments import not_utf8
from paritas.documents import Document, read_documents
from paritas.engine.bundle.directory import Bundle
from paritas.engine.bundle.manifest import Retrieval
from paritas.engine.encoder import Encoder
from paritas.errors import InputError
from paritas.registry import PRECISIONS, Precision

_K = 10
# Queries and documents scored at a time: 64 MB of scores, however large the collection is.
_QUERIES = 512
_DOCUMENTS = 32_768
# How a file's name may end, besides, where it is packed.
_PACKED = ("", ".gz", ".zst")


@dataclass(frozen=True, slots=True)
class JudgedCollection:
    """A collection in BEIR's layout: corpus.jsonl, queries.jsonl, qrels/test.tsv."""

    name: str
    documents: list[Document]
    queries: list[Document]
    """Those with a judgement."""
    qrels: dict[str, dict[str, int]]
    """By query and document, the gain; 0 where it is not listed."""


def read_collection(directory: Path) -> JudgedCollection:
    """Read a judged collection.

    Raises:
        InputError: a file is missing or malformed, or no query has a judgement.
    """
    if fault := not_utf8(directory):  # the manifest names it
        raise InputError(fault)
    qrels = _read_qrels(directory / "qrels" / "test.tsv")
    documents = list(read_documents(_file(directory, "corpus.jsonl")))
    queries = [q for q in read_documents(_file(directory, "queries.jsonl")) if q.id in qrels]
    if not queries or not documents:
        raise InputError(f"{directory}: no query of queries.jsonl is judged in qrels/test.tsv")
    return JudgedCollection(directory.name, documents, queries, qrels)


def _file(directory: Path, name: str) -> str:
    """Return a file's path, packed or not; the plain one where none is there, for the error to name."""
    paths = [directory / f"{name}{end}" for end in _PACKED]
    return str(next((path for path in paths if path.exists()), paths[0]))


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = defaultdict(dict)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines[1:], start=2):
        try:
            query, document, gain = line.split("\t")
            qrels[query][document] = int(gain)
        except ValueError:
            raise InputError(
                f"{path}:{number}: {line[:60]!r}; expected query, document and gain with tabs between"
            ) from None
    return dict(qrels)


def ndcg(gains: Sequence[int], possible: Sequence[int]) -> float:
    """Return nDCG@10 of one ranking (Järvelin and Kekäläinen 2002, with linear gains, as trec_eval has it).

    Args:
        gains: of the documents found, best first.
        possible: of all judged documents of the query.
    """
    discounts = 1 / np.log2(np.arange(2, _K + 2))
    ideal = np.array(sorted(possible, reverse=True)[:_K], dtype=float)
    best = float((ideal * discounts[: len(ideal)]).sum())
    ranked = np.array(gains[:_K], dtype=float)
    return float((ranked * discounts[: len(ranked)]).sum()) / best if best > 0 else 0.0


def encode_collection(
    encoder: Encoder, collection: JudgedCollection
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the vectors of the queries and of the documents, each in its role."""
    roles = encoder.contract.roles
    asking = "query" if "query" in roles else next(iter(roles))
    stored = "passage" if "passage" in roles else next(iter(roles))
    pair = roles[stored].pair
    documents = encoder.encode([d.as_text(pair=pair) for d in collection.documents], role=stored)
    queries = encoder.encode([q.text for q in collection.queries], role=asking)
    return queries, documents


def rank(queries: NDArray[np.float32], documents: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the places of each query's ten nearest documents, best first: (queries, 10)."""
    return np.concatenate(
        [_nearest(queries[start : start + _QUERIES], documents) for start in range(0, len(queries), _QUERIES)]
    )


def _nearest(queries: NDArray[np.float32], documents: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the places of the ten nearest documents, best first; of equal ones the first: (queries, 10)."""
    best = np.empty((len(queries), 0), np.float32)
    places = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(documents), _DOCUMENTS):
        scores = queries @ documents[start : start + _DOCUMENTS].T
        new = np.stack([_greatest(row) for row in scores])
        best = np.hstack([best, np.take_along_axis(scores, new, axis=1)])
        places = np.hstack([places, new + start])
        # Those found before stand first, and are the first of equal ones: the order of the whole is kept.
        order = np.argsort(-best, axis=1, kind="stable")[:, :_K]
        best, places = np.take_along_axis(best, order, axis=1), np.take_along_axis(places, order, axis=1)
    return places


def _greatest(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the places of the ten greatest, all if fewer, in their order; of equal ones the first."""
    count = min(_K, len(scores))
    least = np.partition(scores, -count)[-count]
    above, equal = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
    return np.sort(np.concatenate([above, equal[: count - len(above)]]))


def score_queries(ranking: NDArray[np.int64], collection: JudgedCollection) -> NDArray[np.float64]:
    """Return each query's nDCG@10 in points of 100, float64, (queries,)."""
    names = [document.id for document in collection.documents]
    gains = [collection.qrels[query.id] for query in collection.queries]
    return 100 * np.array(
        [
            ndcg([judged.get(names[place], 0) for place in row], list(judged.values()))
            for judged, row in zip(gains, ranking, strict=True)
        ]
    )


def compare_retrieval(
    bundle: Bundle, precisions: Sequence[Precision], collection: JudgedCollection
) -> dict[Precision, Retrieval]:
    """Return what each precision but FP32 loses against FP32 on a judged collection.

    Raises:
        BundleError: the bundle has no FP32.
    """
    rankings: dict[Precision, NDArray[np.int64]] = {}
    for precision in PRECISIONS:
        if precision == "fp32" or precision in precisions:
            with Encoder(bundle, precision=precision) as encoder:
                rankings[precision] = rank(*encode_collection(encoder, collection))
    exact = rankings["fp32"]
    return {
        precision: Retrieval(
            collection=collection.name,
            documents=len(collection.documents),
            queries=len(collection.queries),
            ndcg_fp32=float(score_queries(exact, collection).mean()),
            ndcg=float(score_queries(ranking, collection).mean()),
            recall=float(
                np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(exact, ranking, strict=True)])
            ),
        )
        for precision, ranking in rankings.items()
        if precision != "fp32"
    }
