"""A network's weights under our names, each checked against what config.json promises."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paritas.errors import SourceError
from paritas.export.checkpoint.files import read_json
from paritas.export.checkpoint.weights import Weights, open_weights
from paritas.export.networks.config import read_network
from paritas.export.networks.record import WORD_EMBEDDINGS, Network, Shape

# Parts of a checkpoint that last_hidden_state does not need: buffers, the pooler, the training heads.
_UNUSED = (
    "pooler.",
    "embeddings.position_ids",
    "embeddings.token_type_ids",
    "cls.",
    "lm_head.",
    "classifier.",
    "qa_outputs.",
)
# Faults that one error names.
_SHOWN = 8


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


def _match(network: Network, shapes: Mapping[str, Shape], directory: Path) -> dict[str, str]:
    """Return the checkpoint's name for each of ours, or raise naming every weight that does not fit."""
    prefix = _prefix(network, shapes, directory)
    present = _by_modern_name(shapes, prefix, directory)
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
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        shown = "; ".join(faults[:_SHOWN])
        raise SourceError(f"{directory}: the weights do not fit config.json: {shown}{more}")
    return names


def _prefix(network: Network, shapes: Mapping[str, Shape], directory: Path) -> str:
    """Return what precedes the encoder's names: nothing, or "bert." where heads were saved with it."""
    tables = [name for name in shapes if name.endswith(WORD_EMBEDDINGS)]
    known = [WORD_EMBEDDINGS, f"{network.architecture.prefix}.{WORD_EMBEDDINGS}"]
    # Under any other name transformers does not find the weights, and makes them up.
    if len(tables) != 1 or tables[0] not in known:
        raise SourceError(f"{directory}: expected one weight named {' or '.join(known)}, found {tables}")
    return tables[0].removesuffix(WORD_EMBEDDINGS)


def _by_modern_name(shapes: Mapping[str, Shape], prefix: str, directory: Path) -> dict[str, str]:
    """Return the checkpoint's names by those of today, without the prefix."""
    present: dict[str, str] = {}
    for name in shapes:
        other = present.setdefault(_modern(name.removeprefix(prefix)), name)
        if other != name:
            raise SourceError(
                f"{directory}: {other!r} and {name!r} are one weight under two names; expected one"
            )
    return present


def _modern(name: str) -> str:
    """Rename the LayerNorm parameters of checkpoints that were converted from TensorFlow."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
