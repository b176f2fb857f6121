"""A stand-in for `SentenceTransformer` where it is `encode` that is called: the same names, and no torch.

Move over by changing one line:

    model = SentenceEncoder("all-MiniLM-L6-v2")        # was: SentenceTransformer("all-MiniLM-L6-v2")

A trainer or an evaluator needs a real `SentenceTransformer`. `paritas.integrations.sentence_transformers`
makes one.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from paritas import errors
from paritas.arguments import whole
from paritas.engine.pool.embedding_quantization import VectorType, quantize_vectors
from paritas.engine.pool.pooling import normalize
from paritas.engine.tokenize.inputs import listed
from paritas.integrations.dual_encoder import DualEncoder, Model
from paritas.integrations.prompts import Prompts, check_task, prefixed

_TYPES: dict[str, VectorType] = {
    "float32": "float",
    "int8": "int8",
    "uint8": "uint8",
    "binary": "binary",
    "ubinary": "ubinary",
}
_ONLY_HERE = ("cpu", "cpu:0")


class SentenceEncoder:
    """An encoder with the methods of `SentenceTransformer` that encode and compare, and their arguments.

    These differ. Batches are the engine's own, so `batch_size` says nothing. `precision="int8"` has one scale
    for all vectors, where sentence-transformers takes one from each call's. No texts give (0, dim).
    A text without a prompt is a passage, with the passages' prompt where no role is without one.

    Args:
        model: as for `Encoder`, or an `Encoder`.
        device: "cpu", or None; `provider="cuda"` runs elsewhere.
        truncate_dim: return the first so many channels of each vector; all of them where None.
        query_role: the role of `encode_query`.
        passage_role: the role of `encode_document`.
        **options: of `Encoder`.
    """

    def __init__(
        self,
        model: Model,
        *,
        device: str | None = None,
        truncate_dim: int | None = None,
        query_role: str = "query",
        passage_role: str = "passage",
        **options: Any,
    ) -> None:
        """Load the bundle.

        Raises:
            ParitasError: as `Encoder`.
            InputError: the model has no such role, or another device.
        """
        _check_device(device)
        self._encoder = DualEncoder(model, query_role=query_role, passage_role=passage_role, **options)
        self._prompts = Prompts(self._encoder)
        self.prompts = self._prompts.by_name
        """The model's prompts by name."""
        self.truncate_dim = self._dim(truncate_dim)

    def encode(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: Literal["float32", "int8", "uint8", "binary", "ubinary"] = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: None = None,
        chunk_size: int | None = None,
        *,
        sentences: Any = None,
        task: str | None = None,
    ) -> Any:
        """Return the vectors of texts; of one text its vector.

        Args:
            inputs: a text, or several; for a role with pairs (title, text) too.
            prompt_name: a prompt of the model, by name.
            prompt: a text to put in front of each text; goes before `prompt_name`.
            batch_size: not used.
            show_progress_bar: show a bar on standard error.
            output_value: "sentence_embedding"; for tokens there is `Encoder.encode_tokens`.
            precision: float32, one byte a channel, or one bit.
            convert_to_numpy: return an array; otherwise a list of tensors.
            convert_to_tensor: return one tensor; goes before `convert_to_numpy`.
            device: "cpu", or None.
            normalize_embeddings: scale vectors to unit length.
            truncate_dim: return the first so many channels; what the constructor was given where None.
            pool: None; the engine has threads of its own.
            chunk_size: not used.
            sentences: the former name of `inputs`.
            task: "query" or "document", as `encode_query` and `encode_document` say.

        Returns:
            float32, (texts, dim), or what was asked for; one text gives (dim,).

        Raises:
            ParitasError: as `Encoder.encode`.
            InputError: no such prompt, task, precision or device.
            MissingExtraError: tensors are asked for, and torch is not installed.
        """
        _check_device(device)
        if pool is not None:
            raise errors.InputError("pool is for sentence-transformers' processes; leave it out")
        if output_value != "sentence_embedding":
            raise errors.InputError(f"output_value is {output_value!r}; for tokens use Encoder.encode_tokens")
        if precision not in _TYPES:
            raise errors.InputError(f"precision is {precision!r}; expected one of {', '.join(_TYPES)}")
        check_task(task)
        texts = sentences if inputs is None else inputs
        role, prefix = self._prompts.resolve(prompt, prompt_name, task)
        single = isinstance(texts, str)
        vectors = self._encoder.encoder.encode(
            prefixed(prefix, listed([texts] if single else texts)),
            role=role,
            progress=bool(show_progress_bar),
        )
        vectors = self._shaped(vectors, truncate_dim, normalized=normalize_embeddings)
        found = quantize_vectors(vectors, _TYPES[precision])
        if convert_to_tensor or not convert_to_numpy:
            tensor = _tensor(found)
            return tensor[0] if single else tensor if convert_to_tensor else list(tensor)
        return found[0] if single else found

    def encode_query(self, inputs: Any = None, *positional: Any, **named: Any) -> Any:
        """Return the vectors of queries; otherwise as `encode`."""
        return self.encode(inputs, *positional, **{"task": "query", **named})

    def encode_document(self, inputs: Any = None, *positional: Any, **named: Any) -> Any:
        """Return the vectors of passages; otherwise as `encode`."""
        return self.encode(inputs, *positional, **{"task": "document", **named})

    def _shaped(
        self, vectors: NDArray[np.float32], truncate_dim: int | None, *, normalized: bool
    ) -> NDArray[np.float32]:
        dim = self.truncate_dim if truncate_dim is None else self._dim(truncate_dim)
        cut = dim is not None and dim < self._encoder.dim
        if cut:
            vectors = np.ascontiguousarray(vectors[:, :dim])
        # Vectors of length 1 keep their bits.
        if normalized and (cut or not self._encoder.encoder.contract.normalize):
            vectors = normalize(vectors)
        return vectors

    def _dim(self, truncate_dim: Any) -> int | None:
        return whole("truncate_dim", truncate_dim, "None for the vectors' full width", most=self._encoder.dim)

    @property
    def similarity_fn_name(self) -> str:
        """How the checkpoint says that its vectors are compared."""
        return self._encoder.encoder.bundle.manifest.similarity or "cosine"

    def similarity(self, embeddings1: Any, embeddings2: Any) -> NDArray[np.float32]:
        """Return the similarity of each vector to each other, float32, (first, second)."""
        first, second = self._compared(embeddings1), self._compared(embeddings2)
        if self.similarity_fn_name in ("cosine", "dot"):
            return first @ second.T
        return -np.stack([self._distance(row, second) for row in first])

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> NDArray[np.float32]:
        """Return the similarity of each vector to the one in the same place, float32, (vectors,)."""
        first, second = self._compared(embeddings1), self._compared(embeddings2)
        if self.similarity_fn_name in ("cosine", "dot"):
            return np.einsum("ij,ij->i", first, second)
        return -self._distance(first, second)

    def _compared(self, vectors: Any) -> NDArray[np.float32]:
        array = np.atleast_2d(np.asarray(vectors, np.float32))
        return normalize(array.copy()) if self.similarity_fn_name == "cosine" else array

    def _distance(self, first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
        order = 1 if self.similarity_fn_name == "manhattan" else 2
        return np.linalg.norm(first - second, ord=order, axis=1).astype(np.float32)

    def get_embedding_dimension(self) -> int:
        """Return the width of the vectors."""
        return self._encoder.dim if self.truncate_dim is None else self.truncate_dim

    def get_sentence_embedding_dimension(self) -> int:
        """Return the width of the vectors, by its former name."""
        return self.get_embedding_dimension()

    @property
    def max_seq_length(self) -> int:
        """Tokens of a passage, special ones included."""
        return self._encoder.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self._encoder.check_max_length(value)

    @property
    def device(self) -> str:
        """Where it runs."""
        return "cpu"


def _check_device(device: Any) -> None:
    if device is not None and str(device) not in _ONLY_HERE:
        raise errors.InputError(
            f"device is {device!r}; expected 'cpu'; elsewhere: provider='cuda' when it is made"
        )


def _tensor(vectors: NDArray[Any]) -> Any:
    try:
        import torch
    except ImportError:
        message = "torch is not installed, and tensors need it; leave out convert_to_tensor"
        raise errors.MissingExtraError(message) from None
    return torch.from_numpy(vectors)
