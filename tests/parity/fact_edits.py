"""A tiny checkpoint as sentence-transformers writes it, and edits that change one fact of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.unit.tiny import write_tiny_bert, write_tiny_mpnet

TEXTS = [
    "the ferry leaves in the morning",
    "The Ferry leaves, WHY is the sky blue?",
    "crème brûlée, Zażółć gęślą; ÉCLAIR",
    "北京 is a city",
    "",
    "a",
    "before [SEP] and [MASK] after",
    "the newtok and new tok, NEWTOK, xnewtokx, the newtok.",
    "x <mask> y </s> z",
    "price of the apple: " + "water and light in the night of the north " * 5,
    "how is the train in the city of the river, and why? " * 3,
]
SPECIAL = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
NEWTOK = {"content": "newtok", "lstrip": False, "rstrip": False, "single_word": False, "normalized": False}

Edit = Callable[[Path], object]


CONFIG, TOKENS, BACKEND = "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json"
SENTENCE, MODEL, POOLING = (
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)


def control(directory: Path, *, mpnet: bool = False) -> Path:
    """A checkpoint as sentence-transformers writes it: mean pooling, unit length, 24 tokens."""
    (write_tiny_mpnet if mpnet else write_tiny_bert)(directory)
    tokens = {} if mpnet else SPECIAL
    name = "MPNetTokenizer" if mpnet else "BertTokenizer"
    write(directory, "tokenizer_config.json", {"tokenizer_class": name, "model_max_length": 40, **tokens})
    write(directory, "sentence_bert_config.json", {"max_seq_length": 24, "do_lower_case": False})
    write(directory, "config_sentence_transformers.json", {"prompts": {}, "similarity_fn_name": "cosine"})
    write(
        directory, "1_Pooling/config.json", {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    )
    modules(directory, "Pooling:1_Pooling", "Normalize:2_Normalize")
    return directory


def write(directory: Path, name: str, value: Any) -> None:
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def modules(directory: Path, *after: str, transformer: str = "") -> None:
    listed = [("Transformer", transformer), *(item.split(":") for item in after)]
    write(
        directory,
        "modules.json",
        [
            {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for place, (kind, path) in enumerate(listed)
        ],
    )


def change(name: str, **values: Any) -> Edit:
    """Set keys of a JSON file, which may not be there; a value of ... takes the key away."""

    def edit(directory: Path) -> None:
        path = directory / name
        stated = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        stated.update(values)
        write(directory, name, {key: value for key, value in stated.items() if value is not ...})

    return edit


def inside(name: str, *path: str | int, value: Any) -> Edit:
    """Set a value deep inside a JSON file."""

    def edit(directory: Path) -> None:
        stated = json.loads((directory / name).read_text(encoding="utf-8"))
        place = stated
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        write(directory, name, stated)

    return edit


def both(*edits: Edit) -> Edit:
    def edit(directory: Path) -> None:
        for one in edits:
            one(directory)

    return edit


def remove(name: str) -> Edit:
    return lambda directory: (directory / name).unlink()


def vocabulary_alone(directory: Path) -> None:
    vocab = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    (directory / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.get)) + "\n", encoding="utf-8")
    (directory / "tokenizer.json").unlink()


def in_a_folder(directory: Path) -> None:
    folder = directory / "0_Transformer"
    folder.mkdir()
    for name in (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "sentence_bert_config.json",
    ):
        (directory / name).rename(folder / name)
    modules(directory, "Pooling:1_Pooling", "Normalize:2_Normalize", transformer="0_Transformer")
    # What lies at the top then is not read.
    write(directory, "sentence_bert_config.json", {"max_seq_length": 5})


def dense(activation: str | None, *, width: int = 16, bias: bool = True) -> Edit:
    def edit(directory: Path) -> None:
        random = np.random.default_rng(5)
        stated = {"in_features": width, "out_features": 6, "bias": bias}
        if activation is not None:
            stated["activation_function"] = activation
        write(directory, "2_Dense/config.json", stated)
        weights = {"linear.weight": random.standard_normal((6, width)).astype(np.float32)}
        if bias:
            weights["linear.bias"] = random.standard_normal(6).astype(np.float32)
        save_file(weights, directory / "2_Dense" / "model.safetensors")
        modules(directory, "Pooling:1_Pooling", "Dense:2_Dense", "Normalize:3_Normalize")

    return edit


def layer_norm(directory: Path) -> None:
    random = np.random.default_rng(6)
    write(directory, "2_LayerNorm/config.json", {"dimension": 16})
    weights = {f"norm.{name}": random.standard_normal(16).astype(np.float32) for name in ("weight", "bias")}
    save_file(weights, directory / "2_LayerNorm" / "model.safetensors")
    modules(directory, "Pooling:1_Pooling", "LayerNorm:2_LayerNorm")


def pooled_by(*modes: str, **more: Any) -> Edit:
    return lambda directory: write(
        directory, "1_Pooling/config.json", {"embedding_dimension": 16, "pooling_mode": list(modes), **more}
    )


def pickled(directory: Path, *, shards: int = 1, parameters: bool = False) -> None:
    import torch

    weights = load_file(directory / "model.safetensors")
    # Other weights, or the row could not show that these are read.
    state = {name: torch.from_numpy(value * np.float32(1.25)) for name, value in weights.items()}
    if parameters:
        state = {name: torch.nn.Parameter(value) for name, value in state.items()}
    (directory / "model.safetensors").unlink()
    if shards == 1:
        torch.save(state, directory / "pytorch_model.bin")
        return
    index = {}
    for number in range(shards):
        file = f"pytorch_model-0000{number + 1}-of-0000{shards}.bin"
        part = dict(list(state.items())[number::shards])
        torch.save(part, directory / file)
        index.update(dict.fromkeys(part, file))
    write(directory, "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": index})


def stored_as(dtype: str) -> Edit:
    def edit(directory: Path) -> None:
        import torch
        from safetensors.torch import save_file as save_torch

        weights = load_file(directory / "model.safetensors")
        kept = {name: torch.from_numpy(value).to(getattr(torch, dtype)) for name, value in weights.items()}
        save_torch(kept, directory / "model.safetensors", metadata={"format": "pt"})
        change("config.json", torch_dtype="float32")(directory)

    return edit
