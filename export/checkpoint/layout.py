"""Which files of a checkpoint are read, so that all of them are fetched, and digested."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from paritas.errors import SourceError
from paritas.export.checkpoint.files import (
    ADAPTER,
    ADDED_TOKENS,
    CHAT_TEMPLATE,
    CONFIG,
    MODULES,
    PYTORCH,
    PYTORCH_INDEX,
    SAFETENSORS,
    SAFETENSORS_INDEX,
    SENTENCE_CONFIGS,
    SENTENCE_TRANSFORMERS,
    SPECIAL_TOKENS_MAP,
    TOKENIZER,
    TOKENIZER_CONFIG,
    VOCABULARY,
    read_json,
)
from paritas.export.checkpoint.modules import read_entries
from paritas.export.checkpoint.weights import shards

_OPTIONAL = (TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS, ADAPTER, CHAT_TEMPLATE, *SENTENCE_CONFIGS)

Get = Callable[..., Path | None]
"""get(file, required=True) makes a file be there; returns its path, or None where there is none."""


def collect(directory: Path, get: Get, place: str) -> tuple[list[str], list[str]]:
    """Get every file that an export reads; return the names of those there, and of those that are not.

    Args:
        directory: the checkpoint's, with modules.json in it if it has one.
        get: called for each; raises where a required file is not there.
        place: what messages call the checkpoint.

    Raises:
        SourceError: there are no weights; or as `read_entries`, `shards` and `get`.
        ExportError: as `read_entries`.
    """
    names: list[str] = []
    absent: list[str] = []

    def take(folder: str, name: str, *, required: bool = False) -> bool:
        file = str(PurePosixPath(folder, name))
        there = get(file, required=required) is not None
        (names if there else absent).append(file)
        return there

    def take_weights(folder: str) -> None:
        if take(folder, SAFETENSORS):
            return
        for index in (SAFETENSORS_INDEX, PYTORCH, PYTORCH_INDEX):
            if take(folder, index):
                for shard in shards(directory / folder, index) if index != PYTORCH else ():
                    take(folder, shard, required=True)
                return
        raise SourceError(
            f"{PurePosixPath(place, folder)}: no weights; expected {SAFETENSORS} or {PYTORCH}, "
            "or one of them in shards"
        )

    take("", MODULES)
    entries = read_entries(directory) or []
    network = entries[0].folder if entries else ""
    take(network, CONFIG, required=True)
    for name in _OPTIONAL:
        take(network, name)
    # Without a tokenizer.json one is made of the vocabulary, and with the key tokenizer_file too.
    has_own = take(network, TOKENIZER)
    wanted = not has_own or _names_a_file(directory / network / TOKENIZER_CONFIG)
    if wanted and not take(network, VOCABULARY) and not has_own:
        take(network, TOKENIZER, required=True)
    take_weights(network)
    if entries:
        take("", SENTENCE_TRANSFORMERS)
    for entry in entries[1:]:
        take(entry.folder, CONFIG)
        if entry.kind in ("Dense", "LayerNorm"):
            take_weights(entry.folder)
    return names, absent


def _names_a_file(path: Path) -> bool:
    return path.is_file() and "tokenizer_file" in read_json(path)
