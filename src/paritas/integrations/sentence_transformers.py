"""sentence-transformers: a `SentenceTransformer` whose texts a bundle encodes.

    >>> from paritas.integrations.sentence_transformers import load
    >>> model = load("all-MiniLM-L6-v2", precision="int8")

It works wherever one is expected: evaluators, trainers of what comes after it, `util.semantic_search`. Its
texts reach the engine as they are, so vectors are `Encoder`'s, bit for bit.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paritas import errors
from paritas.engine.bundle.directory import MANIFEST
from paritas.integrations import check
from paritas.integrations.dual_encoder import DualEncoder, Model
from paritas.integrations.prompts import Prompts, check_task, prefixed

check(__name__)
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule

_BUNDLE = "bundle"
_CONFIG = "paritas.json"
# sentence-transformers cuts a call into batches of 32 by default. A call of the engine's is worth more texts.
_LEAST = 1024


class ParitasModule(InputModule):
    """The module that encodes: text in, "sentence_embedding" out. It has no weights that torch could train.

    Args:
        encoder: what encodes.
    """

    save_in_root = False

    def __init__(self, encoder: DualEncoder) -> None:
        """Take the encoder."""
        super().__init__()
        self.encoder = encoder
        self._prompts = Prompts(encoder)

    @property
    def prompts(self) -> dict[str, str]:
        """The model's prompts by name."""
        return self._prompts.by_name

    @property
    def max_seq_length(self) -> int:
        """Tokens of a passage, special ones included."""
        return self.encoder.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.encoder.check_max_length(value)

    def check_prompt(self, prompt: str, task: str | None) -> None:
        """Make sure that a prompt can stand in front of texts.

        Raises:
            InputError: this bundle cannot put it there.
        """
        self._prompts.resolve(prompt, None, task)

    def get_embedding_dimension(self) -> int:
        """Return the width of the vectors."""
        return self.encoder.dim

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, task: str | None = None, **_: Any
    ) -> dict[str, Any]:
        """Return texts as `forward` takes them. Each has its place as an id: trainers look for ids.

        Raises:
            InputError: a prompt that this bundle cannot put in front of texts.
        """
        # A plain SentenceTransformer around this module gives an empty prompt for queries and documents.
        self._prompts.check_meant(prompt, task)
        role, prefix = self._prompts.resolve(prompt or None if task else prompt, None, task)
        texts = list(prefixed(prefix, [tuple(one) if isinstance(one, list) else one for one in inputs]))
        return {"input_ids": torch.arange(len(texts)), "texts": texts, "role": role}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Add "sentence_embedding", float32, (texts, dim), where the ids are.

        Raises:
            ParitasError: as `Encoder.encode`.
        """
        # Losses that train by mini-batches cut tensors, the ids among them, and leave lists whole.
        texts = [features["texts"][place] for place in features["input_ids"].tolist()]
        vectors = self.encoder.encoder.encode(texts, role=features["role"])
        features["sentence_embedding"] = torch.from_numpy(vectors).to(features["input_ids"].device)
        return features

    def check_target(self, path: str | os.PathLike[str]) -> Path:
        """Return the bundle's directory, which is to be copied to another one.

        Raises:
            InputError: that one lies inside the bundle.
        """
        source = self.encoder.encoder.bundle.directory.resolve()
        if Path(path).resolve().is_relative_to(source):
            raise errors.InputError(f"{path} lies inside the bundle {source}; save it somewhere else")
        return source

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the bundle's files, and which of its precisions is meant."""
        encoder = self.encoder.encoder
        source = self.check_target(output_path)
        target = (Path(output_path) / _BUNDLE).resolve()
        if source != target:
            shutil.copytree(source, target, dirs_exist_ok=True)
        facts = {
            "precision": encoder.precision,
            "truncate_dim": None if encoder.dim == encoder.contract.dim else encoder.dim,
            "query_role": self.encoder.query_role,
            "passage_role": self.encoder.passage_role,
        }
        (Path(output_path) / _CONFIG).write_text(json.dumps(facts), encoding="utf-8")

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **settings: Any) -> ParitasModule:
        """Return the module that `save` wrote.

        Raises:
            ParitasError: as `Encoder`.
        """
        names = ("token", "cache_folder", "revision", "local_files_only")
        given = {name: settings[name] for name in names if name in settings}
        folder = cls.load_dir_path(model_name_or_path, subfolder=subfolder, **given)
        if folder is None or not (Path(folder) / _CONFIG).exists():
            raise errors.BundleError(
                f"{model_name_or_path}: no {subfolder}/{_CONFIG}; expected what `save` wrote"
            )
        facts = json.loads((Path(folder) / _CONFIG).read_text(encoding="utf-8"))
        return cls(DualEncoder(Path(folder) / _BUNDLE, **facts))


class _Transformer(SentenceTransformer):
    """A `SentenceTransformer` that hands the engine many texts at a time, and says which prompt was named."""

    def encode(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        *rest: Any,
        **named: Any,
    ) -> Any:
        inputs = named.pop("sentences", None) if inputs is None else inputs  # by its former name
        if named.get("output_value") == "token_embeddings":
            raise errors.InputError(
                "output_value is 'token_embeddings'; for tokens use Encoder.encode_tokens"
            )
        check_task(named.get("task"))
        if prompt is not None and isinstance(self[0], ParitasModule):
            self[0].check_prompt(prompt, named.get("task"))
        if prompt_name in self.prompts and prompt is None:
            named.setdefault("task", prompt_name)  # two names may have one prompt, and mean two roles
        return super().encode(inputs, prompt_name, prompt, max(batch_size, _LEAST), *rest, **named)

    def save(self, path: str, *rest: Any, **named: Any) -> None:
        if isinstance(self[0], ParitasModule):
            self[0].check_target(path)
        super().save(path, *rest, **named)


def load(
    model: Model, *, query_role: str = "query", passage_role: str = "passage", **options: Any
) -> SentenceTransformer:
    """Return a `SentenceTransformer` that a bundle encodes for.

    Args:
        model: as for `Encoder`, or an `Encoder`; or a folder that such a `SentenceTransformer` was saved to.
        query_role: the role of `encode_query`.
        passage_role: the role of `encode_document`, and of `encode` without a prompt.
        **options: of `Encoder`; none for a folder, which says what it is.

    Raises:
        ParitasError: as `Encoder`.
        InputError: the model has no such role, or options that do not belong there.
    """
    if isinstance(model, (str, os.PathLike)) and _is_saved(Path(model)):
        changed = {"query_role": query_role != "query", "passage_role": passage_role != "passage"}
        given = [*options, *(name for name, is_changed in changed.items() if is_changed)]
        if given:
            raise errors.InputError(f"{model} was saved with its options; leave out {', '.join(given)}")
        return _saved(Path(model))
    encoder = DualEncoder(model, query_role=query_role, passage_role=passage_role, **options)
    module = ParitasModule(encoder)
    similarity = encoder.encoder.bundle.manifest.similarity
    return _Transformer(
        modules=[module], prompts=module.prompts, similarity_fn_name=similarity or "cosine", device="cpu"
    )


def _is_saved(path: Path) -> bool:
    return (path / "modules.json").exists() and not (path / MANIFEST).exists()


def _saved(path: Path) -> SentenceTransformer:
    """Load what `SentenceTransformer.save` wrote. No code of the folder is run."""
    own = f"{ParitasModule.__module__}.{ParitasModule.__name__}"
    modules = json.loads((path / "modules.json").read_text(encoding="utf-8"))
    others = [one["type"] for one in modules if not one["type"].startswith(("sentence_transformers.", own))]
    if others or not any(one["type"] == own for one in modules):
        raise errors.InputError(
            f"{path}: has {', '.join(others) or 'no module of paritas'}; open it with SentenceTransformer"
        )
    # Releases before 6 know no other way to take a class that is installed.
    named = "module_classes" in inspect.signature(SentenceTransformer.__init__).parameters
    trust: dict[str, Any] = {"module_classes": {own: ParitasModule}} if named else {"trust_remote_code": True}
    return _Transformer(str(path), device="cpu", **trust)
