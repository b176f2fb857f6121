"""A network's sizes, read from config.json; what is not known here is refused by its key."""

from __future__ import annotations

from paritas.errors import ExportError, SourceError
from paritas.export.networks.known import ARCHITECTURES
from paritas.export.networks.record import Architecture, Config, Network

# Entries that change what is computed, each with the one value that is known here.
_OPTIONS: dict[str, object] = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "is_causal": False,
    "add_cross_attention": False,
    "chunk_size_feed_forward": 0,
    "pruned_heads": {},
}


def read_network(config: Config, place: str) -> Network:
    """Read the sizes from a parsed config.json; `place` names it in errors.

    Raises:
        ExportError: the network, or an option of it, is not exported natively.
        SourceError: a size is missing, or not of its kind.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise ExportError(
            f"{place}: model_type is {model_type!r}; the native front-end knows {', '.join(ARCHITECTURES)}; "
            "try --frontend optimum"
        )
    architecture = ARCHITECTURES[model_type]
    _check_options(architecture, config, place)
    network = Network(
        model_type=model_type,
        architecture=architecture,
        layers=_size(config, "num_hidden_layers", place),
        heads=_size(config, "num_attention_heads", place),
        dim=_size(config, "hidden_size", place),
        intermediate=_size(config, "intermediate_size", place),
        vocab_size=_size(config, "vocab_size", place),
        position_rows=_size(config, "max_position_embeddings", place),
        positions=architecture.positions(config, place),
        token_types=_size(config, "type_vocab_size", place) if architecture.has_token_types else 0,
        norm_eps=_norm_eps(config, place),
    )
    if network.dim % network.heads:
        raise SourceError(f"{place}: hidden_size {network.dim} is no multiple of {network.heads} heads")
    return network


def _check_options(architecture: Architecture, config: Config, place: str) -> None:
    for key, value in {**_OPTIONS, **architecture.options}.items():
        if key in config and (
            config[key] != value or isinstance(config[key], bool) != isinstance(value, bool)
        ):
            raise ExportError(
                f"{place}: {key} is {config[key]!r}; the native front-end knows {value!r}; "
                "try --frontend optimum"
            )


def _size(config: Config, key: str, place: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        given = repr(value) if key in config else "missing"
        raise SourceError(f"{place}: {key} is {given}; expected a positive integer")
    return value


def _norm_eps(config: Config, place: str) -> float:
    eps = config.get("layer_norm_eps", 1e-12)
    if not isinstance(eps, (int, float)) or not eps > 0:
        raise SourceError(f"{place}: layer_norm_eps is {eps!r}; expected a positive number")
    return float(eps)
