"""mteb: an encoder for its benchmark, described as its results must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paritas import __version__, errors
from paritas.engine.tokenize.inputs import listed
from paritas.integrations import check
from paritas.integrations.dual_encoder import DualEncoder, Model

check(__name__)
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from mteb.types import PromptType


class ParitasEncoder(AbsEncoder):
    """An encoder as `mteb.evaluate` takes it.

    Queries and documents have their roles, and a document's title and body reach a model of pairs as a pair.
    Texts of tasks that have no sides are queries, as most models' cards ask for.

    Args:
        model: as for `Encoder`, or an `Encoder`.
        query_role: the role that queries have, and texts of tasks without sides.
        passage_role: the role that documents have.
        **options: of `Encoder`.
    """

    def __init__(
        self, model: Model, *, query_role: str = "query", passage_role: str = "passage", **options: Any
    ) -> None:
        """Load the bundle.

        Raises:
            ParitasError: as `Encoder`.
            InputError: the model has no such role.
        """
        self.model = DualEncoder(model, query_role=query_role, passage_role=passage_role, **options)
        self.mteb_model_meta = _meta(self.model)

    def encode(self, inputs: Any, *, prompt_type: PromptType | None = None, **_: Any) -> NDArray[np.float32]:
        """Return the vectors of all texts of a loader, float32, (texts, dim).

        Args:
            inputs: yields batches of texts as "text"; of documents as "title" and "body" too.
            prompt_type: queries or documents; neither where None.

        Raises:
            InputError: no such type, or batches of something else.
        """
        if prompt_type not in (None, *PromptType):
            kinds = " or ".join(repr(str(kind.value)) for kind in PromptType)
            raise errors.InputError(f"prompt_type is {prompt_type!r}; expected {kinds}, or None")
        asked = prompt_type != PromptType.document
        texts = [text for batch in inputs for text in self._texts(batch, asked=asked)]
        return self.model.queries(texts) if asked else self.model.passages(texts)

    def _texts(self, batch: Any, *, asked: bool) -> Sequence[Any]:
        if not isinstance(batch, Mapping) or "text" not in batch:
            raise errors.InputError(
                f'a batch is {type(batch).__name__}; expected a mapping with "text"; for texts alone use '
                "Encoder.encode"
            )
        texts = listed(batch["text"])
        if asked or "title" not in batch:
            return texts
        pairs = zip(batch["title"], batch.get("body", texts), strict=True)
        return [self.model.titled(title, body) for title, body in pairs]


def _meta(model: DualEncoder) -> ModelMeta:
    """Return what mteb writes beside results; a name with an owner, or it drops the model."""
    encoder = model.encoder
    manifest = encoder.bundle.manifest
    roles = encoder.contract.roles
    name = manifest.model if "/" in manifest.model else f"paritas/{manifest.model}"
    return ModelMeta.create_empty(
        {
            "name": name,
            # Results are kept by name and revision: what changes vectors is in it.
            "revision": "-".join([manifest.source.revision or "export", *_facts(model)]),
            "max_tokens": max(role.max_length for role in roles.values()),
            "embed_dim": encoder.dim,
            "framework": ["ONNX"],
            "similarity_fn_name": ScoringFunction(manifest.similarity or "cosine"),
            "use_instructions": any(role.prompt for role in roles.values()),
            "open_weights": True,
            "experiment_kwargs": {"paritas": __version__},
        }
    )


def _facts(model: DualEncoder) -> list[str]:
    """Return what the vectors depend on; roles and width where they are not the usual ones."""
    encoder = model.encoder
    facts = [encoder.fingerprint[:12], encoder.precision]
    if encoder.dim != encoder.contract.dim:
        facts.append(f"{encoder.dim}d")
    if (model.query_role, model.passage_role) != ("query", "passage"):
        facts += [model.query_role, model.passage_role]
    return facts
