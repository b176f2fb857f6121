"""Small passes over graphs that are already there."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from paritas.export.graph.nodes import CONTRIB
from paritas.export.graph.passes.cleanup import read_constants_directly
from paritas.export.graph.passes.quantize_before_moving import quantize_before_moving
from paritas.export.graph.passes.transpose_in_products import transpose_in_products

KEYS = helper.make_node("Transpose", ["k"], ["keys"], name="keys", perm=[0, 2, 3, 1])
SCORES = helper.make_node("MatMul", ["q", "keys"], ["scores"], name="scores")


def model_of(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("scores",)) -> onnx.ModelProto:
    """Queries (2, 3, 5, 4), keys (2, 5, 3, 4) as a projection splits them: batch, seq, heads, head dim."""
    graph = helper.make_graph(
        nodes,
        "attention",
        [
            helper.make_tensor_value_info("q", TensorProto.FLOAT, [2, 3, 5, 4]),
            helper.make_tensor_value_info("k", TensorProto.FLOAT, [2, 5, 3, 4]),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(5)
    feeds = {
        "q": random.standard_normal((2, 3, 5, 4), dtype=np.float32),
        "k": random.standard_normal((2, 5, 3, 4), dtype=np.float32),
    }
    return session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()})


def test_keys_are_read_by_rows_and_the_scores_are_the_same() -> None:
    model = model_of(KEYS, SCORES)
    expected = run(model)
    transpose_in_products(model)
    assert [node.op_type for node in model.graph.node] == ["Transpose", "FusedMatMul"]
    np.testing.assert_allclose(run(model)[0], expected[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(
            model_of(KEYS, SCORES, helper.make_node("Neg", ["keys"], ["other"]), outputs=("scores", "other")),
            id="keys another node reads",
        ),
        pytest.param(model_of(KEYS, SCORES, outputs=("scores", "keys")), id="keys the graph gives away"),
        pytest.param(
            model_of(
                helper.make_node("Transpose", ["k"], ["keys"]),
                helper.make_node("MatMul", ["keys", "keys"], ["scores"]),
            ),
            id="a transpose of the default order",
        ),
        pytest.param(
            model_of(KEYS, helper.make_node("MatMul", ["keys", "q"], ["scores"])), id="keys on the left"
        ),
    ],
)
def test_other_products_stay_as_they_are(model: onnx.ModelProto) -> None:
    before = model.SerializeToString()
    transpose_in_products(model)
    assert model.SerializeToString() == before


TURN = helper.make_node("Transpose", ["q"], ["turned"], name="turn", perm=[0, 2, 1, 3])
ROWS = helper.make_node("Reshape", ["turned", "shape"], ["rows"], name="rows")
BYTES = helper.make_node("QuantizeLinear", ["rows", "scale", "zero_point"], ["bytes"], name="bytes")


def quantizing(*nodes: onnx.NodeProto, outputs: tuple[str, ...]) -> onnx.ModelProto:
    model = model_of(*nodes, outputs=outputs)
    constants = {"shape": np.array([0, 0, -1]), "scale": np.float32(0.02), "zero_point": np.uint8(120)}
    values = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    model.graph.initializer.extend(values)
    next(
        output for output in model.graph.output if output.name == "bytes"
    ).type.tensor_type.elem_type = TensorProto.UINT8
    return model


def test_bytes_move_instead_of_floats_and_are_the_same() -> None:
    model = quantizing(TURN, ROWS, BYTES, outputs=("bytes",))
    expected = run(model)
    quantize_before_moving(model)
    assert [node.op_type for node in model.graph.node] == ["QuantizeLinear", "Transpose", "Reshape"]
    made = {value.name for value in [*model.graph.input, *model.graph.initializer]}
    for node in model.graph.node:
        assert made.issuperset(node.input)
        made.update(node.output)
    assert np.array_equal(run(model)[0], expected[0])


@pytest.mark.parametrize("other", ["turned", "rows"])
def test_floats_that_something_else_reads_stay_where_they_are(other: str) -> None:
    model = quantizing(TURN, ROWS, BYTES, outputs=("bytes", other))
    before = model.SerializeToString()
    quantize_before_moving(model)
    assert model.SerializeToString() == before


def test_layers_that_share_a_constant_read_it_themselves() -> None:
    shared = onnx.numpy_helper.from_array(np.ones((4, 4), np.float32), "shared")
    model = model_of(
        helper.make_node("Identity", ["shared"], ["first"]),
        helper.make_node("Identity", ["first"], ["second"]),
        helper.make_node("Identity", ["q"], ["queries"]),
        helper.make_node("MatMul", ["queries", "first"], ["sums"]),
        helper.make_node("MatMul", ["sums", "second"], ["scores"]),
    )
    model.graph.initializer.append(shared)
    expected = run(model)
    read_constants_directly(model)
    products = [list(node.input) for node in model.graph.node if node.op_type == "MatMul"]
    assert products == [["queries", "shared"], ["sums", "shared"]]
    assert np.array_equal(run(model)[0], expected[0])
