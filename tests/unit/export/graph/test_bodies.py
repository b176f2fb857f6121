"""Graphs inside If and Loop nodes read what lies outside them; no pass may overlook that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from paritas.errors import ExportError
from paritas.export.fp16.half import half_compute, half_weights
from paritas.export.fp16.simulate import simulate_fp16
from paritas.export.graph.nodes import CONTRIB, every_node, names_read, rename_inputs
from paritas.export.graph.passes.attention import fuse_attention
from paritas.export.graph.passes.cleanup import drop_unused
from paritas.export.graph.passes.quantize_before_moving import quantize_before_moving
from paritas.export.graph.passes.transpose_in_products import transpose_in_products
from paritas.export.graph.weights_file import WeightsFile, externalize
from paritas.export.int8.linear import linear_layers

TABLE = np.random.default_rng(3).standard_normal((32, 32)).astype(np.float32)
ROW = np.linspace(-1, 1, 32, dtype=np.float32)


def body(*nodes: onnx.NodeProto, **constants: NDArray[np.float32]) -> onnx.GraphProto:
    """A graph inside a node; it gives away what its last node makes."""
    outputs = [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)]
    values = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return helper.make_graph(nodes, "body", [], outputs, values)


def branch(then: onnx.GraphProto, output: str) -> onnx.NodeProto:
    """Take a branch of two that compute the same."""
    other = onnx.GraphProto.FromString(then.SerializeToString())
    return helper.make_node("If", ["flag"], [output], name=output, then_branch=then, else_branch=other)


def reading(name: str, output: str) -> onnx.NodeProto:
    """Negate a tensor inside a branch."""
    return branch(body(helper.make_node("Neg", [name], [f"{output}.inner"])), output)


def model_of(
    *nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("y",), **constants: object
) -> onnx.ModelProto:
    """A graph of x, (rows, 32)."""
    constants = {"flag": np.array(True), **constants}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 32])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def run(model: onnx.ModelProto, directory: Path) -> NDArray[np.float32]:
    (directory / "graph.onnx").write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(directory / "graph.onnx", providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((3, 32)).astype(np.float32)
    result: NDArray[np.float32] = session.run(None, {"x": x})[0]
    return result


def test_a_node_reads_what_its_bodies_read_from_outside_and_not_what_is_their_own() -> None:
    inner = branch(body(helper.make_node("Add", ["far", "mine"], ["sum"])), "found")
    outer = body(helper.make_node("Mul", ["near", "weight"], ["mine"]), inner, weight=ROW)
    node = branch(outer, "y")
    assert set(names_read(node)) == {"flag", "near", "far"}
    assert [inside.op_type for inside in every_node([node])] == ["If", *["Mul", "If", "Add", "Add"] * 2]


def test_bodies_read_by_the_new_name_what_is_not_their_own() -> None:
    node = branch(
        body(helper.make_node("Neg", ["a"], ["b"]), helper.make_node("Add", ["b", "a"], ["c"])), "y"
    )
    rename_inputs(node, {"a": "other", "b": "wrong"})
    for graph in (node.attribute[0].g, node.attribute[1].g):
        assert [list(inside.input) for inside in graph.node] == [["other"], ["b", "other"]]


def test_what_a_body_alone_reads_is_kept(tmp_path: Path) -> None:
    model = model_of(
        helper.make_node("Mul", ["x", "row"], ["product"]),
        helper.make_node("Neg", ["x"], ["unread"]),
        reading("product", "y"),
        row=ROW,
        unread_row=ROW,
    )
    expected = run(model, tmp_path)
    drop_unused(model)
    assert [node.op_type for node in model.graph.node] == ["Mul", "If"]
    assert {tensor.name for tensor in model.graph.initializer} == {"flag", "row"}
    assert np.array_equal(run(model, tmp_path), expected)


KEYS = helper.make_node("Transpose", ["k"], ["keys"], perm=[0, 2, 3, 1])
SCORES = helper.make_node("MatMul", ["q", "keys"], ["y"])
TURN = helper.make_node("Transpose", ["q"], ["turned"], perm=[0, 2, 1, 3])
ROWS = helper.make_node("Reshape", ["turned", "shape"], ["rows"])
BYTES = helper.make_node("QuantizeLinear", ["rows", "scale", "zero_point"], ["y"])


def test_keys_that_a_body_reads_stay_columns() -> None:
    model = model_of(KEYS, SCORES, reading("keys", "other"), outputs=("y", "other"))
    before = model.SerializeToString()
    transpose_in_products(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("read", ["turned", "rows"])
def test_floats_that_a_body_reads_stay_where_they_are(read: str) -> None:
    model = model_of(TURN, ROWS, BYTES, reading(read, "other"), outputs=("y", "other"))
    before = model.SerializeToString()
    quantize_before_moving(model)
    assert model.SerializeToString() == before


def attention(*more: onnx.NodeProto) -> onnx.ModelProto:
    nodes = []
    for name in ("q", "k", "v"):
        order = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes.append(helper.make_node("Reshape", [name, "heads"], [f"{name}.split"]))
        nodes.append(helper.make_node("Transpose", [f"{name}.split"], [f"{name}.heads"], perm=order))
    nodes += [
        helper.make_node("MatMul", ["q.heads", "k.heads"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "v.heads"], ["context"]),
        helper.make_node("Transpose", ["context"], ["joined"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["joined", "joined.shape"], ["y"]),
    ]
    outputs = ("y", *(node.output[0] for node in more))
    return model_of(*nodes, *more, outputs=outputs, heads=np.array([0, 0, 4, 8]))


@pytest.mark.parametrize("read", ["shares", "context"])
def test_attention_is_fused_only_where_no_body_reads_what_it_hides(read: str) -> None:
    model = attention()
    fuse_attention(model)
    assert [node.op_type for node in model.graph.node] == ["MultiHeadAttention"]
    model = attention(reading(read, "other"))
    fuse_attention(model)
    assert "MultiHeadAttention" not in [node.op_type for node in model.graph.node]


PRODUCT = helper.make_node("MatMul", ["x", "table"], ["product"], name="product")
SUM = helper.make_node("Add", ["product", "row"], ["y"], name="sum")


def test_a_product_that_a_body_reads_keeps_its_bias_apart() -> None:
    constants = {"table": TABLE, "row": ROW}
    (layer,) = linear_layers(model_of(PRODUCT, SUM, **constants))
    assert (layer.adder, layer.output) == ("sum", "y")
    (layer,) = linear_layers(
        model_of(PRODUCT, SUM, reading("product", "other"), outputs=("y", "other"), **constants)
    )
    assert (layer.adder, layer.output) == (None, "product")


def test_a_graph_quantised_inside_a_body_is_quantised_already() -> None:
    inside = body(helper.make_node("QuantizeLinear", ["x", "scale"], ["bytes"]))
    with pytest.raises(ExportError, match=r"quantised already \(it holds QuantizeLinear\)"):
        linear_layers(model_of(PRODUCT, branch(inside, "y"), table=TABLE))


def half_of(model: onnx.ModelProto, directory: Path) -> dict[str, onnx.ModelProto]:
    """Both FP16 graphs and the rounding one, their weights in the directory."""
    with WeightsFile(directory / "fp32.data") as file:
        externalize(model, file)
    with WeightsFile(directory / "fp16.data") as file:
        graphs = {
            "weights": half_weights(model, directory, file),
            "compute": half_compute(model, directory, file),
        }
    return {**graphs, "rounded": simulate_fp16(graphs["compute"])}


@pytest.mark.parametrize("read", ["product", "table"], ids=["a result", "a matrix"])
def test_bodies_compute_in_fp32_beside_fp16(read: str, tmp_path: Path) -> None:
    inside = body(
        helper.make_node("MatMul", ["x", read] if read == "table" else [read, "own"], ["inner"]), own=TABLE
    )
    model = model_of(
        PRODUCT,
        branch(inside, "other"),
        helper.make_node("Add", ["product", "other"], ["y"], name="sum"),
        table=TABLE,
    )
    graphs = {"fp32": model, **half_of(model, tmp_path)}
    vectors = {name: run(graph, tmp_path) for name, graph in graphs.items()}
    for name in ("weights", "compute", "rounded"):
        np.testing.assert_allclose(vectors[name], vectors["fp32"], rtol=0, atol=0.1, err_msg=name)
        assert not np.array_equal(vectors[name], vectors["fp32"]), name
