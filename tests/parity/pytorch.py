"""What PyTorch makes of a checkpoint: transformers' model and tokenizer, and the model cards' pooling."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paritas.engine.bundle.manifest import Contract
from paritas.engine.tokenize.tokenizer import Text, check_texts


def pytorch_vectors(
    directory: Path, contract: Contract, role: str, texts: Sequence[Text]
) -> NDArray[np.float32]:
    """Return the vectors of texts, each by itself: float32, (texts, dim)."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(directory, local_files_only=True).eval().float()
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    taken = inspect.signature(model.forward).parameters
    rule = contract.roles[role]
    vectors = []
    for text in check_texts(texts, rule):
        # As batches of one: asked for a single pair, transformers takes an empty second text for no pair.
        parts = [[part] for part in (text if isinstance(text, tuple) else (text,))]
        inputs = tokenizer(*parts, truncation=True, max_length=rule.max_length, return_tensors="pt")
        given = {name: value for name, value in inputs.items() if name in taken}
        with torch.inference_mode():
            hidden = model(**given).last_hidden_state
            if contract.pooling == "cls":
                vector = hidden[:, 0]
            else:
                mask = inputs["attention_mask"].unsqueeze(-1).float()
                vector = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            if contract.normalize:
                vector = torch.nn.functional.normalize(vector, p=2, dim=1)
        vectors.append(vector[0].numpy())
    return np.stack(vectors)
