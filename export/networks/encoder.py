"""The networks exported natively: what their configuration must say and which weights they need.

BERT (Devlin et al. 2018, arXiv:1810.04805) and MPNet (Song et al. 2020, arXiv:2004.09297) share the
post-LayerNorm encoder. They differ in names, in how positions are counted, and in MPNet's relative
position bias, whose buckets are T5's (Raffel et al. 2019, arXiv:1910.10683, section 2.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from paritas.errors import ExportError, SourceError
from paritas.export.checkpoint.files import read_json
from paritas.export.checkpoint.weights import Weights, open_weights

Shape = tuple[int, ...]

_LAYER = {
    "bert": {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attention_output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "intermediate": "intermediate.dense",
        "output": "output.dense",
        "output_norm": "output.LayerNorm",
    },
    "mpnet": {
        "query": "attention.attn.q",
        "key": "attention.attn.k",
        "value": "attention.attn.v",
        "attention_output": "attention.attn.o",
        "attention_norm": "attention.LayerNorm",
        "intermediate": "intermediate.dense",
        "output": "output.dense",
        "output_norm": "output.LayerNorm",
    },
}
_WORD_EMBEDDINGS = "embeddings.word_embeddings.weight"
# transformers' MPNetEncoder reads its table of position biases by 32 buckets whatever its size.
_BUCKETS = 32

# Parts of a checkpoint that last_hidden_state does not need: buffers, the pooler, the training heads.
_UNUSED = ("pooler.", "embeddings.position_ids", "cls.", "lm_head.", "classifier.", "qa_outputs.")


@dataclass(frozen=True, slots=True)
class Network:
    """The sizes of one encoder, read from its config.json."""

    kind: Literal["bert", "mpnet"]
    layers: int
    heads: int
    dim: int
    intermediate: int
    vocab_size: int
    positions: int
    """Rows of the position table."""
    token_types: int
    """Rows of the token type table; 0 for MPNet, which has none."""
    buckets: int
    """Buckets of the relative position bias; 0 for BERT, which has none."""
    norm_eps: float
    pad_token_id: int

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def max_length(self) -> int:
        """The longest sequence the position table serves: MPNet's positions start after the padding id."""
        return self.positions if self.kind == "bert" else self.positions - self.pad_token_id - 1

    def parameters(self) -> Iterator[tuple[str, str, Shape]]:
        """Yield (our name, the checkpoint's name, shape) of every weight."""
        dim, wide = self.dim, self.intermediate
        yield "word_embeddings", _WORD_EMBEDDINGS, (self.vocab_size, dim)
        yield "position_embeddings", "embeddings.position_embeddings.weight", (self.positions, dim)
        if self.token_types:
            yield "token_type_embeddings", "embeddings.token_type_embeddings.weight", (self.token_types, dim)
        yield from _norm("embeddings_norm", "embeddings.LayerNorm", dim)
        if self.buckets:
            bias = "encoder.relative_attention_bias.weight"
            yield "relative_attention_bias", bias, (self.buckets, self.heads)
        for index in range(self.layers):
            for ours, theirs in _LAYER[self.kind].items():
                name, place = f"layer.{index}.{ours}", f"encoder.layer.{index}.{theirs}"
                if ours.endswith("norm"):
                    yield from _norm(name, place, dim)
                    continue
                rows, columns = {"intermediate": (wide, dim), "output": (dim, wide)}.get(ours, (dim, dim))
                yield f"{name}.weight", f"{place}.weight", (rows, columns)
                yield f"{name}.bias", f"{place}.bias", (rows,)


def _norm(name: str, place: str, dim: int) -> Iterator[tuple[str, str, Shape]]:
    yield f"{name}.weight", f"{place}.weight", (dim,)
    yield f"{name}.bias", f"{place}.bias", (dim,)


class Parameters:
    """A checkpoint's tensors under our names, each float32 and read when asked for."""

    def __init__(self, weights: Weights, names: Mapping[str, str], place: Path) -> None:
        self._weights, self._names, self._place = weights, names, place

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        value = self._weights[self._names[name]]
        if not np.isfinite(value).all():
            raise SourceError(f"{self._place}: weight {self._names[name]!r} holds NaN or infinite values")
        return value


def open_network(directory: Path) -> tuple[Network, Parameters]:
    """Read a checkpoint's config.json and check every weight it promises against the files.

    Raises:
        SourceError: the checkpoint cannot be read, or its weights do not fit its configuration.
        ExportError: the network, or an option of it, is not exported natively.
    """
    network = read_network(read_json(directory / "config.json"), str(directory / "config.json"))
    weights = open_weights(directory)
    return network, Parameters(weights, _match(network, weights.shapes(), directory), directory)


def read_network(config: Mapping[str, Any], place: str) -> Network:
    """Read the sizes from a parsed config.json; `place` names it in errors."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _LAYER:
        raise ExportError(
            f"{place}: model_type is {kind!r}; the native front-end knows {', '.join(_LAYER)}; "
            "try --frontend optimum"
        )
    _check_options(config, place)

    def size(key: str) -> int:
        value = config.get(key)
        if not isinstance(value, int) or value < 1:
            found = repr(value) if key in config else "missing"
            raise SourceError(f"{place}: {key} is {found}; expected a positive integer")
        return value

    eps = config.get("layer_norm_eps", 1e-12)
    if not isinstance(eps, (int, float)) or not eps > 0:
        raise SourceError(f"{place}: layer_norm_eps is {eps!r}; expected a positive number")
    bert = kind == "bert"
    network = Network(
        kind="bert" if bert else "mpnet",
        layers=size("num_hidden_layers"),
        heads=size("num_attention_heads"),
        dim=size("hidden_size"),
        intermediate=size("intermediate_size"),
        vocab_size=size("vocab_size"),
        positions=size("max_position_embeddings"),
        token_types=size("type_vocab_size") if bert else 0,
        buckets=0 if bert else _BUCKETS,
        norm_eps=float(eps),
        # transformers' MPNetEmbeddings counts from 1 whatever pad_token_id the configuration names, and
        # BERT's positions do not depend on it.
        pad_token_id=0 if bert else 1,
    )
    if network.dim % network.heads:
        raise SourceError(f"{place}: hidden_size {network.dim} is no multiple of {network.heads} heads")
    return network


def _check_options(config: Mapping[str, Any], place: str) -> None:
    expected = {
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "is_causal": False,
        "add_cross_attention": False,
        "chunk_size_feed_forward": 0,
        "relative_attention_num_buckets": _BUCKETS,
        "pruned_heads": {},
    }
    for key, value in expected.items():
        if key in config and (
            config[key] != value or isinstance(config[key], bool) != isinstance(value, bool)
        ):
            raise ExportError(
                f"{place}: {key} is {config[key]!r}; the native front-end knows {value!r}; "
                "try --frontend optimum"
            )


def _match(network: Network, shapes: Mapping[str, Shape], directory: Path) -> dict[str, str]:
    """Return the checkpoint's name for each of ours, or raise naming every weight that does not fit."""
    prefix = _prefix(network, shapes, directory)
    present: dict[str, str] = {}
    for name in shapes:
        other = present.setdefault(_modern(name.removeprefix(prefix)), name)
        if other != name:
            raise SourceError(
                f"{directory}: {other!r} and {name!r} are one weight under two names; expected one"
            )
    names: dict[str, str] = {}
    faults: list[str] = []
    for ours, theirs, shape in network.parameters():
        full = present.pop(theirs, None)
        if full is None:
            faults.append(f"missing {prefix + theirs!r}, shape {shape}")
        elif shapes[full] != shape:
            faults.append(f"{full!r} has shape {shapes[full]}, config.json asks for {shape}")
        else:
            names[ours] = full
    faults += [f"unexpected {full!r}" for name, full in present.items() if not name.startswith(_UNUSED)]
    if faults:
        more = f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise SourceError(f"{directory}: the weights do not fit config.json: {'; '.join(faults[:8])}{more}")
    return names


def _prefix(network: Network, shapes: Mapping[str, Shape], directory: Path) -> str:
    """Return what precedes the encoder's names: nothing, or "bert." where heads were saved with it."""
    found = [name for name in shapes if name.endswith(_WORD_EMBEDDINGS)]
    known = [_WORD_EMBEDDINGS, f"{network.kind}.{_WORD_EMBEDDINGS}"]
    # Under any other name transformers does not find the weights, and makes them up.
    if len(found) != 1 or found[0] not in known:
        raise SourceError(f"{directory}: expected one weight named {' or '.join(known)}, found {found}")
    return found[0].removesuffix(_WORD_EMBEDDINGS)


def _modern(name: str) -> str:
    """Rename the LayerNorm parameters of checkpoints that were converted from TensorFlow."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def relative_position_bias(table: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """Spread MPNet's bucketed position bias over distances, so that a graph needs no bucket arithmetic.

    Args:
        table: float32, (buckets, heads), the checkpoint's relative_attention_bias.
        length: longest sequence.

    Returns:
        float32, (heads, 2 * length - 1); column `key - query + length - 1` is the bias of that distance.
    """
    distance = np.arange(-(length - 1), length)
    return np.ascontiguousarray(table[_bucket(distance, len(table))].T)


def _bucket(distance: NDArray[np.int64], buckets: int, max_distance: int = 128) -> NDArray[np.int64]:
    """T5's bidirectional buckets: half for each direction; near distances alone, far ones by logarithm."""
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
