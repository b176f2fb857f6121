"""The FP16 graph as accelerators run it, emulated: every FP16 result is rounded to, and limited as, FP16."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from paritas.engine.bundle.directory import Bundle
from paritas.export.fp16.simulate import simulate_fp16


def graph_of(*nodes: onnx.NodeProto, **constants: NDArray[np.float16]) -> onnx.ModelProto:
    """A graph from x to y, both FP32, (n, 4); what lies between is FP16."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16),
            *nodes,
            helper.make_node("Cast", ["y16"], ["y"], to=TensorProto.FLOAT),
        ],
        "half",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto, x: list[float]) -> list[float]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {"x": np.array([x], np.float32)})[0]
    return result[0].tolist()


EYE = np.eye(4, dtype=np.float16)
THIRD = float(np.float16(1 / 3))


def test_inputs_are_rounded() -> None:
    model = graph_of(helper.make_node("Identity", ["x16"], ["y16"]))
    assert run(simulate_fp16(model), [1 / 3, 1e-9, 70_000, 2]) == [THIRD, 0.0, np.inf, 2.0]


def test_results_are_rounded_between_nodes() -> None:
    # 2049 is no FP16 number: it rounds to 2048, and then 2048 + 1 does again.
    model = graph_of(
        helper.make_node("Add", ["x16", "one"], ["a"]),
        helper.make_node("Add", ["a", "one"], ["y16"]),
        one=np.ones(4, np.float16),
    )
    assert run(simulate_fp16(model), [2047, 2048, 1, 0]) == [2048.0, 2048.0, 3.0, 2.0]


def test_sums_within_a_product_are_not_rounded() -> None:
    ones = np.ones((4, 4), np.float16)
    model = graph_of(helper.make_node("MatMul", ["x16", "w"], ["y16"]), w=ones)
    assert run(simulate_fp16(model), [2048, 1, 1, 0]) == [2050.0] * 4


def test_a_product_beyond_fp16_is_infinite() -> None:
    nodes = [
        helper.make_node("MatMul", ["x16", "w"], ["m"]),
        helper.make_node("Mul", ["m", "small"], ["y16"]),
    ]
    model = graph_of(*nodes, w=EYE * np.float16(30_000), small=np.full(4, 0.001, np.float16))
    x = [1.0, 2.0, 3.0, 10.0]
    assert run(simulate_fp16(model), x)[2:] == [np.inf, np.inf]
    # What makes the emulation necessary; should this change, it may go.
    assert np.isfinite(run(model, x)).all()


def test_a_graph_without_fp16_stays_as_it_is(bundles: dict[str, Bundle]) -> None:
    path = bundles["tiny-bert"].directory / "model.fp32.onnx"
    model = onnx.load(path, load_external_data=False)
    assert simulate_fp16(model).graph.node == model.graph.node


def test_the_given_graph_is_not_changed() -> None:
    model = graph_of(helper.make_node("Identity", ["x16"], ["y16"]))
    before = model.SerializeToString()
    simulate_fp16(model)
    assert model.SerializeToString() == before
