"""Which parts of a graph become operators of ours, and that they compute the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from paritas.export import export_model, precisions
from paritas.export.graph.nodes import copy_model, set_nodes
from paritas.export.graph.passes.own_operators import fuse_own_operators
from paritas.export.graph.passes.relative_bias import Windows
from paritas.export.graph.view import GraphView
from tests.unit.export.entries import entry
from tests.unit.tiny import WIDE, write_tiny_bert, write_tiny_mpnet

LONGEST = 24
GRAPHS = ("model.int8.onnx", "model.int8.equal_length.onnx")


def written(directory: Path, network: str = "bert", pooling: str = "mean") -> dict[str, onnx.ModelProto]:
    """The graphs of a tiny network over LinearInt8, nothing else fused; their weights in `directory`."""
    write = {"bert": write_tiny_bert, "mpnet": write_tiny_mpnet}[network]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precisions, "fuse_own_operators", lambda _model, _longest: False)
        patch.setattr(precisions, "fuse_attention", lambda _model: None)
        bundle = export_model(
            "mine",
            source=str(write(directory / "checkpoint", **WIDE)),
            precisions=["fp32", "int8"],
            int8_inputs="dynamic",
            out=directory / "bundle",
            registry=entry(directory, network=network, dim=64, pooling=pooling, max_length=LONGEST),
        )
    for path in bundle.directory.glob("*.data"):
        path.rename(directory / path.name)
    return {name: onnx.load(bundle.directory / name, load_external_data=False) for name in GRAPHS}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, onnx.ModelProto]]:
    directory = tmp_path_factory.mktemp("bert")
    return directory, written(directory)


@pytest.fixture(scope="module")
def mpnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, onnx.ModelProto]]:
    directory = tmp_path_factory.mktemp("mpnet")
    return directory, written(directory, "mpnet")


def run(model: onnx.ModelProto, directory: Path) -> np.ndarray:
    """Run a graph without the library: of our operators their bodies."""
    (directory / "graph.onnx").write_bytes(model.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(directory / "graph.onnx", options)
    ids = np.random.default_rng(1).integers(6, 80, (3, 17))
    mask = np.ones_like(ids)
    mask[1, 9:] = 0
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()})[0]


def ours(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node if node.domain == "paritas")


def fused(model: onnx.ModelProto, directory: Path) -> Counter[str]:
    """Fuse a copy of a graph, hold its vectors against the graph's, and return what it is made of."""
    copy = copy_model(model)
    assert fuse_own_operators(copy, LONGEST)
    expected = run(model, directory)
    np.testing.assert_allclose(run(copy, directory), expected, atol=2e-6)
    onnx.checker.check_model(directory / "graph.onnx")
    return ours(copy)


@pytest.mark.parametrize("network", ["bert", "mpnet"])
def test_a_network_is_made_of_ours_and_computes_the_same(network: str, tmp_path: Path) -> None:
    for name, model in written(tmp_path, network).items():
        # In MPNet something is added to the scores in any case, and its tokens come first.
        unmasked = {"bert": "Attention", "mpnet": "RelativeAttention"}[network]
        attention = unmasked if name == GRAPHS[1] else "BiasedAttention"
        expected = {"LinearInt8": 2, attention: 2, "LinearNormInt8": 4, "LinearGeluInt8": 2}
        assert fused(model, tmp_path) == expected


def test_a_last_layer_for_the_first_token_alone_keeps_its_attention(tmp_path: Path) -> None:
    """Its queries are of other tokens than its keys and values, which stay joined."""
    model = written(tmp_path, pooling="cls")[GRAPHS[0]]
    expected = {"LinearInt8": 3, "BiasedAttention": 1, "LinearNormInt8": 4, "LinearGeluInt8": 2}
    assert fused(model, tmp_path) == expected


def _first(model: onnx.ModelProto, op_type: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == op_type)


def _tanh(model: onnx.ModelProto) -> None:
    _first(model, "Gelu").attribute.append(helper.make_attribute("approximate", "tanh"))


def _sum_goes_on(model: onnx.ModelProto) -> None:
    """As where a norm stands before a layer, and the sum is added further on."""
    norm = [node for node in model.graph.node if node.op_type == "LayerNormalization"][1]
    nodes = list(model.graph.node)
    for node in nodes:
        for place, name in enumerate(node.input):
            if name == norm.output[0]:
                node.input[place] = "both"
    both = helper.make_node("Add", [norm.output[0], norm.input[0]], ["both"], name="both")
    nodes.insert(nodes.index(norm) + 1, both)
    set_nodes(model, nodes)


def _another_axis(model: onnx.ModelProto) -> None:
    _first(model, "Softmax").attribute[0].i = 2


def _parts_in_another_order(model: onnx.ModelProto) -> None:
    node = _first(model, "Split")
    node.output[:] = [node.output[1], node.output[0], node.output[2]]


def _scaled_scores(model: onnx.ModelProto) -> None:
    _first(model, "FusedMatMul").attribute.append(helper.make_attribute("alpha", 0.5))


def _reshaped(model: onnx.ModelProto, name: str, shape: list[int]) -> None:
    node = next(node for node in model.graph.node if node.name == name)
    model.graph.initializer.append(numpy_helper.from_array(np.array(shape), f"{name}.shape"))
    node.input[1] = f"{name}.shape"


def _heads_to_be_found_out(model: onnx.ModelProto) -> None:
    for part in ("query", "key", "value"):
        _reshaped(model, f"layer.0.{part}.split", [0, 0, -1, 32])


def _joined_texts(model: onnx.ModelProto) -> None:
    """So that tokens attend to those of other texts; the mask is for a row, and left out."""
    scores = next(node for node in model.graph.node if node.name == "layer.0.biased_scores")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "nothing"))
    scores.input[1] = "nothing"
    for part in ("query", "key", "value"):
        _reshaped(model, f"layer.0.{part}.split", [1, -1, 2, 32])
    _reshaped(model, "layer.0.context", [3, 17, 64])


def _sum_of_two_layers(model: onnx.ModelProto) -> None:
    """The residual is another layer's output, which a norm's operator takes just as well."""
    first = next(node for node in model.graph.node if node.name == "layer.0.attention_output.sum")
    add = next(node for node in model.graph.node if node.name == "layer.0.attention_residual")
    other = onnx.NodeProto.FromString(first.SerializeToString())
    other.output[0] = other.name = "other"
    add.input[1] = "other"
    nodes = list(model.graph.node)
    nodes.insert(nodes.index(first), other)
    set_nodes(model, nodes)


def _outputs_of_the_graph(model: onnx.ModelProto) -> None:
    for name in ("layer.0.intermediate.sum", "layer.0.residual"):
        shape = [None, None, None]
        model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))


def _a_constant_residual(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.name == "layer.0.attention_residual")
    model.graph.initializer.append(numpy_helper.from_array(np.ones(64, np.float32), "ones"))
    node.input[1] = "ones"


@pytest.mark.parametrize(
    ("change", "operator", "left"),
    [
        (_tanh, "LinearGeluInt8", 1),
        (_sum_goes_on, "LinearNormInt8", 3),
        (_a_constant_residual, "LinearNormInt8", 3),
        (_another_axis, "BiasedAttention", 1),
        (_parts_in_another_order, "BiasedAttention", 1),
        (_scaled_scores, "BiasedAttention", 1),
        (_heads_to_be_found_out, "BiasedAttention", 1),
        (_joined_texts, "BiasedAttention", 1),
        (_sum_of_two_layers, "LinearNormInt8", 4),
        (_sum_of_two_layers, "LinearInt8", 3),
        (_outputs_of_the_graph, "LinearGeluInt8", 1),
        (_outputs_of_the_graph, "LinearNormInt8", 3),
    ],
)
def test_what_computes_something_else_stays_as_it_is(
    change: Callable[[onnx.ModelProto], None],
    operator: str,
    left: int,
    bert: tuple[Path, dict[str, onnx.ModelProto]],
) -> None:
    directory, graphs = bert
    model = copy_model(graphs[GRAPHS[0]])
    change(model)
    assert fused(model, directory)[operator] == left


def _named(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == f"relative_bias{name}")


def _turned_otherwise(model: onnx.ModelProto) -> None:
    """By how far the query is behind its key."""
    _named(model, "").attribute[0].ints[:] = [2, 1, 0]


def _every_other_distance(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(2), "two"))
    _named(model, ".key").input[2] = "two"
    _computed(model, _named(model, ".key"), 1, "Add", 2)


def _a_query_counts_twice(model: onnx.ModelProto) -> None:
    _computed(model, _named(model, ".distance"), 1, "Add", 2)


def _of_a_table_that_is_computed(model: onnx.ModelProto) -> None:
    _computed(model, _named(model, ".rows"), 0, "Neg", 1)


def _computed(model: onnx.ModelProto, node: onnx.NodeProto, place: int, op_type: str, times: int) -> None:
    """Let a node read what is made of its input."""
    name = f"{node.name}.computed"
    nodes = list(model.graph.node)
    nodes.insert(nodes.index(node), helper.make_node(op_type, [node.input[place]] * times, [name], name=name))
    node.input[place] = name
    set_nodes(model, nodes)


@pytest.mark.parametrize(
    "change",
    [_turned_otherwise, _every_other_distance, _a_query_counts_twice, _of_a_table_that_is_computed],
)
def test_a_bias_that_goes_by_more_than_distances_is_added_as_it_is(
    change: Callable[[onnx.ModelProto], None], mpnet: tuple[Path, dict[str, onnx.ModelProto]]
) -> None:
    directory, graphs = mpnet
    model = copy_model(graphs[GRAPHS[1]])
    change(model)
    found = fused(model, directory)
    assert (found["BiasedAttention"], found["RelativeAttention"]) == (2, 0)


def _of_the_number_of_texts(model: onnx.ModelProto) -> None:
    for attribute, value in zip(_named(model, ".length").attribute, (1, 0), strict=True):
        attribute.i = value  # "end" and "start"


def _of_what_is_no_input(model: onnx.ModelProto) -> None:
    _named(model, ".length").input[0] = "embeddings.ids"


def _of_fewer_tokens(model: onnx.ModelProto) -> None:
    """Further apart Gather counts from the table's end."""
    _with_zero(model, np.array(LONGEST - 2))


def _beyond_the_table(model: onnx.ModelProto) -> None:
    """Which has 80 columns."""
    _with_zero(model, np.array(80 - LONGEST + 1))


def _of_a_place_each(model: onnx.ModelProto) -> None:
    _with_zero(model, np.full((64, 64), LONGEST - 1))


def _that_callers_choose(model: onnx.ModelProto) -> None:
    name = _named(model, ".column").input[1]
    model.graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.INT64, []))


def _for_all_heads(model: onnx.ModelProto) -> None:
    _named(model, ".rows").input[0] = "row"
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 64), np.float32), "row"))


def _with_zero(model: onnx.ModelProto, zero: np.ndarray) -> None:
    model.graph.initializer.append(numpy_helper.from_array(zero, "zero"))
    _named(model, ".column").input[1] = "zero"


@pytest.mark.parametrize(
    "change",
    [
        _of_the_number_of_texts,
        _of_what_is_no_input,
        _of_fewer_tokens,
        _beyond_the_table,
        _of_a_place_each,
        _that_callers_choose,
        _for_all_heads,
    ],
)
def test_a_bias_of_more_than_a_table_holds_is_added_as_it_is(
    change: Callable[[onnx.ModelProto], None], mpnet: tuple[Path, dict[str, onnx.ModelProto]]
) -> None:
    model = copy_model(mpnet[1][GRAPHS[1]])
    assert Windows(GraphView(model), LONGEST).of("relative_bias", 4)
    change(model)
    assert not Windows(GraphView(model), LONGEST).of("relative_bias", 4)


def test_without_the_library_a_bias_is_spread_once_and_not_in_each_layer(
    mpnet: tuple[Path, dict[str, onnx.ModelProto]], tmp_path: Path
) -> None:
    directory, graphs = mpnet
    model = copy_model(graphs[GRAPHS[1]])
    fuse_own_operators(model, LONGEST)
    (directory / "graph.onnx").write_bytes(model.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(directory / "graph.onnx", options)
    optimized = onnx.load(tmp_path / "optimized.onnx", load_external_data=False)
    found = Counter(node.op_type for node in optimized.graph.node)
    assert (found["Range"], found["Softmax"]) == (1, 2)


def test_a_graph_of_onnxruntimes_operators_is_left_alone(
    bert: tuple[Path, dict[str, onnx.ModelProto]],
) -> None:
    model = copy_model(bert[1][GRAPHS[0]])
    set_nodes(model, [node for node in model.graph.node if node.domain != "paritas"])
    before = model.SerializeToString()
    assert not fuse_own_operators(model, LONGEST)
    assert model.SerializeToString() == before
