"""Attention in one operator where nothing is added to the scores; where something is, with few transposes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from paritas import Encoder, export_model
from paritas.engine.bundle.directory import Bundle
from paritas.engine.runtime.session import write_optimized
from paritas.export.graph.nodes import copy_model, set_nodes
from paritas.export.graph.passes.attention import fuse_attention
from paritas.export.graph.passes.quantize_before_moving import quantize_before_moving
from paritas.export.graph.passes.transpose_in_products import transpose_in_products
from paritas.export.graph.passes.unpadded import without_mask
from paritas.export.graph.weights_file import WeightsFile
from paritas.export.networks.graph import export_native
from paritas.registry import PRECISIONS
from tests.unit.export.entries import entry
from tests.unit.tiny import WIDE, write_tiny_bert, write_tiny_mpnet

Change = Callable[[onnx.ModelProto], None]


def graph(
    directory: Path, write: Callable[[Path], Path] = write_tiny_bert, **options: Any
) -> onnx.ModelProto:
    """A tiny network's graph for texts of one length, its weights beside it."""
    with WeightsFile(directory / "weights") as file:
        model = export_native(write(directory / "checkpoint"), file, **options)
    model = without_mask(model, directory, 40)
    assert model is not None
    return model


def run(model: onnx.ModelProto, directory: Path, shape: tuple[int, int] = (3, 17)) -> np.ndarray:
    (directory / "graph.onnx").write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(directory / "graph.onnx", providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(1).integers(6, 80, shape)
    feeds = {"input_ids": ids, "token_type_ids": (ids > 40) * 1}
    return session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()})[0]


def exported(directory: Path, network: str) -> Bundle:
    """A small network's bundle in all precisions."""
    write = {"bert": write_tiny_bert, "mpnet": write_tiny_mpnet}[network]
    return export_model(
        "mine",
        source=str(write(directory / "checkpoint", **WIDE)),
        precisions=PRECISIONS,
        out=directory / "bundle",
        registry=entry(directory, network=network, dim=64, pooling="mean", max_length=24),
    )


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("shape", [(3, 17), (1, 1), (2, 40)])
@pytest.mark.parametrize("first_only", [False, True], ids=["every token", "the first token"])
@pytest.mark.parametrize("turned", [False, True], ids=["keys in columns", "keys in rows"])
def test_it_is_one_operator_a_layer_with_the_same_vectors(
    turned: bool, first_only: bool, shape: tuple[int, int], tmp_path: Path
) -> None:
    model = graph(tmp_path, first_only=first_only)
    if turned:
        transpose_in_products(model)
    expected = run(model, tmp_path, shape)
    fuse_attention(model)
    found = operators(model)
    assert found["MultiHeadAttention"] == 2
    assert not {"Softmax", "Transpose", "FusedMatMul"} & found.keys()
    assert [opset.domain for opset in model.opset_import].count("com.microsoft") == 1
    np.testing.assert_allclose(run(model, tmp_path, shape), expected, rtol=0, atol=1e-6)


def test_a_context_in_bytes_stays_in_bytes(tmp_path: Path) -> None:
    model = graph(tmp_path)
    constants = {"step": np.array(2 / 255, np.float32), "zero": np.array(128, np.uint8)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.output[0].endswith(".context"):
            name = node.output[0]
            node.output[0] = f"{name}.exact"
            for op_type, source, target in (
                ("QuantizeLinear", f"{name}.exact", f"{name}.bytes"),
                ("DequantizeLinear", f"{name}.bytes", name),
            ):
                nodes.append(
                    helper.make_node(op_type, [source, "step", "zero"], [target], name=f"{name}.{op_type}")
                )
    set_nodes(model, nodes)
    quantize_before_moving(model)
    expected = run(model, tmp_path)
    fuse_attention(model)
    found = operators(model)
    assert (found["MultiHeadAttention"], found["QuantizeLinear"], found["Transpose"]) == (2, 2, 0)
    # A value on the edge between two bytes may fall to either side: 1 / 127 of a value, once or twice.
    difference = np.abs(run(model, tmp_path) - expected)
    assert difference.max() < 0.05
    assert np.median(difference) < 1e-5


def node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node for output in node.output if output == name)


def add_to_scores(model: onnx.ModelProto) -> None:
    node_of(model, "layer.0.attention").input[0] = "sum"
    node = helper.make_node("Add", ["layer.0.scores", "layer.0.scores"], ["sum"], name="sum")
    model.graph.node.insert(list(model.graph.node).index(node_of(model, "layer.0.attention")), node)


def give_shares_away(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Neg", ["layer.0.attention"], ["other"], name="other"))
    model.graph.output.append(helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, None))


def give_context_away(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Neg", ["layer.0.rows"], ["other"], name="other"))
    model.graph.output.append(helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, None))


def share_along_queries(model: onnx.ModelProto) -> None:
    node_of(model, "layer.0.attention").attribute[0].i = -2


def turn_values(model: onnx.ModelProto) -> None:
    node_of(model, "layer.0.rows").attribute[0].ints[:] = [0, 1, 2, 3]


def turn_queries(model: onnx.ModelProto) -> None:
    node_of(model, "layer.0.query.heads").attribute[0].ints[:] = [0, 2, 3, 1]


def scale_scores(model: onnx.ModelProto) -> None:
    node = node_of(model, "layer.0.scores")
    node.op_type, node.domain = "FusedMatMul", "com.microsoft"
    node.attribute.append(helper.make_attribute("alpha", 2.0))


@pytest.mark.parametrize(
    "change",
    [
        add_to_scores,
        give_shares_away,
        give_context_away,
        share_along_queries,
        turn_values,
        turn_queries,
        scale_scores,
    ],
)
def test_attention_of_another_form_stays_as_it_is(change: Change, tmp_path: Path) -> None:
    model = graph(tmp_path)
    change(model)
    before = [node for node in copy_model(model).graph.node if node.output[0].startswith("layer.0.")]
    fuse_attention(model)
    assert operators(model)["MultiHeadAttention"] == 1  # the other layer's
    after = [node for node in model.graph.node if node.output[0].startswith("layer.0.")]
    assert after == before


def test_positions_that_are_added_to_the_scores_keep_a_graph_as_it_is(tmp_path: Path) -> None:
    model = graph(tmp_path, write_tiny_mpnet)
    before = model.SerializeToString()
    fuse_attention(model)
    assert model.SerializeToString() == before


def test_products_of_mpnet_read_queries_keys_and_values_as_they_lie(tmp_path: Path) -> None:
    bundle = exported(tmp_path, "mpnet")
    for precision in PRECISIONS:
        variant = bundle.variant(precision)
        for name in (variant.cpu_graph, variant.unpadded_graph):
            write_optimized(bundle.directory / name, tmp_path / "optimized.onnx")
            found = operators(onnx.load(tmp_path / "optimized.onnx", load_external_data=False))
            # Each layer's scores and context are products; what moves is its context, and once the ids, the
            # position bias and the output. INT8's kernels take that by distance: for others it moves twice.
            once = 4 if precision == "int8" and name == variant.unpadded_graph else 3
            assert (found["FusedMatMul"], found["Transpose"]) == (4, 2 + once), (precision, name)


def test_bundles_have_it_in_the_graphs_for_one_length_alone(tmp_path: Path) -> None:
    bundle = exported(tmp_path, "bert")
    for precision in PRECISIONS:
        variant = bundle.variant(precision)
        attention = "Attention" if precision == "int8" else "MultiHeadAttention"
        found = [
            operators(onnx.load(bundle.directory / name, load_external_data=False))[attention]
            for name in (variant.cpu_graph, variant.unpadded_graph)
        ]
        assert found == [0, 2], precision
        equal, padded = (
            Encoder(bundle, precision=precision, max_padding=share).encode(["sky", "the river"], role="query")
            for share in (0, 0.9)
        )
        assert np.einsum("ij,ij->i", equal, padded).min() > (0.9999 if precision != "int8" else 0.99)
