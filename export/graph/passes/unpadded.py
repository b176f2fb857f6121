"""The graph for texts of one length: the one that is there, without its attention mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from paritas.engine.runtime.cpus import available_cpus
from paritas.engine.runtime.session import Session
from paritas.errors import ExportError, RunError
from paritas.export.graph.nodes import copy_model, names_read, rename_inputs, set_nodes
from paritas.export.graph.passes.cleanup import drop_unused

_MASK = "attention_mask"
# Names that no other tensor has.
_LARGEST = "paritas.largest"


def without_mask(model: onnx.ModelProto, directory: Path, longest: int) -> onnx.ModelProto | None:
    """Return the graph without the input `attention_mask`, for texts of one length.

    What a mask of ones adds to attention's scores is 0 for every token: left out, each layer passes over its
    scores once less, and the vectors are the same bits.

    Args:
        model: a graph for CPUs.
        directory: where its weights file lies.
        longest: the most tokens of a text.

    Returns:
        None where the mask is no input, serves anything else, or brings more than itself: a sliding window is
        part of the same sum, and is there for texts of one length as well.

    Raises:
        ExportError: the graph cannot be run for texts of some length.
    """
    # CPU time of one thread with the mask, as a multiple of that without: all-MiniLM-L6-v2 in INT8 1.03 for
    # texts of 16 tokens, 1.05 for 128 and 1.08 for 250, in FP32 1.02 for 128. all-mpnet-base-v2, which adds
    # its position bias in any case, and a BERT-base up to 144 tokens: 0.99 to 1.03, within the noise.
    result = copy_model(model)
    inputs = [value for value in result.graph.input if value.name != _MASK]
    if len(inputs) == len(result.graph.input):
        return None
    scores = _scores(result)
    masked = {_MASK}
    unmasked: dict[str, str] = {}
    """What stands for a sum without its mask."""
    added: list[str] = []
    """What the sums lose."""
    nodes = []
    for node in result.graph.node:
        rename_inputs(node, unmasked)
        rest = [name for name in node.input if name not in masked]
        if node.output[0] in scores and node.op_type == "Add" and len(rest) == 1:
            unmasked[node.output[0]] = rest[0]
            added += [name for name in node.input if name in masked]
            continue
        if masked.intersection(names_read(node)):
            masked.update(node.output)
        nodes.append(node)
    if masked.intersection(output.name for output in result.graph.output):
        return None
    if not _adds_nothing(model, added, directory, longest):
        return None
    set_nodes(result, nodes)
    drop_unused(result)
    del result.graph.input[:]
    result.graph.input.extend(inputs)
    del result.graph.value_info[:]
    return result


def _scores(model: onnx.ModelProto) -> set[str]:
    """Return the tensors that are attention's scores, or are only added to them: what a Softmax is given."""
    scores: set[str] = set()
    for node in reversed(model.graph.node):
        if node.op_type == "Softmax" or (node.op_type in ("Add", "Slice") and node.output[0] in scores):
            scores.update(node.input)
    return scores


def _adds_nothing(model: onnx.ModelProto, added: Sequence[str], directory: Path, longest: int) -> bool:
    """Say whether tensors of a graph are 0 for a mask of ones, whatever the texts.

    They are computed, for lengths that double up to the longest: a window shows beyond its width only. Most
    networks need none of their layers for that.
    """
    if not added:
        return True
    part = _largest_of(model, list(dict.fromkeys(added)))
    if _depends_on_tokens(part):
        return False
    path = directory / "mask.onnx"
    path.write_bytes(part.SerializeToString())
    try:
        session = Session(path, provider="cpu", threads=available_cpus())
    finally:
        path.unlink()
    return not any(_run(session, length).any() for length in _lengths(longest))


def _run(session: Session, length: int) -> NDArray[np.float32]:
    """Return a graph's output for one text of so many tokens."""
    ids = np.zeros((1, length), np.int64)
    try:
        return session.run(ids, np.ones_like(ids), ids)
    except RunError as error:
        raise ExportError(
            f"the graph does not take a text of {length} tokens, which max_length allows: {error}"
        ) from error


def _largest_of(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return the part of a graph that makes some tensors, with their largest magnitudes as its output."""
    part = copy_model(model)
    nodes = []
    for place, name in enumerate(names):
        magnitude, value, largest = (
            f"{_LARGEST}.{step}.{place}" for step in ("magnitude", "value", "vector")
        )
        nodes.append(helper.make_node("Abs", [name], [magnitude]))
        nodes.append(helper.make_node("ReduceMax", [magnitude], [value], keepdims=0))
        nodes.append(helper.make_node("Reshape", [value, f"{_LARGEST}.shape"], [largest]))
    vectors = [node.output[0] for node in nodes if node.op_type == "Reshape"]
    nodes.append(helper.make_node("Concat", vectors, [_LARGEST], axis=0))
    part.graph.node.extend(nodes)
    part.graph.initializer.append(helper.make_tensor(f"{_LARGEST}.shape", TensorProto.INT64, [1], [1]))
    del part.graph.output[:]
    part.graph.output.append(helper.make_tensor_value_info(_LARGEST, TensorProto.FLOAT, [len(names)]))
    del part.graph.value_info[:]
    drop_unused(part)
    return part


def _depends_on_tokens(part: onnx.ModelProto) -> bool:
    """Say whether the output follows from more than the mask and the inputs' shapes."""
    dependent = {value.name for value in part.graph.input} - {_MASK}
    for node in part.graph.node:
        if node.op_type != "Shape" and dependent.intersection(names_read(node)):
            dependent.update(node.output)
    return any(output.name in dependent for output in part.graph.output)


def _lengths(longest: int) -> Iterator[int]:
    length = 1
    while length < longest:
        yield length
        length *= 2
    yield longest
