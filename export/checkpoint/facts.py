"""What a checkpoint's files say of its vectors, read once: each fact with the file and key that it is from.

The files are those that transformers and sentence-transformers read, and they count as they do there. A key
that changes vectors and is not exported is refused by name; nothing is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paritas.engine.bundle.manifest import Module
from paritas.errors import ExportError, SourceError
from paritas.export.checkpoint.files import (
    ADAPTER,
    CHAT_TEMPLATE,
    CONFIG,
    MODULES,
    SENTENCE_CONFIGS,
    SENTENCE_TRANSFORMERS,
    TOKENIZER_CONFIG,
    Fact,
    brief,
    read_json,
)
from paritas.export.checkpoint.modules import Entry, Head, read_entries, read_head
from paritas.export.checkpoint.tokenizer import TokenizerFacts, read_tokenizer

# Names of prompts for queries or for documents: none of them is for the other side, default or not.
_OF_ONE_SIDE = ("query", "document", "passage", "corpus")
_SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
# Keys of sentence_bert_config.json: those that are read, and the values under which others change nothing.
# Precisions below are of that kind: the weights count as they lie on the disk.
_READ = {"max_seq_length", "do_lower_case", "query_length", "document_length", "unpad_inputs"}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "transformer_task": (None, "feature-extraction"),
    "modality_config": (None, {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}),
    "module_output_name": (None, "token_embeddings"),
    "processing_kwargs": (None, {}),
    "tokenizer_name_or_path": (None,),
    "query_expansion": (None, False),
}
_ARGUMENTS = {
    "model_args": {"torch_dtype", "dtype", "attn_implementation"},
    "model_kwargs": {"torch_dtype", "dtype", "attn_implementation"},
    "config_args": set[str](),
    "config_kwargs": set[str](),
    "tokenizer_args": {"model_max_length"},
    "processor_kwargs": {"model_max_length"},
}
# Keys of config.json.
_ELSEWHERE = ("transformers_weights", "configuration_files", "attribute_map", "quantization_config")


@dataclass(frozen=True, slots=True)
class Facts:
    """All of them."""

    root: Path
    """The checkpoint."""
    directory: Path
    """Where config.json, weights and tokenizer lie: the checkpoint, or a folder of it."""
    config: Mapping[str, Any]
    """config.json."""
    network: Fact[str]
    width: Fact[int] | None
    """Of a token's vector; None where the network names it in a way of its own."""
    tokenizer: TokenizerFacts
    lowercase: bool
    """Texts are lowered before the tokenizer's own normaliser, which `tokenizer` does already."""
    max_length: Fact[int] | None
    """Of any text, in tokens; None where no file sets a limit."""
    lengths: Mapping[str, Fact[int]]
    """Of queries and documents by themselves, where they have others."""
    head: Head | None
    """What follows the network; None where no file says, as transformers' own checkpoints have it."""
    truncate_dim: Fact[int] | None
    prompts: Mapping[str, Fact[str]]
    default_prompt: Fact[str] | None
    """Of texts whose role has none by its name."""
    similarity: Fact[str] | None

    def modules(self, normalize: bool) -> list[Module]:
        """Return the steps after pooling.

        Args:
            normalize: vectors are scaled to unit length at the end; but for a declared cut, which comes after
                that, this is no step of its own.
        """
        steps = list(self.head.modules) if self.head is not None else []
        if self.truncate_dim is not None:
            steps += [Module("normalize")] if normalize else []
            steps.append(Module("truncate", dim=self.truncate_dim.value))
        return steps

    def check_rows(self, tokens: Mapping[str, int]) -> None:
        """Refuse a tokenizer with ids past the embedding table, before a text holds such a token.

        Args:
            tokens: the id of each token.

        Raises:
            SourceError: the highest id has no row.
        """
        rows = self.config.get("vocab_size")
        token, highest = max(tokens.items(), key=lambda item: item[1])
        if isinstance(rows, int) and highest >= rows:
            raise SourceError(
                f"{self.directory}: the tokenizer gives {token!r} the id {highest}, and the weights have "
                f"{rows} rows ({CONFIG}: vocab_size); give the tokenizer that belongs to the weights"
            )

    @property
    def weights(self) -> Mapping[str, NDArray[np.float32]]:
        """The weights of the modules, as a bundle names them."""
        return self.head.weights if self.head is not None else {}


def read_facts(directory: Path) -> Facts:
    """Read all facts of a checkpoint's directory.

    Raises:
        SourceError: a file is missing or cannot be read.
        ExportError: a file asks for something that is not exported; the message names file and key.
        MissingExtraError: the tokenizer, or a weights file, needs a package that is not installed.
    """
    entries = read_entries(directory)
    _refuse_part(directory, entries)
    network_directory = directory / entries[0].folder if entries else directory
    config = read_json(network_directory / CONFIG)
    _refuse_elsewhere(network_directory, config, bare=entries is None)
    # Without modules.json sentence-transformers reads none of the files of its own either.
    sentence, sentence_path = _sentence_config(network_directory) if entries else ({}, network_directory)
    model, model_path = _model_config(directory) if entries else ({}, directory)
    lowercase = bool(sentence.get("do_lower_case"))
    tokenizer = read_tokenizer(network_directory, lowercase=lowercase)
    head = read_head(directory, entries) if entries else None
    return Facts(
        root=directory,
        directory=network_directory,
        config=config,
        network=Fact(str(config.get("model_type")), f"{network_directory / CONFIG}: model_type"),
        width=_width(config, network_directory / CONFIG),
        tokenizer=tokenizer,
        lowercase=lowercase,
        max_length=_max_length(sentence, sentence_path, tokenizer, config, network_directory),
        lengths=_lengths(sentence, sentence_path),
        head=head,
        truncate_dim=_truncate_dim(model, model_path),
        prompts=_prompts(model, model_path),
        default_prompt=_default_prompt(model, model_path),
        similarity=_similarity(model, model_path) if entries else None,
    )


def _refuse_part(directory: Path, entries: list[Entry] | None) -> None:
    """Refuse a pooling that nothing names: part of a checkpoint is missing."""
    path = directory / "1_Pooling" / CONFIG
    if entries is None and path.is_file():
        raise SourceError(f"{path}: {MODULES}, which should name it, is missing from the checkpoint")


def _refuse_elsewhere(directory: Path, config: Mapping[str, Any], *, bare: bool) -> None:
    """Refuse what makes transformers read other files than those read here, or other weights of them."""
    if (directory / ADAPTER).is_file():
        raise ExportError(
            f"{directory / ADAPTER}: an adapter changes the weights; expected a checkpoint without one; "
            "merge it (peft: merge_and_unload) and save the model again"
        )
    for key in _ELSEWHERE:
        if config.get(key):
            raise ExportError(
                f"{directory / CONFIG}: {key} is {str(config[key])[:60]}; expected no such key: what it "
                "does is not exported"
            )
    tokenizer_config = directory / TOKENIZER_CONFIG
    if bare and (directory / CHAT_TEMPLATE).is_file():
        raise ExportError(
            f"{directory / CHAT_TEMPLATE}: sentence-transformers renders texts by it; remove it"
        )
    if bare and tokenizer_config.is_file() and read_json(tokenizer_config).get("chat_template"):
        raise ExportError(
            f"{tokenizer_config}: chat_template: sentence-transformers renders texts by it; remove it"
        )


def _sentence_config(directory: Path) -> tuple[dict[str, Any], Path]:
    """Return what sentence_bert_config.json, or one of its older names, says, and its path."""
    for name in SENTENCE_CONFIGS:
        path = directory / name
        stated = read_json(path) if path.is_file() else {}
        if stated:
            _check_sentence_config(stated, path)
            return stated, path
    return {}, directory / SENTENCE_CONFIGS[0]


def _check_sentence_config(stated: Mapping[str, Any], path: Path) -> None:
    for key, value in stated.items():
        if key in _NEUTRAL:
            if value not in _NEUTRAL[key]:
                raise ExportError(
                    f"{path}: {key} is {brief(value)}; expected {_NEUTRAL[key][-1]!r}, or no such key"
                )
        elif key in _ARGUMENTS:
            arguments = {} if value is None else value
            if not isinstance(arguments, dict):
                raise ExportError(f"{path}: {key} is {brief(value)}; expected an object")
            further = sorted(set(arguments) - _ARGUMENTS[key] - {"trust_remote_code"})
            if further:
                raise ExportError(
                    f"{path}: {key}.{further[0]} is {arguments[further[0]]!r}; expected no such key"
                )
        elif key not in _READ:
            raise ExportError(
                f"{path}: unknown key {key!r}; expected {', '.join(sorted({*_READ, *_NEUTRAL, *_ARGUMENTS}))}"
            )


def _model_config(directory: Path) -> tuple[dict[str, Any], Path]:
    path = directory / SENTENCE_TRANSFORMERS
    stated = read_json(path) if path.is_file() else {}
    if stated.get("model_type", "SentenceTransformer") != "SentenceTransformer":
        raise ExportError(
            f"{path}: model_type is {brief(stated['model_type'])}; expected 'SentenceTransformer'"
        )
    return stated, path


def _width(config: Mapping[str, Any], path: Path) -> Fact[int] | None:
    key = next((key for key in ("hidden_size", "dim") if isinstance(config.get(key), int)), None)
    return None if key is None else Fact(config[key], f"{path}: {key}")


def _max_length(
    sentence: Mapping[str, Any],
    sentence_path: Path,
    tokenizer: TokenizerFacts,
    config: Mapping[str, Any],
    directory: Path,
) -> Fact[int] | None:
    """Return the length at which sentence-transformers cuts; without its files the same formula holds."""
    for key in ("tokenizer_args", "processor_kwargs"):
        if "model_max_length" in (sentence.get(key) or {}):
            return _length(sentence[key]["model_max_length"], f"{sentence_path}: {key}.model_max_length")
    if sentence.get("max_seq_length") is not None:
        return _length(sentence["max_seq_length"], f"{sentence_path}: max_seq_length")
    limits = []
    if tokenizer.max_length is not None:
        limits.append(Fact(tokenizer.max_length, f"{directory / TOKENIZER_CONFIG}: model_max_length"))
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and positions != -1:
        limits.append(Fact(positions, f"{directory / CONFIG}: max_position_embeddings"))
    return min(limits, key=lambda limit: limit.value, default=None)


def _lengths(sentence: Mapping[str, Any], path: Path) -> dict[str, Fact[int]]:
    keys = {"query": "query_length", "document": "document_length"}
    return {
        role: _length(sentence[key], f"{path}: {key}")
        for role, key in keys.items()
        if sentence.get(key) is not None
    }


def _length(value: Any, place: str) -> Fact[int]:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ExportError(f"{place} is {brief(value)}; expected a positive number of tokens")
    return Fact(value, place)


def _truncate_dim(model: Mapping[str, Any], path: Path) -> Fact[int] | None:
    value = model.get("truncate_dim")
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ExportError(f"{path}: truncate_dim is {brief(value)}; expected a positive number of channels")
    return Fact(value, f"{path}: truncate_dim")


def _prompts(model: Mapping[str, Any], path: Path) -> dict[str, Fact[str]]:
    stated = model.get("prompts", {})
    if not isinstance(stated, Mapping) or not all(isinstance(text, str | None) for text in stated.values()):
        raise ExportError(f"{path}: prompts is {str(stated)[:60]}; expected an object of strings")
    return {name: Fact(text, f"{path}: prompts.{name}") for name, text in stated.items() if text is not None}


def _default_prompt(model: Mapping[str, Any], path: Path) -> Fact[str] | None:
    name = model.get("default_prompt_name")
    if name is None:
        return None
    prompts = _prompts(model, path)
    if not isinstance(name, str) or (
        name not in prompts and name not in ("query", "document")
    ):  # always there to it
        raise ExportError(
            f"{path}: default_prompt_name is {brief(name)}; expected one of the prompts there: "
            f"{', '.join(prompts) or 'none'}"
        )
    return prompts.get(name) if name not in _OF_ONE_SIDE else None


def _similarity(model: Mapping[str, Any], path: Path) -> Fact[str]:
    value = model.get("similarity_fn_name") or "cosine"
    if value not in _SIMILARITIES:
        raise ExportError(
            f"{path}: similarity_fn_name is {brief(value)}; expected one of {', '.join(_SIMILARITIES)}"
        )
    return Fact(str(value), f"{path}: similarity_fn_name")
