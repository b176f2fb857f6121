"""From token vectors to one vector a text, in NumPy, float32 throughout."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from paritas.errors import ShapeError
from paritas.registry import Pooling

# torch.nn.functional.normalize's and the model cards' guards against a zero length and a text of no tokens.
_NORM_FLOOR = np.float32(1e-12)
_COUNT_FLOOR = np.float32(1e-9)
# What sentence-transformers puts in the place of padding before it takes the largest value.
_LOWEST = np.float32(-np.inf)


def cls_pool(
    last_hidden_state: NDArray[np.float32], attention_mask: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """Return each text's first token vector.

    Args:
        last_hidden_state: float32, (batch, seq, dim); (batch, 1, dim) where the graph computes no more.
        attention_mask: int64, (batch, seq), where the first token is not to be pooled.

    Returns:
        float32, (batch, dim), a view where there is no mask.
    """
    if attention_mask is None or attention_mask[:, 0].all():
        return last_hidden_state[:, 0]
    first = (attention_mask > 0).argmax(axis=1)
    return np.asarray(last_hidden_state[np.arange(len(first)), first])


def max_pool(
    last_hidden_state: NDArray[np.float32], attention_mask: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the largest value of each channel over a text's tokens; arguments and errors of `mean_pool`.

    Returns:
        float32, (batch, dim). A text with no tokens gives -inf, as sentence-transformers does.
    """
    _check_mask(last_hidden_state, attention_mask)
    masked = np.where(attention_mask[:, :, None] > 0, last_hidden_state, _LOWEST)
    return np.asarray(masked.max(axis=1, initial=_LOWEST))


def last_token_pool(
    last_hidden_state: NDArray[np.float32], attention_mask: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return each text's last token vector; arguments and errors of `mean_pool`.

    Returns:
        float32, (batch, dim). A text with no tokens gives zeros.
    """
    _check_mask(last_hidden_state, attention_mask)
    last = attention_mask.shape[1] - 1 - (attention_mask[:, ::-1] > 0).argmax(axis=1)
    vectors = last_hidden_state[np.arange(len(last)), last]
    return np.asarray(vectors * (attention_mask.any(axis=1, keepdims=True)).astype(np.float32))


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
    total, count = _sums(last_hidden_state, attention_mask)
    return np.asarray(total / count)


def mean_sqrt_len_pool(
    last_hidden_state: NDArray[np.float32], attention_mask: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the sum of each text's token vectors over the square root of their number; as `mean_pool`."""
    total, count = _sums(last_hidden_state, attention_mask)
    return np.asarray(total / np.sqrt(count))


def weighted_mean_pool(
    last_hidden_state: NDArray[np.float32], attention_mask: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the average of each text's token vectors, the n-th counted n times; as `mean_pool`.

    The weights are SGPT's (Muennighoff 2022, arXiv:2202.08904).
    """
    places = np.arange(1, attention_mask.shape[1] + 1)
    total, count = _sums(last_hidden_state, attention_mask, places)
    return np.asarray(total / count)


def _sums(
    last_hidden_state: NDArray[np.float32],
    attention_mask: NDArray[np.int64],
    weights: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the weighted sum of the token vectors, (batch, dim), and of the weights, (batch, 1)."""
    _check_mask(last_hidden_state, attention_mask)
    # (batch, 1, seq) @ (batch, seq, dim) needs no (batch, seq, dim) temporary. The mask is cast first:
    # int64 times float32 would be float64.
    mask = attention_mask.astype(np.float32)
    if weights is not None:
        mask *= weights.astype(np.float32)
    total = (mask[:, None, :] @ last_hidden_state)[:, 0]
    return total, np.maximum(mask.sum(axis=1, keepdims=True), _COUNT_FLOOR)


def _check_mask(last_hidden_state: NDArray[np.float32], attention_mask: NDArray[np.int64]) -> None:
    if last_hidden_state.shape[:2] != attention_mask.shape:
        raise ShapeError(
            f"attention_mask has shape {attention_mask.shape}, expected {last_hidden_state.shape[:2]}"
        )


def normalize(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each row to unit length (L2), in place, and return it.

    Args:
        vectors: float32, (batch, dim); overwritten. A row of zeros stays zeros.
    """
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    vectors /= np.maximum(norms, _NORM_FLOOR)[:, None]
    return vectors


_POOLS: dict[str, Callable[[NDArray[np.float32], NDArray[np.int64]], NDArray[np.float32]]] = {
    "cls": lambda hidden, mask: cls_pool(hidden, mask).copy(),
    "max": max_pool,
    "mean": mean_pool,
    "mean_sqrt_len_tokens": mean_sqrt_len_pool,
    "weightedmean": weighted_mean_pool,
    "lasttoken": last_token_pool,
}


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
        pooling: one of the registry's `POOLINGS`, or several joined by "+".
        normalized: scale the rows.

    Returns:
        float32, (batch, dim), or as many times as wide as poolings are joined.
    """
    parts = [_POOLS[mode](last_hidden_state, attention_mask) for mode in pooling.split("+")]
    vectors = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return normalize(vectors) if normalized else vectors
