"""MPNet (Song et al. 2020, arXiv:2004.09297): BERT's encoder, and a bias by the distance of two tokens.

The bias has the buckets of T5 (Raffel et al. 2019, arXiv:1910.10683, section 2.1), one table for all layers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from paritas.export.networks.positions import AfterPadding
from paritas.export.networks.record import Architecture

if TYPE_CHECKING:
    from paritas.export.graph.builder import GraphBuilder

# transformers' MPNetEncoder reads its table of position biases by 32 buckets whatever its size.
_BUCKETS = 32
# transformers' MPNetEmbeddings counts from 1 whatever pad_token_id the configuration names.
_PAD_TOKEN_ID = 1


class BucketedBias:
    """The bias of T5's buckets: half of them for each direction, near distances alone, far ones in groups."""

    weight = "encoder.relative_attention_bias.weight"
    buckets = _BUCKETS

    def by_distance(self, table: NDArray[np.float32], length: int) -> NDArray[np.float32]:
        """Spread the buckets over distances, so that a graph needs no bucket arithmetic.

        Args:
            table: float32, (buckets, heads), the checkpoint's.
            length: longest sequence.

        Returns:
            float32, (heads, 2 * length - 1); column `key - query + length - 1` is the bias of that distance.
        """
        distance = np.arange(-(length - 1), length)
        return np.ascontiguousarray(table[_bucket(distance, len(table))].T)

    def write(self, graph: GraphBuilder, table: NDArray[np.float32], length: int) -> str:
        """Write the bias of every (query, key) pair by distance: (H, S, S)."""
        add = graph.add
        spread = self.by_distance(table, length)
        # To whole cache lines, for what follows it in an optimized graph; see engine/runtime/session.py.
        spread = np.pad(spread, ((0, 0), (0, -spread.shape[1] % 16)))
        by_distance = graph.constant("relative_bias.by_distance", spread)
        column = self._columns(graph, length)
        # Gather copies rows of H values: by columns, a value at a time, it took 3.4 ms at 165 tokens. The
        # table itself is turned once, when onnxruntime loads it.
        turned = add("Transpose", by_distance, output="relative_bias.rows", perm=[1, 0])
        rows = add("Gather", turned, column, output="relative_bias.gathered", axis=0)
        return add("Transpose", rows, output="relative_bias", perm=[2, 0, 1])

    def _columns(self, graph: GraphBuilder, length: int) -> str:
        """Write the column of every (query, key) pair: (S, S)."""
        add = graph.add

        def scalar(value: int) -> str:
            return graph.constant(f"int.{value}", np.array(value, dtype=np.int64))

        tokens = add("Shape", "input_ids", output="relative_bias.length", start=1, end=2)
        tokens = add("Squeeze", tokens, output="relative_bias.scalar_length")
        key = add("Range", scalar(0), tokens, scalar(1), output="relative_bias.key")
        query = add("Unsqueeze", key, graph.ints(1), output="relative_bias.query")
        distance = add("Sub", key, query, output="relative_bias.distance")
        return add("Add", distance, scalar(length - 1), output="relative_bias.column")


def _bucket(distance: NDArray[np.int64], buckets: int, max_distance: int = 128) -> NDArray[np.int64]:
    """Return T5's bidirectional bucket of each distance."""
    half = buckets // 2
    exact = half // 2
    far = np.abs(distance)
    # float32, as in transformers: a boundary that falls between two integers must fall on the same side.
    ratio = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact)) / np.float32(
        math.log(max_distance / exact)
    )
    logarithmic = exact + (ratio * (half - exact)).astype(np.int64)
    near = np.where(far < exact, far, np.minimum(logarithmic, half - 1))
    return np.asarray(near + half * (distance > 0))


MPNET = Architecture(
    prefix="mpnet",
    layer={
        "query": "attention.attn.q",
        "key": "attention.attn.k",
        "value": "attention.attn.v",
        "attention_output": "attention.attn.o",
        "attention_norm": "attention.LayerNorm",
        "intermediate": "intermediate.dense",
        "output": "output.dense",
        "output_norm": "output.LayerNorm",
    },
    positions=lambda _config, _place: AfterPadding(_PAD_TOKEN_ID),
    tokenizer_class="MPNetTokenizer",
    has_token_types=False,
    position_bias=BucketedBias(),
    options={"relative_attention_num_buckets": _BUCKETS},
)
