"""LinearInt8 in NumPy, to the last bit, and in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from paritas.export.graph.operators import add_operators, linear_int8, pack


class Kernels(NamedTuple):
    """The kernels of one instruction set, and a library whose best they are."""

    name: str
    library: Path


def rounded(kernels: Kernels, x: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the integers and the step of each row."""
    reach = np.abs(x).max(axis=1, keepdims=True)
    there = reach > np.float32(1e-30)
    steps, factors = _16_bits(x, reach) if kernels.name == "avx2" else _bytes(x, reach)
    steps, factors = (np.where(there, value, 0).astype(np.float32) for value in (steps, factors))
    return np.rint(x * factors).astype(np.int64), steps


def _16_bits(x: NDArray[np.float32], reach: NDArray[np.float32]) -> tuple[Any, Any]:
    """The largest magnitude is as large an integer as sums of 32 bits allow."""
    largest = np.float32(min(32767, (2**31 - 1) // (128 * x.shape[1])))
    with np.errstate(divide="ignore", over="ignore"):
        return reach / largest, largest / reach


def _bytes(x: NDArray[np.float32], reach: NDArray[np.float32]) -> tuple[Any, Any]:
    """All but the four largest magnitudes are within 254 steps, and those within 65,000."""
    magnitudes = np.sort(np.abs(x), axis=1)
    others = magnitudes[:, -5:-4] if x.shape[1] > 4 else np.zeros_like(reach)
    low = np.maximum(np.minimum(x.min(axis=1, keepdims=True), 0), -others)
    high = np.minimum(np.maximum(x.max(axis=1, keepdims=True), 0), others)
    steps = np.maximum(high / np.float32(254) - low / np.float32(254), reach / np.float32(65000))
    with np.errstate(divide="ignore", over="ignore"):
        return steps, np.float32(1) / steps


def product(
    kernels: Kernels,
    x: NDArray[np.float32],
    weights: NDArray[np.int8],
    scales: NDArray[np.float32],
    bias: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return what the kernels compute: every operation rounded once, in their order."""
    integers, steps = rounded(kernels, x)
    # BLAS has no integers. Sums within 32 bits are exact in float64, in any order.
    sums = (integers.astype(np.float64) @ weights.astype(np.float64)).astype(np.float32)
    return np.asarray(sums * steps * scales + bias)


def layer(inputs: int, outputs: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Return weights, scales and bias."""
    generator = np.random.default_rng(seed)
    return {
        "weights": generator.integers(-128, 128, (inputs, outputs)).astype(np.int8),
        "scales": generator.uniform(0.001, 0.01, outputs).astype(np.float32),
        "bias": generator.standard_normal(outputs).astype(np.float32),
    }


def values(*shape: int, seed: int = 1) -> NDArray[np.float32]:
    """Return inputs with outliers, float32."""
    x = np.random.default_rng(seed).standard_normal(shape, np.float32)
    x[..., ::50] *= 40
    return x


def model(
    weights: NDArray[np.int8],
    scales: NDArray[np.float32],
    bias: NDArray[np.float32],
    replaced: Mapping[str, NDArray[Any]] | None = None,
    **following: Any,
) -> onnx.ModelProto:
    """Return a graph of one linear layer.

    Args:
        weights, scales, bias: the layer's.
        replaced: other initializers than it should have.
        following: `op_type` and attributes, for one of the operators that do more than LinearInt8.
    """
    sums = weights.sum(axis=0, dtype=np.int32)
    outliers = {
        "outlier_places": np.empty((0, 2), np.int32),
        "outlier_weights": np.empty(0, np.float32),
    }
    constants = {"weights": pack(weights), "sums": sums, "scales": scales, "bias": bias} | dict(
        replaced or {}
    )
    constants |= {name: constants.pop(name, nothing) for name, nothing in outliers.items()}  # the last ones
    node = linear_int8(["x", *constants], "y", weights.shape, len(constants["outlier_weights"]))
    node.op_type = following.pop("op_type", node.op_type)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in following.items())
    if node.op_type == "LinearNormInt8":
        node.input.insert(5, "residual")
    return model_of(node, constants)


def model_of(node: onnx.NodeProto, constants: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """Return a graph of one of our operators; what is no constant is an input."""
    inputs = [name for name in node.input if name not in constants]
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    add_operators(made)
    return made


def session(made: onnx.ModelProto, kernels: Kernels | None = None, threads: int = 1) -> Any:
    """Load a graph with kernels of ours, or with none."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if kernels is not None:
        options.register_custom_ops_library(str(kernels.library))
    return onnxruntime.InferenceSession(made.SerializeToString(), options)


def run(opened: Any, x: NDArray[np.float32], **others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return y."""
    y: NDArray[np.float32] = opened.run(["y"], {opened.get_inputs()[0].name: x, **others})[0]
    return y
