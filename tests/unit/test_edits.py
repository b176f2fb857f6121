"""Edits of graphs that are already there."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from paritas.export.edits import CONTRIB, transpose_in_products

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
