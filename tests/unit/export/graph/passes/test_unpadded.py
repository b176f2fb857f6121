"""The graph for texts of one length: the one that is there, without its attention mask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from paritas.errors import ExportError
from paritas.export.graph.passes.unpadded import without_mask
from paritas.export.graph.weights_file import WeightsFile
from paritas.export.networks.graph import export_native
from tests.unit.tiny import write_tiny_bert, write_tiny_mpnet

LONGEST = 24
WINDOW = 16


@pytest.mark.parametrize("first_only", [False, True], ids=["every token", "the first token"])
@pytest.mark.parametrize("write", [write_tiny_bert, write_tiny_mpnet], ids=["bert", "mpnet"])
def test_texts_of_one_length_have_the_same_vectors(
    write: Callable[[Path], Path], first_only: bool, tmp_path: Path
) -> None:
    with WeightsFile(tmp_path / "weights") as file:
        model = export_native(write(tmp_path / "checkpoint"), file, first_only=first_only)
    before = model.SerializeToString()
    cut = without_mask(model, tmp_path, LONGEST)
    assert model.SerializeToString() == before
    assert cut is not None
    ids = np.random.default_rng(1).integers(6, 80, (3, 17))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": (ids > 40) * 1}
    vectors = []
    for graph in (model, cut):
        (tmp_path / "graph.onnx").write_bytes(graph.SerializeToString())
        session = onnxruntime.InferenceSession(tmp_path / "graph.onnx", providers=["CPUExecutionProvider"])
        vectors.append(
            session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()})[0]
        )
    np.testing.assert_allclose(vectors[1], vectors[0], rtol=0, atol=1e-6)
    assert {value.name for value in model.graph.input} - {value.name for value in cut.graph.input} == {
        "attention_mask"
    }
    left = {tensor.name for tensor in cut.graph.initializer}
    assert left == {tensor.name for tensor in model.graph.initializer} - {
        "mask.one",
        "mask.lowest",
        "ints.1_2",
    }


def node(op_type: str, *inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op_type, list(inputs), [output], **attributes)


# Scores of each token with each other, (batch, seq, seq); and what a padded one's are lowered by.
SCORES = [
    node("Cast", "input_ids", output="tokens", to=TensorProto.FLOAT),
    node("Unsqueeze", "tokens", "last", output="column"),
    node("Unsqueeze", "tokens", "middle", output="row"),
    node("Mul", "column", "row", output="x"),
]
MASK = [
    node("Cast", "attention_mask", output="kept", to=TensorProto.FLOAT),
    node("Sub", "one", "kept", output="padded"),
    node("Mul", "padded", "lowest", output="lowered"),
    node("Unsqueeze", "lowered", "middle", output="mask"),
]
# What lies on or above the diagonal that many places away, of a matrix as wide as there are tokens.
FAR = [
    node("Shape", "attention_mask", output="shape"),
    node("Gather", "shape", "last", output="length"),
    node("Concat", "length", "length", output="square", axis=0),
    node("Expand", "lowest", "square", output="wall"),
    node("Trilu", "wall", "window", output="far", upper=1),
]
ADDED = node("Add", "x", "mask", output="sum")
SHARES = node("Softmax", "sum", output="y")


def masking(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "seq"])
        for name in ("input_ids", "attention_mask")
    ]
    constants = {
        "one": np.float32(1),
        "lowest": np.float32(-10_000),
        "table": np.zeros((WINDOW, 1), np.float32),
        "zero": np.array([0]),
        "middle": np.array([1]),
        "last": np.array([-1]),
        "window": np.array(WINDOW),
        "yes": np.array(True),
    }
    # "last" is an axis and, of a shape, the place of the number of tokens.
    values = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None, None])
    graph = helper.make_graph([*SCORES, *nodes], "masking", ids, [output], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def runs(model: onnx.ModelProto) -> bool:
    ids = np.arange(6).reshape(2, 3)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {value.name: ids for value in session.get_inputs()})[0]
    return bool(np.isfinite(found).all())


def test_what_the_mask_adds_to_scores_is_left_out(tmp_path: Path) -> None:
    cut = without_mask(masking(*MASK, ADDED, SHARES), tmp_path, LONGEST)
    assert cut is not None
    assert [(found.op_type, list(found.input)) for found in cut.graph.node[-1:]] == [("Softmax", ["x"])]
    assert runs(cut)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param([*MASK, ADDED, node("Relu", "sum", output="y")], id="added to what is no score"),
        pytest.param([*MASK, node("Mul", "x", "mask", output="sum"), SHARES], id="multiplied with scores"),
        pytest.param(
            [
                *MASK,
                ADDED,
                node("Softmax", "sum", output="shares"),
                node("Mul", "shares", "mask", output="y"),
            ],
            id="read a second time",
        ),
        pytest.param(
            [
                *MASK,
                ADDED,
                node("Softmax", "sum", output="shares"),
                node(
                    "If",
                    "yes",
                    output="y",
                    **{
                        name: helper.make_graph(
                            [node("Add", "shares", "mask", output=f"{name}.y")],
                            name,
                            [],
                            [helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, None)],
                        )
                        for name in ("then_branch", "else_branch")
                    },
                ),
            ],
            id="read inside a branch",
        ),
        pytest.param(
            [
                *MASK,
                node("Mul", "mask", "x", output="other"),
                node("Add", "x", "other", output="sum"),
                SHARES,
            ],
            id="it brings the tokens' values with it",
        ),
        pytest.param(
            [
                *MASK[:3],
                node("Sub", "lowered", "one", output="more"),
                node("Unsqueeze", "more", "middle", output="mask"),
                ADDED,
                SHARES,
            ],
            id="of tokens that are there it lowers scores too",
        ),
    ],
)
def test_a_mask_that_serves_anything_else_stays(nodes: list[onnx.NodeProto], tmp_path: Path) -> None:
    model = masking(*nodes)
    assert runs(model)
    assert without_mask(model, tmp_path, LONGEST) is None


@pytest.mark.parametrize(("longest", "shows"), [(3, False), (WINDOW, False), (WINDOW + 1, True), (40, True)])
def test_a_sliding_window_in_the_mask_stays_where_texts_reach_beyond_it(
    longest: int, shows: bool, tmp_path: Path
) -> None:
    windowed = [*MASK, *FAR, node("Add", "mask", "far", output="both")]
    added = node("Add", "x", "both", output="sum")
    model = masking(*windowed, added, SHARES)
    assert runs(model)
    assert (without_mask(model, tmp_path, longest) is None) == shows


def test_a_graph_that_cannot_be_run_says_for_how_many_tokens(tmp_path: Path) -> None:
    """How much of the mask is added is read from a shape behind a table of too few rows."""
    positions = [
        node("Shape", "tokens", output="shape"),
        node("Gather", "shape", "last", output="length"),
        node("Slice", "table", "zero", "length", output="rows"),
        node("Transpose", "rows", output="placed"),
        node("Add", "tokens", "placed", output="embedded"),
        node("Shape", "embedded", output="embedded.shape"),
        node("Gather", "embedded.shape", "last", output="end"),
        node("Slice", "mask", "zero", "end", "last", output="cut"),
    ]
    model = masking(*MASK, *positions, node("Add", "x", "cut", output="sum"), SHARES)
    assert without_mask(model, tmp_path, WINDOW) is not None
    with pytest.raises(ExportError, match=rf"a text of {WINDOW + 1} tokens, which max_length allows: "):
        without_mask(model, tmp_path, WINDOW + 1)


def test_a_graph_that_has_no_mask_has_none_to_lose(tmp_path: Path) -> None:
    model = masking(node("Softmax", "x", output="y"))
    del model.graph.input[1]
    assert without_mask(model, tmp_path, LONGEST) is None
