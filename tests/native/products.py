"""LinearInt8 in NumPy, to the last bit, and in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from paritas.engine.runtime.kernels import LIBRARY, available_kernels
from paritas.export.graph.linear_int8 import add_linear_int8, linear_int8, pack

OWN = available_kernels().own


def rounded(x: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return a row's integers of 16 bits, and its step."""
    largest = np.float32(min(32767, (2**31 - 1) // (127 * x.shape[1])))
    reach = np.abs(x).max(axis=1, keepdims=True)
    there = reach > np.float32(1e-30)
    factor = np.where(there, largest / np.where(there, reach, 1), 0).astype(np.float32)
    steps = np.where(there, reach / largest, 0).astype(np.float32)
    return np.rint(x * factor).astype(np.int64), steps


def product(
    x: NDArray[np.float32], weights: NDArray[np.int8], scales: NDArray[np.float32], bias: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return what the kernels compute: every operation rounded once, in their order."""
    integers, steps = rounded(x)
    sums = (integers @ weights.astype(np.int64)).astype(np.float32)
    return np.asarray(sums * steps * scales + bias)


def layer(inputs: int, outputs: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Return weights, scales and bias."""
    generator = np.random.default_rng(seed)
    return {
        "weights": generator.integers(-127, 128, (inputs, outputs)).astype(np.int8),
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
) -> onnx.ModelProto:
    """Return a graph of one LinearInt8; `replaced` are other initializers than it should have."""
    constants = {"weights": pack(weights), "scales": scales, "bias": bias} | dict(replaced or {})
    node = linear_int8(["x", *constants], "y", weights.shape)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    add_linear_int8(made)
    return made


def session(made: onnx.ModelProto, library: Path | None = LIBRARY, threads: int = 1) -> Any:
    """Load a graph with a library of operators, or with none."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if library is not None:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(made.SerializeToString(), options)


def run(opened: Any, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return y."""
    y: NDArray[np.float32] = opened.run(["y"], {"x": x})[0]
    return y
