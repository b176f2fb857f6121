"""A checkpoint's token ids, read a second time: what the bundle's tokenizer is compared with.

The first reading is the bundle's own tokenizer.json. This one goes back to the checkpoint's files, with
transformers where it is installed, else with a WordPiece tokenizer in Python that shares no code with the
first. So a misread file shows as a difference, before any vector is compared.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from paritas.errors import SourceError
from paritas.export.second_reading.files import is_of_release_5, open_wordpiece

__all__ = ["SecondReading", "open_second_reading", "open_wordpiece"]


class SecondReading(Protocol):
    """Tokens of a checkpoint's texts, without the bundle's tokenizer."""

    @property
    def name(self) -> str:
        """Who reads, as in "transformers 4.57.6" or "WordPiece in Python"."""

    def encode(self, text: str | tuple[str, str], max_length: int) -> tuple[list[int], list[int]]:
        """Return input_ids and token_type_ids, special tokens added, cut to max_length.

        Types are all 0 where the model is given none.
        """


def open_second_reading(directory: Path, *, lowercase: bool = False) -> SecondReading:
    """Open the tokenizer of a checkpoint: with transformers where it is installed and can, else in Python.

    Args:
        directory: where its tokenizer lies.
        lowercase: sentence-transformers' own do_lower_case: each text is lowered before it is normalised.

    Raises:
        SourceError: the tokenizer's files are missing, damaged, or not what transformers can load.
        MissingExtraError: without transformers, a tokenizer that is no WordPiece of BERT or MPNet.
    """
    with _quiet():
        try:
            import transformers
        except ImportError:
            return open_wordpiece(directory, lowercase=lowercase)
        if transformers.__version__.startswith("4.") and is_of_release_5(directory):
            return open_wordpiece(directory, lowercase=lowercase)
        return _Transformers(directory, lowercase=lowercase)


class _Transformers:
    """transformers' AutoTokenizer. It imports torch where that is installed, and cannot be kept from it."""

    def __init__(self, directory: Path, *, lowercase: bool) -> None:
        import transformers
        from tokenizers import normalizers

        self.name = f"transformers {transformers.__version__}"
        try:
            # Code that comes with a checkpoint is never run.
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:
            raise SourceError(
                f"{directory}: {self.name} cannot load its tokenizer: {_line(error)}"
            ) from error
        if lowercase:
            backend = self._tokenizer.backend_tokenizer
            after = [] if backend.normalizer is None else [backend.normalizer]
            backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *after])

    def encode(self, text: str | tuple[str, str], max_length: int) -> tuple[list[int], list[int]]:
        # As batches of one: asked for a single pair, transformers takes an empty second text for no pair.
        parts = [[part] for part in (text if isinstance(text, tuple) else (text,))]
        try:
            encoding = self._tokenizer(*parts, truncation=True, max_length=max_length)
        except Exception as error:  # of many kinds
            raise SourceError(f"{self.name} cannot tokenise {str(text)[:60]!r}: {_line(error)}") from error
        input_ids = encoding["input_ids"][0]
        return input_ids, encoding["token_type_ids"][0] if "token_type_ids" in encoding else [0] * len(
            input_ids
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from logging that PyTorch is absent, or a class is not the one it expected."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
