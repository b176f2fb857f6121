"""The files of a checkpoint directory: their names, and how those in JSON are read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from paritas.errors import SourceError
from paritas.files import read

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
VOCABULARY = "vocab.txt"
MODULES = "modules.json"
SENTENCE_TRANSFORMERS = "config_sentence_transformers.json"
SENTENCE_CONFIGS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
"""Of these sentence-transformers reads the first that is there and not empty."""
ADAPTER = "adapter_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
PYTORCH = "pytorch_model.bin"
PYTORCH_INDEX = "pytorch_model.bin.index.json"


T = TypeVar("T")

_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Fact(Generic[T]):
    """What a checkpoint says of itself, and where."""

    value: T
    place: str
    """File and key."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the object a JSON file holds.

    Raises:
        SourceError: missing, unreadable, not JSON, or not an object.
    """
    try:
        text = read(path).decode()
        value = json.loads(text)
        if "\\ud" in text.lower():  # such escapes may spell half a character, which no tokenizer takes
            json.dumps(value, ensure_ascii=False).encode()
    except FileNotFoundError:
        raise SourceError(f"{path.parent}: {path.name} is missing from the checkpoint") from None
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise SourceError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def brief(value: Any) -> str:
    """Return a value for a message: what a file holds may be of any length."""
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
