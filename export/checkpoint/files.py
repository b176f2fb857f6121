"""The files of a checkpoint directory: their names, and how those in JSON are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from paritas.errors import SourceError

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
POOLING = "1_Pooling/config.json"
MODULES = "modules.json"
SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
PYTORCH = "pytorch_model.bin"


def read_json(path: Path) -> dict[str, Any]:
    """Return the object a JSON file holds.

    Raises:
        SourceError: missing, unreadable, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(f"{path.parent}: {path.name} is missing from the checkpoint") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise SourceError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value
