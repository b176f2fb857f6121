"""The texts that quantisation looks at, and what the FP32 graph makes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from paritas.arguments import not_utf8
from paritas.documents import read_documents
from paritas.engine.bundle.manifest import Contract
from paritas.engine.pool.head import Head
from paritas.engine.runtime.cpus import available_cpus
from paritas.engine.runtime.session import Session
from paritas.engine.schedule.batching import plan
from paritas.engine.tokenize.tokenizer import Text, Tokenizer, Tokens, check_texts
from paritas.errors import ExportError, InputError
from paritas.export.graph.nodes import copy_model
from paritas.registry import Role

BUILT_IN = "built-in"
_FEWEST = 16
# Of a longer file at most so many lines are taken, evenly spread: the ranges hardly change any more.
_MOST = 256
# One text in so many is kept back to judge the outcome by.
_HELD_OUT = 6
_MAX_BATCH_TOKENS = 512
# Special tokens inside a text, and a text of nothing but those around it, reach values that no prose does.
# Without these, all-mpnet-base-v2 fell to a cosine of 0.979 on a literal <pad> (0.998 with them). Some are
# repeated, to count among the thousands of other tokens by which the weights are rounded.
_ODD = (
    *[""] * 8,
    *["a"] * 4,
    "z" * 400,
    "<s> struck out </s> or <pad>, <mask> and <unk>; [CLS], [SEP], [MASK], [PAD], [UNK]",
    "what do [PAD] and <pad> mean?",
    "Between <s> and </s> the model reads [MASK], or <mask>, and guesses.",
    "[SEP] <unk> </s> [UNK] <s> [CLS]",
)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Texts to calibrate on, and texts held out to judge the outcome, all of one role."""

    name: str
    """Where they are from: a file's name, or "built-in"."""
    sha256: str
    """Of all lines used."""
    role: str
    seen: Tokens
    held_out: Tokens
    truncated: int
    """Texts that were cut to the role's max_length."""


def built_in_texts(name: str) -> list[str]:
    """Return the lines of one of the package's own text files: "calibration" or "certificate"."""
    folder = resources.files("paritas.export").joinpath("texts")
    return folder.joinpath(f"{name}.txt").read_text(encoding="utf-8").splitlines()


def open_calibration(file: str | None, tokenizer: Tokenizer, roles: dict[str, Role]) -> Calibration:
    """Return the built-in texts and, before them, those of the user's file.

    The built-in ones always take part: a file of one language, subject or length then narrows nothing.

    Args:
        file: documents, one a line, as `read_documents` takes them; None for the built-in ones alone.
        tokenizer: the model's.
        roles: the model's; texts are encoded under the one that takes the longest.

    Raises:
        InputError: the file cannot be read, or holds too few texts.
    """
    name, rule = max(roles.items(), key=lambda item: item[1].max_length)
    texts = [] if file is None else _from_file(file, rule)
    texts += _default(rule)
    held_out = texts[_HELD_OUT - 1 :: _HELD_OUT]
    del texts[_HELD_OUT - 1 :: _HELD_OUT]
    texts += _ODD
    digest = hashlib.sha256(repr((texts, held_out)).encode()).hexdigest()
    tokens = [tokenizer.encode(check_texts(part, rule), name) for part in (texts, held_out)]
    return Calibration(
        name=BUILT_IN if file is None else f"{Path(file).name}, {BUILT_IN}",
        sha256=digest,
        role=name,
        seen=tokens[0],
        held_out=tokens[1],
        truncated=sum(int(part.truncated.sum()) for part in tokens),
    )


def _from_file(file: str, rule: Role) -> list[Text]:
    if fault := not_utf8(file):  # the manifest names it
        raise InputError(fault)
    texts = list(dict.fromkeys(document.as_text(pair=rule.pair) for document in read_documents(file)))
    texts = [text for text in texts if "".join(text).strip()]
    if len(texts) < _FEWEST:
        raise InputError(
            f"{file}: {len(texts)} different texts; expected {_FEWEST} or more, one a line (a few hundred "
            "are best), or leave --calibration out for the built-in ones"
        )
    return texts[:: -(-len(texts) // _MOST)]


def _default(rule: Role) -> list[Text]:
    """Return the built-in texts, and two that are as long as the role allows."""
    lines = built_in_texts("calibration")
    prose = [line for line in lines if len(line) > 300]
    half = len(prose) // 2
    return [*lines, *(" ".join(part)[: 5 * rule.max_length] for part in (prose[:half], prose[half:]))]


class Activations:
    """The inputs of a graph's linear layers, batch by batch, as the FP32 graph computes them."""

    def __init__(self, model: onnx.ModelProto, directory: Path, sources: Sequence[str]) -> None:
        """Load a copy of the graph that gives these tensors away.

        Args:
            model: FP32, its weights file in the directory.
            sources: names of the tensors.
        """
        watched = copy_model(model)
        exposed = {output.name for output in watched.graph.output}
        for name in sources:
            if name not in exposed:
                watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        self._sources = list(sources)
        path = directory / "calibration.onnx"
        path.write_bytes(watched.SerializeToString())
        try:
            self._session = Session(path, provider="cpu", threads=available_cpus())
        finally:
            path.unlink()

    def of(self, tokens: Tokens) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield (tensor, its values), float32, (tokens, channels), for each batch and tensor.

        Raises:
            ExportError: a value is NaN or infinite.
        """
        for batch in plan(tokens.lengths, max_batch_tokens=_MAX_BATCH_TOKENS):
            fetched = self._session.fetch(self._sources, *tokens.arrays(batch.rows, batch.length))
            for name, values in zip(self._sources, fetched, strict=True):
                if not np.isfinite(values).all():
                    raise ExportError(
                        f"{name} holds NaN or infinite values for a text of {batch.length} tokens; "
                        "INT8 needs finite ones; export --precision fp32"
                    )
                yield name, values.reshape(-1, values.shape[-1])


def vectors(graph: Path, tokens: Tokens, contract: Contract) -> NDArray[np.float32]:
    """Return a graph's vectors of tokenised texts, its directory a bundle's: float32, (texts, dim)."""
    head = Head.load(contract, graph.parent)
    session = Session(graph, provider="cpu", threads=available_cpus())
    pooled = np.empty((len(tokens.lengths), contract.dim), np.float32)
    for batch in plan(tokens.lengths, max_batch_tokens=_MAX_BATCH_TOKENS):
        input_ids, mask, type_ids = tokens.arrays(batch.rows, batch.length)
        hidden = session.run(input_ids, mask, type_ids)
        pooled[batch.rows] = head(hidden, mask)
    return pooled
