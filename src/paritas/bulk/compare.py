"""Vectors that somebody has against those that an encoder gives: may the two lie in one index?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from paritas.bulk.vectors import Pairs
from paritas.documents import Document
from paritas.engine.encoder import Encoder
from paritas.engine.pool.pooling import normalize
from paritas.engine.tokenize.tokenizer import Text
from paritas.errors import InputError

Verdict = Literal["same", "near", "other"]

# FP16 and FP32 of one model differ by a millionth of cosine, and by less than a thousandth where rounding
# tips a token (docs/certificates.md). So near are vectors of one model that two programs computed.
_SAME_P1, _SAME_MIN = 0.9999, 0.999
# INT8 against FP32 of one model: its certificate asks for 0.996 on average, and of ten nearest 0.95 were
# found.
_NEAR_MEAN, _NEAR_OVERLAP = 0.99, 0.9
_NEAREST = 10
# Texts that another way to encode them is tried with.
_TRIED = 128
# A way that leaves no more than so much of the distance that the one asked for leaves is told.
_BETTER = 0.5


class Comparison(Struct, frozen=True):
    """How near vectors are to an encoder's."""

    verdict: Verdict
    """"same": the two may be mixed. "near": they rank alike. "other": they are another model's, or made
    otherwise."""
    texts: int
    mean_cosine: float
    p1_cosine: float
    min_cosine: float
    worst_id: str
    overlap: float
    """Of the ten nearest by theirs, the share that is among the ten nearest by the encoder's."""
    mixed_overlap: float
    """Likewise where half the vectors are theirs and half the encoder's, as in an index that mixes them."""
    unit_length: bool
    """Theirs are of unit length."""
    model: str
    precision: str
    role: str
    hint: str
    """What would come nearer, where something does."""

    def __str__(self) -> str:
        told = {
            "same": "the same: they may lie in one index",
            "near": "near: they rank alike, but do not mix them unnoticed; make the index anew when you can",
            "other": "other: make the index anew",
        }
        lines = [
            f"{self.texts:,} texts, against {self.model} in {self.precision}, role {self.role}",
            f"cosine: mean {self.mean_cosine:.6f}, 1st percentile {self.p1_cosine:.6f}, "
            f"smallest {self.min_cosine:.6f} (id {self.worst_id})",
            f"ten nearest: {self.overlap:.1%} the same, {self.mixed_overlap:.1%} where half are mixed in",
            told[self.verdict],
        ]
        return "\n".join([*lines, *([self.hint] if self.hint else [])])


def compare(encoder: Encoder, pairs: Pairs, *, role: str) -> Comparison:
    """Compare vectors with those that an encoder gives of the same documents.

    Args:
        encoder: it.
        pairs: documents and the vectors that somebody has.
        role: the documents'.

    Raises:
        InputError: an unknown role, or vectors of another width than the encoder's, or not finite.
    """
    documents, theirs = pairs
    if theirs.shape[1] != encoder.dim:
        raise InputError(
            f"the vectors have {theirs.shape[1]} dimensions, those of {encoder.bundle.manifest.model} have "
            f"{encoder.dim}: they are another model's"
        )
    if not np.isfinite(theirs).all():
        raise InputError("the vectors are not all finite; expected numbers without NaN and infinity")
    lengths = np.linalg.norm(theirs, axis=1)
    theirs = normalize(theirs.copy())
    ours = _encoded(encoder, _texts(encoder, documents, role), role)
    cosines = np.einsum("ij,ij->i", theirs, ours)
    mean, p1, least = float(cosines.mean()), float(np.percentile(cosines, 1)), float(cosines.min())
    mixed = np.where(np.arange(len(ours))[:, None] % 2, ours, theirs)
    overlap, mixed_overlap = _overlap(theirs, ours), _overlap(theirs, mixed)
    verdict: Verdict = "other"
    if p1 >= _SAME_P1 and least >= _SAME_MIN:
        verdict = "same"
    elif mean >= _NEAR_MEAN and mixed_overlap >= _NEAR_OVERLAP:
        verdict = "near"
    return Comparison(
        verdict=verdict,
        texts=len(documents),
        mean_cosine=mean,
        p1_cosine=p1,
        min_cosine=least,
        worst_id=documents[int(cosines.argmin())].id,
        overlap=overlap,
        mixed_overlap=mixed_overlap,
        unit_length=bool(np.allclose(lengths, 1.0, atol=1e-2)),
        model=encoder.bundle.manifest.model,
        precision=encoder.precision,
        role=role,
        hint="" if verdict == "same" else _hint(encoder, documents, theirs, role),
    )


def _texts(encoder: Encoder, documents: list[Document], role: str) -> list[Text]:
    pair = encoder.stages.tokenizer.role(role).pair
    return [document.as_text(pair=pair) for document in documents]


def _encoded(encoder: Encoder, texts: list[Text], role: str) -> NDArray[np.float32]:
    return normalize(encoder.encode(texts, role=role))


def _overlap(theirs: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """Return the share of each text's nearest, by theirs, that others give too; itself aside."""
    count = min(_NEAREST, len(theirs) - 1)
    if count < 1:
        return 1.0
    shares = [
        len(set(wanted) & set(found)) / count
        for wanted, found in zip(
            _nearest(theirs, theirs, count), _nearest(theirs, others, count), strict=True
        )
    ]
    return float(np.mean(shares))


def _nearest(queries: NDArray[np.float32], vectors: NDArray[np.float32], count: int) -> Iterator[list[int]]:
    for begin in range(0, len(queries), 1024):
        scores = queries[begin : begin + 1024] @ vectors.T
        rows = np.arange(len(scores))
        scores[rows, begin + rows] = -np.inf
        yield from np.argpartition(-scores, count - 1, axis=1)[:, :count].tolist()


def _hint(encoder: Encoder, documents: list[Document], theirs: NDArray[np.float32], role: str) -> str:
    """Say which other way to encode the documents comes nearer, if any does: a role, or the text alone."""
    documents, theirs = documents[:_TRIED], theirs[:_TRIED]
    titled = any(document.title for document in documents)
    means: dict[str, float] = {}
    for name in encoder.contract.roles:
        pair = encoder.stages.tokenizer.role(name).pair
        ways = {"": [document.as_text(pair=pair) for document in documents]}
        if titled:
            ways[", without titles"] = [Document("", "", d.text).as_text(pair=pair) for d in documents]
        for what, texts in ways.items():
            ours = _encoded(encoder, texts, name)
            means[f"role {name}{what}"] = float(np.einsum("ij,ij->i", theirs, ours).mean())
    best = max(means, key=lambda way: means[way])
    if 1 - means[best] > _BETTER * (1 - means[f"role {role}"]):
        return ""
    return f"nearer: {best}, with a mean cosine of {means[best]:.6f} over {len(documents)} texts"
