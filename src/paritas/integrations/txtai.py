"""txtai: a function that makes vectors, as its external method takes one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paritas.integrations import check
from paritas.integrations.dual_encoder import DualEncoder, Model

check(__name__)

# txtai hands its function texts and not whether they are asked or stored, but puts an instruction of each
# kind in front of them. No text of a user's begins with these.
_MARKS = {"query": "\x00query\x00", "data": "\x00data\x00"}


def settings(
    model: Model, *, query_role: str = "query", passage_role: str = "passage", **options: Any
) -> dict[str, Any]:
    """Return settings for `txtai.Embeddings`: what is indexed is a passage, and what is asked a query.

    Args:
        model: as for `Encoder`, or an `Encoder`.
        query_role: the role that queries have.
        passage_role: the role that what is indexed has.
        **options: of `Encoder`.

    Raises:
        ParitasError: as `Encoder`.
        InputError: the model has no such role.
    """
    encoder = DualEncoder(model, query_role=query_role, passage_role=passage_role, **options)

    # A plain function: txtai calls any other object without arguments, to get one.
    def transform(texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), encoder.dim), np.float32)
        asked = np.array([str(text).startswith(_MARKS["query"]) for text in texts], bool)
        for encode, places in ((encoder.queries, asked), (encoder.passages, ~asked)):
            if places.any():
                vectors[places] = encode(
                    [_bare(text) for text, here in zip(texts, places, strict=True) if here]
                )
        return vectors

    return {"method": "external", "transform": transform, "instructions": dict(_MARKS)}


def _bare(text: Any) -> Any:
    if not isinstance(text, str):
        return text  # for the encoder to refuse
    for mark in _MARKS.values():
        text = text.removeprefix(mark)
    return text
