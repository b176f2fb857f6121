"""From token vectors to one vector a text, in NumPy, float32 throughout."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from paritas.errors import ShapeError
from paritas.registry import Pooling

# torch.nn.functional.normalize's and the model cards' guards against a zero length and a text of no tokens.
_NORM_FLOOR = np.float32(1e-12)
_COUNT_FLOOR = np.float32(1e-9)


def cls_pool(last_hidden_state: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return each text's first token vector.

    Args:
        last_hidden_state: float32, (batch, seq, dim); (batch, 1, dim) where the graph computes no more.

    Returns:
        float32, (batch, dim), a view.
    """
    return last_hidden_state[:, 0]


def mean_pool(
    last_hidden_state: NDArray[np.float32], attention_mask: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the average of each text's token vectors, padding left out.

    Args:
        last_hidden_state: float32, (batch, seq, dim).
        attention_mask: int64, (batch, seq); 1 for tokens, 0 for padding.

    Returns:
        float32, (batch, dim). A text with no tokens gives zeros.

    Raises:
        ShapeError: the two (batch, seq) extents differ.
    """
    if last_hidden_state.shape[:2] != attention_mask.shape:
        raise ShapeError(
            f"attention_mask has shape {attention_mask.shape}, expected {last_hidden_state.shape[:2]}"
        )
    # (batch, 1, seq) @ (batch, seq, dim) needs no (batch, seq, dim) temporary. The mask is cast first:
    # int64 times float32 would be float64.
    mask = attention_mask.astype(np.float32)
    total = (mask[:, None, :] @ last_hidden_state)[:, 0]
    return np.asarray(total / np.maximum(mask.sum(axis=1, keepdims=True), _COUNT_FLOOR))


def normalize(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each row to unit length (L2), in place, and return it.

    Args:
        vectors: float32, (batch, dim); overwritten. A row of zeros stays zeros.
    """
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    vectors /= np.maximum(norms, _NORM_FLOOR)[:, None]
    return vectors


def pool(
    last_hidden_state: NDArray[np.float32],
    attention_mask: NDArray[np.int64],
    *,
    pooling: Pooling,
    normalized: bool,
) -> NDArray[np.float32]:
    """Pool a batch as its model asks for and, if `normalized`, scale the rows to unit length.

    Args:
        last_hidden_state: float32, (batch, seq, dim); as `cls_pool` takes it where that is the pooling.
        attention_mask: int64, (batch, seq).

    Returns:
        float32, (batch, dim).
    """
    if pooling == "cls":
        vectors = cls_pool(last_hidden_state).copy()
    else:
        vectors = mean_pool(last_hidden_state, attention_mask)
    return normalize(vectors) if normalized else vectors
