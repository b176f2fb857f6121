"""The FP16 graphs: what computes in which precision, what is stored where, and what cannot overflow."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from safetensors.numpy import load_file, save_file

from paritas.errors import ExportError
from paritas.export.fp16.half import half_compute, half_weights
from paritas.export.fp16.simulate import simulate_fp16
from paritas.export.graph.weights_file import WeightsFile, externalize
from paritas.export.networks.graph import export_native
from tests.unit.tiny import write_tiny_bert, write_tiny_mpnet

KINDS = pytest.mark.parametrize("kind", ["bert", "mpnet"])
GRAPHS = ("fp32", "half_compute", "half_weights")
Weights = dict[str, NDArray[np.float32]]


def convert(checkpoint: Path, directory: Path) -> Path:
    """Write the FP32 graph of a checkpoint, and both FP16 graphs, as the exporter does."""
    directory.mkdir()
    with WeightsFile(directory / "fp32.onnx.data") as file:
        model = export_native(checkpoint, file)
    with WeightsFile(directory / "fp16.onnx.data") as file:
        graphs = {
            "fp32": model,
            "half_weights": half_weights(model, directory, file),
            "half_compute": half_compute(model, directory, file),
        }
    graphs["rounded"] = simulate_fp16(graphs["half_compute"])
    for name, graph in graphs.items():
        (directory / f"{name}.onnx").write_bytes(graph.SerializeToString())
    return directory


def checkpoint_of(kind: str, directory: Path) -> Path:
    write = write_tiny_bert if kind == "bert" else write_tiny_mpnet
    return write(directory, hidden_size=64, num_attention_heads=4, intermediate_size=256)


def edited(checkpoint: Path, edit: Callable[[Weights], None]) -> Path:
    weights = load_file(checkpoint / "model.safetensors")
    edit(weights)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    return checkpoint


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories with the three graphs, by kind of network."""
    directory = tmp_path_factory.mktemp("half")
    return {
        kind: convert(checkpoint_of(kind, directory / f"{kind}.checkpoint"), directory / kind)
        for kind in ("bert", "mpnet")
    }


def load(directory: Path, graph: str) -> onnx.ModelProto:
    return onnx.load(directory / f"{graph}.onnx", load_external_data=False)


def feeds(directory: Path, graph: str) -> dict[str, NDArray[np.int64]]:
    """Three texts of 17 tokens; the second is padded by 5 and the third has but one token."""
    random = np.random.default_rng(0)
    mask = np.arange(17) < np.array([[17], [12], [1]])
    ids = np.where(mask, random.integers(6, 80, mask.shape), 1)
    given = {
        "input_ids": ids,
        "attention_mask": mask.astype(np.int64),
        "token_type_ids": ((np.arange(17) > 8) & mask).astype(np.int64),
    }
    return {value.name: given[value.name] for value in load(directory, graph).graph.input}


def run(directory: Path, graph: str) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(
        str(directory / f"{graph}.onnx"), options, providers=["CPUExecutionProvider"]
    )
    result: NDArray[np.float32] = session.run(None, feeds(directory, graph))[0]
    return result


def run_plainly(directory: Path, graph: str, **given: NDArray[np.int64]) -> NDArray[np.float32]:
    """Run a graph node by node in NumPy: every FP16 sum is really rounded to, and limited as, FP16."""
    model = onnx.load(directory / f"{graph}.onnx")
    with np.errstate(over="ignore", invalid="ignore"):
        result: NDArray[np.float32] = ReferenceEvaluator(model).run(None, feeds(directory, graph) | given)[0]
    return result


def types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every tensor."""
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def floats(node: onnx.NodeProto, kinds: dict[str, int]) -> set[int]:
    """The float types a node reads."""
    return {kinds[name] for name in node.input} & {TensorProto.FLOAT, TensorProto.FLOAT16}


def outside(model: onnx.ModelProto) -> dict[str, dict[str, str]]:
    """Where the initializers in a weights file lie, by name."""
    return {
        tensor.name: {item.key: item.value for item in tensor.external_data}
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    }


# Which node computes in which precision.


@KINDS
def test_norms_and_softmaxes_compute_in_fp32(converted: dict[str, Path], kind: str) -> None:
    model = load(converted[kind], "half_compute")
    kinds = types(model)
    nodes = [node for node in model.graph.node if node.op_type in ("LayerNormalization", "Softmax")]
    assert len(nodes) == 2 * 3 + 1
    for node in nodes:
        assert floats(node, kinds) == {TensorProto.FLOAT}, node.name
        assert kinds[node.output[0]] == TensorProto.FLOAT


@KINDS
def test_matrices_compute_in_fp16(converted: dict[str, Path], kind: str) -> None:
    model = load(converted[kind], "half_compute")
    kinds = types(model)
    nodes = [node for node in model.graph.node if node.op_type == "MatMul"]
    assert len(nodes) == 2 * 8
    for node in nodes:
        assert floats(node, kinds) == {TensorProto.FLOAT16}, node.name
        assert kinds[node.output[0]] == TensorProto.FLOAT16


@KINDS
def test_the_sums_before_norms_and_softmaxes_are_fp32(converted: dict[str, Path], kind: str) -> None:
    model = load(converted[kind], "half_compute")
    kinds = types(model)
    sums = {node.output[0]: node for node in model.graph.node if node.op_type == "Add"}
    readers = [node for node in model.graph.node if node.op_type in ("LayerNormalization", "Softmax")]
    for reader in readers:
        assert floats(sums[reader.input[0]], kinds) == {TensorProto.FLOAT}, reader.name
    # The bias of a residual's linear layer belongs to that sum.
    for name in ("layer.0.attention_output.sum", "layer.1.output.sum", "attention_bias"):
        if name in sums:
            assert floats(sums[name], kinds) == {TensorProto.FLOAT}


@KINDS
def test_what_lies_between_matrices_is_fp16(converted: dict[str, Path], kind: str) -> None:
    model = load(converted[kind], "half_compute")
    kinds = types(model)
    by_name = {node.name: node for node in model.graph.node}
    for layer in ("layer.0", "layer.1"):
        for part in ("query.sum", "key.heads", "value.split", "gelu", "intermediate.sum", "rows", "context"):
            assert floats(by_name[f"{layer}.{part}"], kinds) == {TensorProto.FLOAT16}, part


@KINDS
@pytest.mark.parametrize("graph", GRAPHS)
def test_inputs_and_output_are_those_of_the_fp32_graph(
    converted: dict[str, Path], kind: str, graph: str
) -> None:
    full, half = load(converted[kind], "fp32").graph, load(converted[kind], graph).graph
    assert list(half.input) == list(full.input)
    assert list(half.output) == list(full.output)
    (output,) = half.output
    assert output.name == "last_hidden_state"
    assert output.type.tensor_type.elem_type == TensorProto.FLOAT


@KINDS
@pytest.mark.parametrize("graph", GRAPHS)
def test_every_graph_is_valid(converted: dict[str, Path], kind: str, graph: str) -> None:
    onnx.checker.check_model(converted[kind] / f"{graph}.onnx", full_check=True)


@KINDS
def test_the_graph_for_cpus_computes_in_fp32_alone(converted: dict[str, Path], kind: str) -> None:
    model = load(converted[kind], "half_weights")
    kinds = types(model)
    for node in model.graph.node:
        if TensorProto.FLOAT16 in floats(node, kinds):
            assert node.op_type == "Cast"
            assert node.input[0] in outside(model)
            assert kinds[node.output[0]] == TensorProto.FLOAT


@KINDS
def test_no_tensor_is_cast_twice_to_one_type(converted: dict[str, Path], kind: str) -> None:
    for graph in ("half_compute", "half_weights"):
        nodes = load(converted[kind], graph).graph.node
        casts = [(node.input[0], node.attribute[0].i) for node in nodes if node.op_type == "Cast"]
        assert len(casts) == len(set(casts))
        assert len({node.name for node in nodes}) == len(nodes)


# What is stored.


@KINDS
def test_both_graphs_read_the_same_bytes_of_one_file(converted: dict[str, Path], kind: str) -> None:
    compute = outside(load(converted[kind], "half_compute"))
    weights = outside(load(converted[kind], "half_weights"))
    assert {name.removesuffix(".fp16"): place for name, place in compute.items()} == weights
    assert {place["location"] for place in weights.values()} == {"fp16.onnx.data"}


@KINDS
def test_the_weights_file_is_half_as_large(converted: dict[str, Path], kind: str) -> None:
    full = (converted[kind] / "fp32.onnx.data").stat().st_size
    half = (converted[kind] / "fp16.onnx.data").stat().st_size
    assert 0.5 <= half / full < 0.6  # tensors start on pages


@KINDS
def test_stored_weights_are_the_checkpoints_rounded(converted: dict[str, Path], kind: str) -> None:
    full = onnx.load(converted[kind] / "fp32.onnx").graph.initializer
    half = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(converted[kind] / "half_weights.onnx").graph.initializer
    }
    assert [tensor.name for tensor in full] == list(half)
    for tensor in full:
        value = onnx.numpy_helper.to_array(tensor)
        if half[tensor.name].dtype == np.float16:
            value = value.astype(np.float16)
        np.testing.assert_array_equal(half[tensor.name], value)


@KINDS
def test_the_model_converted_is_left_as_it_was(tmp_path: Path, kind: str) -> None:
    with WeightsFile(tmp_path / "fp32.onnx.data") as file:
        model = export_native(checkpoint_of(kind, tmp_path / "checkpoint"), file)
    before = model.SerializeToString()
    with WeightsFile(tmp_path / "fp16.onnx.data") as file:
        half_weights(model, tmp_path, file)
        half_compute(model, tmp_path, file)
    assert model.SerializeToString() == before


@KINDS
def test_each_graph_alone_needs_nothing_of_the_other(tmp_path: Path, kind: str) -> None:
    write = write_tiny_bert if kind == "bert" else write_tiny_mpnet
    checkpoint = write(tmp_path / "checkpoint", max_position_embeddings=600)
    with WeightsFile(tmp_path / "fp32.onnx.data") as file:
        model = export_native(checkpoint, file)
    for name, convert_one in (("half_weights", half_weights), ("half_compute", half_compute)):
        directory = tmp_path / name
        directory.mkdir()
        with WeightsFile(directory / "alone.onnx.data") as file:
            graph = convert_one(model, tmp_path, file)
        (directory / f"{name}.onnx").write_bytes(graph.SerializeToString())
        assert {place["location"] for place in outside(graph).values()} == {"alone.onnx.data"}
        assert np.isfinite(run(directory, name)).all()


# What comes out.


@KINDS
@pytest.mark.parametrize("graph", ["half_compute", "half_weights"])
def test_vectors_are_close_to_those_of_fp32(converted: dict[str, Path], kind: str, graph: str) -> None:
    full = run(converted[kind], "fp32")
    for half in (run(converted[kind], graph), run_plainly(converted[kind], graph)):
        assert half.dtype == np.float32
        np.testing.assert_allclose(half, full, rtol=0, atol=0.02)


@KINDS
def test_a_weight_beyond_fp16_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    def edit(weights: Weights) -> None:
        weights["encoder.layer.1.output.dense.weight"][3, 4] = 1e6

    checkpoint = edited(checkpoint_of(kind, tmp_path / "checkpoint"), edit)
    message = r"layer\.1\.output\.weight holds 1e\+06, beyond FP16's 65504; export --precision fp32"
    with pytest.raises(ExportError, match=message):
        convert(checkpoint, tmp_path / "out")


def test_a_bias_beyond_fp16_is_refused_where_it_would_be_fp16(tmp_path: Path) -> None:
    def edit(weights: Weights) -> None:
        weights["encoder.layer.0.intermediate.dense.bias"][0] = -1e6

    checkpoint = edited(checkpoint_of("bert", tmp_path / "checkpoint"), edit)
    with pytest.raises(ExportError, match=r"layer\.0\.intermediate\.bias holds 1e\+06, beyond FP16's"):
        convert(checkpoint, tmp_path / "out")


def test_the_largest_fp16_weight_is_kept(tmp_path: Path) -> None:
    def edit(weights: Weights) -> None:
        weights["embeddings.position_embeddings.weight"][39] = 65504  # a row no text here reaches

    checkpoint = edited(checkpoint_of("bert", tmp_path / "checkpoint"), edit)
    directory = convert(checkpoint, tmp_path / "out")
    assert np.isfinite(run_plainly(directory, "half_compute")).all()


@KINDS
def test_residuals_beyond_fp16_do_not_overflow(tmp_path: Path, kind: str) -> None:
    """A linear layer's product below FP16's maximum, and its sum with bias and residual above."""

    def edit(weights: Weights) -> None:
        for name in ("attention.output.dense", "attention.attn.o", "output.dense"):
            for layer in (0, 1):
                if f"encoder.layer.{layer}.{name}.weight" in weights:
                    weights[f"encoder.layer.{layer}.{name}.weight"] *= 2_000
                    weights[f"encoder.layer.{layer}.{name}.bias"][::7] = 64_000

    checkpoint = edited(checkpoint_of(kind, tmp_path / "checkpoint"), edit)
    directory = convert(checkpoint, tmp_path / "out")
    full = load(directory, "fp32")
    assert largest_sum(directory, full) > 65_504
    expected = run(directory, "fp32")
    for half in (run(directory, "half_compute"), run_plainly(directory, "half_compute")):
        assert np.isfinite(half).all()
        np.testing.assert_allclose(half, expected, rtol=0, atol=0.05)


def largest_sum(directory: Path, model: onnx.ModelProto) -> float:
    """The largest value that a LayerNormalization of the FP32 graph is given."""
    shutil.copyfile(directory / "fp32.onnx", directory / "probe.onnx")
    names = [node.input[0] for node in model.graph.node if node.op_type == "LayerNormalization"]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    (directory / "probe.onnx").write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(str(directory / "probe.onnx"), providers=["CPUExecutionProvider"])
    return max(float(np.abs(value).max()) for value in session.run(names, feeds(directory, "fp32")))


@KINDS
@pytest.mark.parametrize("graph", GRAPHS)
def test_the_padding_of_a_text_changes_nothing_of_it(
    converted: dict[str, Path], kind: str, graph: str
) -> None:
    """Not even in the last bit, though FP16 cannot hold what the mask adds to a score."""
    given = feeds(converted[kind], graph)
    kept = given["attention_mask"] == 1
    other = np.where(kept, given["input_ids"], 77)
    first = run_plainly(converted[kind], graph)
    second = run_plainly(converted[kind], graph, input_ids=other)
    np.testing.assert_array_equal(first[kept], second[kept])
    assert np.isfinite(first).all()
    assert not np.array_equal(first, second)


def test_a_matrix_that_something_else_reads_is_stored_once(tmp_path: Path) -> None:
    """Not as a factor, and so in FP32: the values of the FP16 matrix."""
    table = np.random.default_rng(2).standard_normal((32, 32)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "table"], ["product"], name="product"),
        helper.make_node("ReduceMax", ["table"], ["largest"], name="largest", keepdims=0),
        helper.make_node("Pow", ["largest", "product"], ["y"], name="y"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 32]) for name in "xy"]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], [numpy_helper.from_array(table, "table")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with WeightsFile(tmp_path / "fp32.onnx.data") as file:
        externalize(model, file)
    with WeightsFile(tmp_path / "fp16.onnx.data") as file:
        graphs = [half_weights(model, tmp_path, file), half_compute(model, tmp_path, file)]
    assert (tmp_path / "fp16.onnx.data").stat().st_size == 2 * table.size
    x = np.random.default_rng(1).standard_normal((3, 32)).astype(np.float32) / 8
    expected = table.max() ** (x @ table)
    for half in [*graphs, simulate_fp16(graphs[1])]:
        (tmp_path / "half.onnx").write_bytes(half.SerializeToString())
        session = onnxruntime.InferenceSession(tmp_path / "half.onnx", providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=0.01)
