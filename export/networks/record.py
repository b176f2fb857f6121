"""What a network is made of: the record that each network's file fills in, and the sizes of one checkpoint.

All of them share the encoder of BERT (Devlin et al. 2018, arXiv:1810.04805): each layer is attention, then
two linear layers with a GELU between, and a LayerNorm follows each of the two sums. `graph.py` writes that
encoder, `reference.py` computes it again. Both ask the record for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from paritas.export.networks.positions import Positions

if TYPE_CHECKING:
    from paritas.export.graph.builder import GraphBuilder

Shape = tuple[int, ...]
Config = Mapping[str, Any]
"""A parsed config.json."""

WORD_EMBEDDINGS = "embeddings.word_embeddings.weight"


class PositionBias(Protocol):
    """What is added to attention's scores by the distance of two tokens."""

    weight: str
    """The checkpoint's name of its table."""
    buckets: int
    """The table has so many rows, and a column for each head."""

    def by_distance(self, table: NDArray[np.float32], length: int) -> NDArray[np.float32]:
        """Return float32, (heads, 2 * length - 1); column `key - query + length - 1` is that distance's."""

    def write(self, graph: GraphBuilder, table: NDArray[np.float32], length: int) -> str:
        """Write what makes the bias of every (query, key) pair, (H, S, S), and return its name."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a network is made of, whatever the sizes of its checkpoints."""

    prefix: str
    """Stands before the encoder's names where heads were saved with it."""
    layer: Mapping[str, str]
    """The checkpoint's names of a layer's parts, by ours."""
    positions: Callable[[Config, str], Positions]
    """How the positions of a configuration are counted; the second argument names its file in errors."""
    tokenizer_class: str | None = None
    """Of its tokenizer, where no file names one; None where only transformers knows that class."""
    has_token_types: bool = True
    position_bias: PositionBias | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    """Entries of config.json that are the network's own, each with the one value that is known here."""

    @property
    def tokens_first(self) -> bool:
        """Whether the graph holds tokens as (seq, batch, dim) between embeddings and output.

        With a bias there is no fused attention that wants (batch, seq, dim), and onnxruntime takes the
        transposes of queries, keys and values into the products that read them. all-mpnet-base-v2 in INT8 is
        then 1.03 to 1.06 times as fast for one text of 8 to 60 tokens, and 1.02 to 1.03 for batches of 500;
        in FP32 1.00 to 1.02, with the same bits.
        """
        return self.position_bias is not None


@dataclass(frozen=True, slots=True)
class Network:
    """One checkpoint's network: what it is made of, and its sizes as config.json has them."""

    model_type: str
    architecture: Architecture
    layers: int
    heads: int
    dim: int
    intermediate: int
    vocab_size: int
    position_rows: int
    """Rows of the position table."""
    positions: Positions
    token_types: int
    """Rows of the token type table; 0 where there is none."""
    norm_eps: float

    @property
    def position_bias(self) -> PositionBias | None:
        """What is added to attention's scores; None where nothing is."""
        return self.architecture.position_bias

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.dim // self.heads

    @property
    def max_length(self) -> int:
        """The longest sequence that the position table serves."""
        return self.positions.longest(self.position_rows)

    def parameters(self) -> Iterator[tuple[str, str, Shape]]:
        """Yield (our name, the checkpoint's name, shape) of every weight."""
        dim, bias = self.dim, self.position_bias
        yield "word_embeddings", WORD_EMBEDDINGS, (self.vocab_size, dim)
        yield "position_embeddings", "embeddings.position_embeddings.weight", (self.position_rows, dim)
        if self.token_types:
            yield "token_type_embeddings", "embeddings.token_type_embeddings.weight", (self.token_types, dim)
        yield from _norm("embeddings_norm", "embeddings.LayerNorm", dim)
        if bias is not None:
            yield "position_bias", bias.weight, (bias.buckets, self.heads)
        for index in range(self.layers):
            yield from self._layer(f"layer.{index}", f"encoder.layer.{index}")

    def _layer(self, name: str, place: str) -> Iterator[tuple[str, str, Shape]]:
        dim, wide = self.dim, self.intermediate
        for ours, theirs in self.architecture.layer.items():
            part, there = f"{name}.{ours}", f"{place}.{theirs}"
            if ours.endswith("norm"):
                yield from _norm(part, there, dim)
                continue
            rows, columns = {"intermediate": (wide, dim), "output": (dim, wide)}.get(ours, (dim, dim))
            yield f"{part}.weight", f"{there}.weight", (rows, columns)
            yield f"{part}.bias", f"{there}.bias", (rows,)


def _norm(name: str, place: str, dim: int) -> Iterator[tuple[str, str, Shape]]:
    yield f"{name}.weight", f"{place}.weight", (dim,)
    yield f"{name}.bias", f"{place}.bias", (dim,)
