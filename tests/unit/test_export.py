"""An export: a certified bundle in its place, or an error and nothing at all."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from paritas.engine.bundle import Bundle
from paritas.engine.encoder import Encoder
from paritas.errors import ExportError, ParityError, RegistryError, SourceError
from paritas.export import export_model, exporter
from paritas.export.native import export_native
from paritas.export.weights_file import WeightsFile
from paritas.registry import Precision, Registry, load_registry
from tests.unit.tiny import write_tiny_bert, write_tiny_mpnet

BOTH: tuple[Precision, ...] = ("fp32", "fp16")
ENTRY = """
models:
  {name}:
    network: {network}
    dim: {dim}
    pooling: {pooling}
    roles:
      query: {{max_length: {max_length}}}
    bounds: {bounds}
"""


def entry(directory: Path, name: str = "mine", **facts: Any) -> Registry:
    """A registry with one more model."""
    values = {"network": "bert", "dim": 16, "pooling": "cls", "max_length": 12, "bounds": "{}", **facts}
    path = directory / "entry.yaml"
    path.write_text(ENTRY.format(name=name, **values), encoding="utf-8")
    return load_registry(path)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


Fault = Callable[[onnx.GraphProto], None]


def with_constant(name: str, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Fault:
    """A graph with one other initializer."""

    def fault(graph: onnx.GraphProto) -> None:
        (tensor,) = [tensor for tensor in graph.initializer if tensor.name == name]
        value = change(numpy_helper.to_array(tensor)).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))

    return fault


def with_attribute(op_type: str, **attribute: object) -> Fault:
    """A graph whose nodes of one kind have another attribute."""

    def fault(graph: onnx.GraphProto) -> None:
        for node in (node for node in graph.node if node.op_type == op_type):
            kept = [item for item in node.attribute if item.name not in attribute]
            del node.attribute[:]
            node.attribute.extend(kept)
            node.attribute.extend(helper.make_attribute(key, value) for key, value in attribute.items())

    return fault


ONE_WEIGHT = with_constant("layer.1.output.weight", lambda value: value + 0.1 * (value == value.max()))


def let_native_be_wrong(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    def export(directory: Path, weights: WeightsFile) -> onnx.ModelProto:
        model = export_native(directory, weights)
        fault(model.graph)
        return model

    monkeypatch.setattr(exporter, "export_native", export)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint wide enough that its matrices go into the weights file."""
    directory = tmp_path_factory.mktemp("wide") / "checkpoint"
    return write_tiny_bert(directory, hidden_size=64, intermediate_size=128)


# What is written.


def test_a_bundle_holds_these_files(bundles: dict[str, Bundle]) -> None:
    for bundle in bundles.values():
        assert sorted(path.name for path in bundle.directory.iterdir()) == [
            "manifest.json",
            "model.fp16.cpu.onnx",
            "model.fp16.onnx",
            "model.fp16.onnx.data",
            "model.fp32.onnx",
            "model.fp32.onnx.data",
            "probes.json",
            "reference.npy",
            "tokenizer.json",
        ]


def test_the_manifest_has_size_and_digest_of_every_file(bundles: dict[str, Bundle]) -> None:
    for bundle in bundles.values():
        names = {path.name for path in bundle.directory.iterdir()} - {"manifest.json"}
        assert set(bundle.manifest.files) == names
        for name, file in bundle.manifest.files.items():
            path = bundle.directory / name
            assert (file.sha256, file.size_bytes) == (sha256(path), path.stat().st_size)
        bundle.verify()


def test_the_manifest_says_what_was_exported_and_how(
    bundles: dict[str, Bundle], checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    for name, bundle in bundles.items():
        manifest, model = bundle.manifest, tiny_registry[name]
        assert (manifest.format, manifest.model, manifest.frontend) == (1, name, "native")
        assert manifest.contract.network == model.network
        assert manifest.contract.dim == model.dim
        assert manifest.contract.pooling == model.pooling
        assert manifest.contract.normalize is True
        assert manifest.contract.roles == model.roles
        assert manifest.tools["onnx"] == onnx.__version__
        assert manifest.tools["numpy"] == np.__version__
        source = manifest.source
        assert (source.kind, source.location, source.revision) == ("directory", name, None)
        assert source.digests == {
            file: sha256(checkpoints[name] / file)
            for file in ("config.json", "tokenizer.json", "model.safetensors")
        }


def test_the_certificate_says_what_was_compared(bundles: dict[str, Bundle], tiny_registry: Registry) -> None:
    for name, bundle in bundles.items():
        probes = json.loads((bundle.directory / "probes.json").read_text(encoding="utf-8"))
        reference = np.load(bundle.directory / "reference.npy")
        assert reference.dtype == np.float32
        assert reference.shape == (len(probes), 16)
        assert list(bundle.manifest.precisions) == list(BOTH)
        for precision, variant in bundle.manifest.precisions.items():
            certificate = variant.certificate
            assert certificate.reference == "NumPy float64"
            assert certificate.bound == tiny_registry[name].bound(precision)
            assert certificate.figures.probes == len(probes)
            assert set(certificate.by_role) == {probe["role"] for probe in probes}
            assert sum(figures.probes for figures in certificate.by_role.values()) == len(probes)
            assert certificate.versions["numpy"] == np.__version__
            assert certificate.cpu
            datetime.date.fromisoformat(certificate.date)


def test_tiny_models_are_far_inside_their_bounds(bundles: dict[str, Bundle]) -> None:
    for bundle in bundles.values():
        assert bundle.variant("fp32").certificate.figures.max_abs_diff < 1e-6
        assert bundle.variant("fp16").certificate.figures.min_cosine > 0.99999


def test_the_tokenizer_is_the_checkpoints(bundles: dict[str, Bundle], checkpoints: dict[str, Path]) -> None:
    for name, bundle in bundles.items():
        assert sha256(bundle.directory / "tokenizer.json") == sha256(checkpoints[name] / "tokenizer.json")


def test_only_fp16_leaves_no_file_of_fp32(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    bundle = export_model(
        "tiny-bert",
        source=str(checkpoints["tiny-bert"]),
        precisions=["fp16"],
        out=tmp_path / "out",
        registry=tiny_registry,
    )
    assert [path.name for path in bundle.directory.glob("*fp32*")] == []
    assert list(bundle.manifest.precisions) == ["fp16"]
    with Encoder(bundle.directory, precision="fp16") as encoder:
        assert encoder.encode(["the ferry"], role="query").shape == (1, 16)


def test_an_fp16_mpnet_for_long_texts_needs_no_file_of_fp32(tmp_path: Path) -> None:
    # Its table of position biases is large, and stays FP32.
    checkpoint = write_tiny_mpnet(tmp_path / "checkpoint", max_position_embeddings=514)
    registry = entry(tmp_path, network="mpnet", pooling="mean", max_length=512)
    alone = export_model(
        "mine", source=str(checkpoint), precisions=["fp16"], out=tmp_path / "alone", registry=registry
    )
    both = export_model(
        "mine", source=str(checkpoint), precisions=BOTH, out=tmp_path / "both", registry=registry
    )
    for file in ("model.fp16.onnx", "model.fp16.cpu.onnx", "model.fp16.onnx.data"):
        assert sha256(alone.directory / file) == sha256(both.directory / file)
    for graph in ("model.fp16.onnx", "model.fp16.cpu.onnx"):
        tensors = onnx.load(both.directory / graph, load_external_data=False).graph.initializer
        assert "relative_bias.by_distance" in {tensor.name for tensor in tensors}
        assert {place(tensor) for tensor in tensors} == {None, "model.fp16.onnx.data"}


def place(tensor: onnx.TensorProto) -> str | None:
    """The file an initializer lies in; None inside the graph."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return None
    return {item.key: item.value for item in tensor.external_data}["location"]


def test_large_weights_lie_beside_the_graph(tmp_path: Path, wide: Path) -> None:
    """What a protobuf holds may not pass 2 GB; what lies beside it may."""
    bundle = export_model(
        "mine", source=str(wide), precisions=BOTH, out=tmp_path / "out", registry=entry(tmp_path, dim=64)
    )
    for precision in BOTH:
        variant = bundle.variant(precision)
        for graph in (variant.graph, variant.cpu_graph):
            model = onnx.load(bundle.directory / graph, load_external_data=False)
            inside = [tensor for tensor in model.graph.initializer if place(tensor) is None]
            outside = [tensor for tensor in model.graph.initializer if place(tensor) is not None]
            # 6 matrices a layer and the tables of words and positions.
            assert len(outside) == 2 * 6 + 2
            assert {place(tensor) for tensor in outside} == set(variant.files)
            assert max(int(np.prod(tensor.dims)) for tensor in inside) < 1024
            assert (bundle.directory / graph).stat().st_size < 64 * 1024


def test_every_tensor_of_a_weights_file_can_be_mapped(tmp_path: Path, wide: Path) -> None:
    bundle = export_model("mine", source=str(wide), out=tmp_path / "out", registry=entry(tmp_path, dim=64))
    model = onnx.load(bundle.directory / "model.fp32.onnx", load_external_data=False)
    end = 0
    for tensor in (tensor for tensor in model.graph.initializer if place(tensor) is not None):
        entries = {item.key: item.value for item in tensor.external_data}
        offset, length = int(entries["offset"]), int(entries["length"])
        assert offset % 4096 == 0
        assert offset >= end
        assert length == 4 * int(np.prod(tensor.dims))
        end = offset + length
    assert end == (bundle.directory / "model.fp32.onnx.data").stat().st_size


def test_the_fp32_graph_is_valid(bundles: dict[str, Bundle]) -> None:
    for name, inputs in (
        ("tiny-bert", ["input_ids", "attention_mask", "token_type_ids"]),
        ("tiny-mpnet", ["input_ids", "attention_mask"]),
    ):
        path = bundles[name].directory / "model.fp32.onnx"
        onnx.checker.check_model(path, full_check=True)
        graph = onnx.load(path, load_external_data=False).graph
        assert [value.name for value in graph.input] == inputs
        assert [value.name for value in graph.output] == ["last_hidden_state"]


def test_two_exports_are_the_same_byte_for_byte(
    tmp_path: Path,
    bundles: dict[str, Bundle],
    checkpoints: dict[str, Path],
    tiny_registry_path: Path,
) -> None:
    """Even from a process whose sets and dictionaries are hashed otherwise."""
    code = (
        "import sys; from paritas.export import export_model\n"
        "for name, source in zip(sys.argv[2::2], sys.argv[3::2]):\n"
        "    export_model(name, source=source, precisions=('fp32', 'fp16'), out=f'{sys.argv[1]}/{name}')\n"
    )
    pairs = [str(part) for pair in checkpoints.items() for part in pair]
    environment = {**os.environ, "PARITAS_REGISTRY": str(tiny_registry_path), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path), *pairs], env=environment, check=True)
    for name, bundle in bundles.items():
        ours, theirs = contents(bundle.directory), contents(tmp_path / name)
        assert list(ours) == list(theirs)
        assert [file for file in ours if ours[file] != theirs[file] and file != "manifest.json"] == []


def test_an_export_goes_into_the_store(
    home: Path, checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    bundle = export_model("tiny-bert", source=str(checkpoints["tiny-bert"]), registry=tiny_registry)
    assert bundle.directory == home / "bundles" / "tiny-bert"
    assert [path.name for path in (home / "bundles").iterdir()] == ["tiny-bert"]
    assert list(bundle.manifest.precisions) == ["fp32"]


def test_the_order_of_precisions_does_not_matter(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    bundle = export_model(
        "tiny-bert",
        source=str(checkpoints["tiny-bert"]),
        precisions=["fp16", "fp32", "fp16"],
        out=tmp_path / "out",
        registry=tiny_registry,
    )
    assert list(bundle.manifest.precisions) == ["fp32", "fp16"]


def test_every_step_is_reported(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    steps: list[str] = []
    export_model(
        "tiny-bert",
        source=str(checkpoints["tiny-bert"]),
        precisions=BOTH,
        out=tmp_path / "out",
        registry=tiny_registry,
        report=steps.append,
    )
    assert steps == [
        "tiny-bert: directory tiny-bert",
        "graph: native front-end",
        "reference: 53 probes through the checkpoint",
        "certified: fp32",
        "certified: fp16",
    ]


# What is refused, and leaves nothing.


def test_vectors_outside_the_bound_make_no_bundle(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    registry = entry(tmp_path, bounds="{fp32: {max_abs_diff: 0}}")
    out = tmp_path / "new" / "out"
    with pytest.raises(
        ParityError,
        match=r"^mine fp32: largest difference \S+ > 0 over 23 probes \(worst: #\d+, role query, '.*\)$",
    ):
        export_model("mine", source=str(checkpoints["tiny-bert"]), out=out, registry=registry)
    assert list(out.parent.iterdir()) == []


def test_one_precision_outside_its_bound_takes_the_other_with_it(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    registry = entry(tmp_path, bounds="{fp16: {min_cosine: 1, max_abs_diff: 0}}")
    out = tmp_path / "new" / "out"
    with pytest.raises(
        ParityError,
        match=r"^mine fp16: largest difference \S+ > 0 and smallest cosine \S+ < 1 over 23 probes",
    ):
        export_model(
            "mine", source=str(checkpoints["tiny-bert"]), precisions=BOTH, out=out, registry=registry
        )
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        pytest.param("tiny-bert", ONE_WEIGHT, id="bert: one weight"),
        pytest.param("tiny-mpnet", ONE_WEIGHT, id="mpnet: one weight"),
        pytest.param("tiny-bert", with_attribute("Gelu", approximate="tanh"), id="bert: gelu by tanh"),
        pytest.param("tiny-bert", with_attribute("LayerNormalization", epsilon=1e-5), id="bert: epsilon"),
        pytest.param("tiny-mpnet", with_attribute("LayerNormalization", epsilon=1e-12), id="mpnet: epsilon"),
        pytest.param(
            "tiny-bert",
            with_constant("position_embeddings", lambda table: np.roll(table, 1, axis=0)),
            id="bert: positions from 1",
        ),
        pytest.param(
            "tiny-mpnet",
            with_constant("position_embeddings", lambda table: np.roll(table, 1, axis=0)),
            id="mpnet: positions from 1",
        ),
        pytest.param(
            "tiny-bert",
            with_constant("token_type_embeddings", lambda table: table[[0, 0]]),
            id="bert: one token type",
        ),
        pytest.param(
            "tiny-bert",
            with_constant("layer.0.query.weight", lambda weight: weight * np.sqrt(8)),
            id="bert: scores not scaled",
        ),
        pytest.param(
            "tiny-mpnet",
            with_constant("relative_bias.by_distance", lambda table: table[:, ::-1]),
            id="mpnet: distances the other way",
        ),
        pytest.param(
            "tiny-mpnet", with_constant("layer.1.value.bias", np.zeros_like), id="mpnet: a bias left out"
        ),
    ],
)
def test_a_graph_with_a_fault_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_registry: Registry, name: str, fault: Fault
) -> None:
    write = write_tiny_bert if name == "tiny-bert" else write_tiny_mpnet
    checkpoint = write(tmp_path / "checkpoint")
    # Embeddings as small as trained ones, where an epsilon counts.
    weights = load_file(checkpoint / "model.safetensors")
    for key in weights:
        if key.endswith("_embeddings.weight"):
            weights[key] *= np.float32(0.05)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "new" / "out"
    export_model(name, source=str(checkpoint), out=out, registry=tiny_registry)
    shutil.rmtree(out)
    let_native_be_wrong(monkeypatch, fault)
    with pytest.raises(ParityError, match=f"^{name} fp32: largest difference .* > 1e-05 over"):
        export_model(name, source=str(checkpoint), out=out, registry=tiny_registry)
    assert list(out.parent.iterdir()) == []


def test_a_failed_export_leaves_the_former_bundle_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bundles: dict[str, Bundle],
    checkpoints: dict[str, Path],
    tiny_registry: Registry,
) -> None:
    out = tmp_path / "out"
    shutil.copytree(bundles["tiny-bert"].directory, out)
    before = contents(out)
    let_native_be_wrong(monkeypatch, ONE_WEIGHT)
    with pytest.raises(ParityError, match="tiny-bert fp32"):
        export_model("tiny-bert", source=str(checkpoints["tiny-bert"]), out=out, registry=tiny_registry)
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_successful_export_replaces_the_former_bundle(
    tmp_path: Path, bundles: dict[str, Bundle], checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    out = tmp_path / "out"
    shutil.copytree(bundles["tiny-mpnet"].directory, out)
    export_model("tiny-bert", source=str(checkpoints["tiny-bert"]), out=out, registry=tiny_registry)
    bundle = Bundle(out)
    bundle.verify()
    assert bundle.manifest.model == "tiny-bert"
    assert list(out.glob("*fp16*")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_export_leaves_nothing(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    def interrupt(step: str) -> None:
        if step.startswith("certified"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_model(
            "tiny-bert",
            source=str(checkpoints["tiny-bert"]),
            out=tmp_path / "out",
            registry=tiny_registry,
            report=interrupt,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("width", "limit"),
    [
        pytest.param(16, 2_000, id="tokenizer"),
        pytest.param(16, 6_000, id="last bytes of the weights"),
        pytest.param(16, 20_000, id="graph"),
        pytest.param(128, 300_000, id="large weights"),
    ],
)
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, width: int, limit: int) -> None:
    pytest.importorskip("resource", reason="needs limits on file sizes")
    checkpoint = write_tiny_bert(tmp_path / "checkpoint", hidden_size=width, intermediate_size=4 * width)
    entry(tmp_path, dim=width)
    code = (
        "import resource, sys\n"
        "from paritas.errors import ExportError\n"
        "from paritas.export import export_model\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))\n"
        "try:\n"
        "    export_model('mine', source=sys.argv[2], precisions=('fp32', 'fp16'), out=sys.argv[3])\n"
        "except ExportError as error:\n"
        "    print(error)\n"
    )
    out = tmp_path / "bundles" / "mine"
    done = subprocess.run(
        [sys.executable, "-c", code, str(limit), str(checkpoint), str(out)],
        env={**os.environ, "PARITAS_REGISTRY": str(tmp_path / "entry.yaml")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"{out}: cannot be written: ")
    assert "File too large" in done.stdout
    assert done.stderr == ""
    assert list(out.parent.iterdir()) == []


def test_a_file_is_not_replaced(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    with pytest.raises(ExportError, match="out: is a file; --out names the bundle's directory"):
        export_model("tiny-bert", source=str(checkpoints["tiny-bert"]), out=out, registry=tiny_registry)
    assert out.read_text() == "mine"


def test_a_directory_of_other_files_is_not_replaced(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"out: holds other files and no bundle \(.*\); remove"):
        export_model("tiny-bert", source=str(checkpoints["tiny-bert"]), out=out, registry=tiny_registry)
    assert contents(out) == {"thesis.txt": b"mine"}


@pytest.mark.parametrize("manifest", ["{}", "whole"])
def test_what_lies_beside_a_manifest_is_not_deleted(
    tmp_path: Path,
    bundles: dict[str, Bundle],
    checkpoints: dict[str, Path],
    tiny_registry: Registry,
    manifest: str,
) -> None:
    out = tmp_path / "out"
    if manifest == "whole":
        shutil.copytree(bundles["tiny-bert"].directory, out)
    else:
        out.mkdir()
        (out / "manifest.json").write_text(manifest)
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"holds (other files and no bundle|thesis\.txt beside the bundle)"):
        export_model("tiny-bert", source=str(checkpoints["tiny-bert"]), out=out, registry=tiny_registry)
    assert (out / "thesis.txt").read_text() == "mine"


def test_a_link_to_a_bundle_stays_a_link(
    tmp_path: Path, bundles: dict[str, Bundle], checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    shutil.copytree(bundles["tiny-bert"].directory, tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    export_model(
        "tiny-bert", source=str(checkpoints["tiny-bert"]), out=tmp_path / "link", registry=tiny_registry
    )
    assert (tmp_path / "link").is_symlink()
    assert list(Bundle(tmp_path / "link").manifest.precisions) == ["fp32"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_an_empty_directory_is_filled(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    (tmp_path / "out").mkdir()
    bundle = export_model(
        "tiny-bert", source=str(checkpoints["tiny-bert"]), out=tmp_path / "out", registry=tiny_registry
    )
    bundle.verify()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_place_below_a_file_cannot_be_written(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExportError, match="out: cannot be written"):
        export_model(
            "tiny-bert",
            source=str(checkpoints["tiny-bert"]),
            out=tmp_path / "file" / "out",
            registry=tiny_registry,
        )


def test_an_unknown_model_is_answered_with_the_nearest(tmp_path: Path, tiny_registry: Registry) -> None:
    with pytest.raises(RegistryError, match="unknown model 'tiny-brt'; did you mean 'tiny-bert'"):
        export_model("tiny-brt", out=tmp_path / "out", registry=tiny_registry)


def test_an_unknown_precision_is_refused(tmp_path: Path, tiny_registry: Registry) -> None:
    with pytest.raises(ExportError, match="unknown precision 'int8'; expected fp32, fp16"):
        export_model("tiny-bert", precisions=["int8"], out=tmp_path / "out", registry=tiny_registry)
    with pytest.raises(ExportError, match="no precision given"):
        export_model("tiny-bert", precisions=[], out=tmp_path / "out", registry=tiny_registry)
    assert list(tmp_path.iterdir()) == []


# A registry entry that does not fit the checkpoint.


@pytest.mark.parametrize(
    ("facts", "fault"),
    [
        ({"dim": 32}, r"config\.json: hidden_size is 16, the registry's entry of mine says 32"),
        (
            {"network": "mpnet"},
            r"config\.json: model_type is 'bert', the registry's entry of mine says 'mpnet'",
        ),
        (
            {"max_length": 41},
            r"mine: roles\.query\.max_length is 41; the checkpoint's position table serves 40 tokens",
        ),
    ],
)
def test_an_entry_that_contradicts_the_checkpoint_is_refused(
    tmp_path: Path, checkpoints: dict[str, Path], facts: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ExportError, match=fault):
        export_model(
            "mine",
            source=str(checkpoints["tiny-bert"]),
            out=tmp_path / "out",
            registry=entry(tmp_path, **facts),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["entry.yaml"]


@pytest.mark.parametrize(("name", "longest"), [("tiny-bert", 40), ("tiny-mpnet", 40)])
def test_the_longest_texts_of_the_position_table_are_served(
    tmp_path: Path, checkpoints: dict[str, Path], name: str, longest: int
) -> None:
    network = name.removeprefix("tiny-")
    registry = entry(tmp_path, network=network, max_length=longest)
    bundle = export_model("mine", source=str(checkpoints[name]), out=tmp_path / "out", registry=registry)
    with Encoder(bundle.directory) as encoder:
        encoder.encode(["the " * 100], role="query")
        assert encoder.last_stats is not None
        assert encoder.last_stats.tokens == longest
    registry = entry(tmp_path, network=network, max_length=longest + 1)
    with pytest.raises(ExportError, match="serves 40 tokens"):
        export_model("mine", source=str(checkpoints[name]), out=tmp_path / "out", registry=registry)


def test_a_pooling_that_contradicts_the_checkpoints_own_is_refused(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(checkpoints["tiny-bert"], checkpoint)
    (checkpoint / "1_Pooling").mkdir()
    stated = {
        "word_embedding_dimension": 16,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
    }
    (checkpoint / "1_Pooling" / "config.json").write_text(json.dumps(stated), encoding="utf-8")
    with pytest.raises(
        ExportError, match=r"the checkpoint pools by mean, the registry's entry of mine says 'cls'"
    ):
        export_model("mine", source=str(checkpoint), out=tmp_path / "out", registry=entry(tmp_path))
    registry = entry(tmp_path, pooling="mean")
    bundle = export_model("mine", source=str(checkpoint), out=tmp_path / "out", registry=registry)
    assert bundle.manifest.contract.pooling == "mean"


def test_another_models_tokenizer_is_refused(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    checkpoint = write_tiny_bert(tmp_path / "checkpoint", vocab_size=60)
    shutil.copyfile(checkpoints["tiny-bert"] / "tokenizer.json", checkpoint / "tokenizer.json")
    with pytest.raises(
        SourceError, match=r"tokenizer\.json gives token id \d+, and the weights have 60 of them"
    ):
        export_model("mine", source=str(checkpoint), out=tmp_path / "out", registry=entry(tmp_path))


def test_pairs_need_a_second_token_type(tmp_path: Path, tiny_registry: Registry) -> None:
    checkpoint = write_tiny_bert(tmp_path / "checkpoint", type_vocab_size=1)
    with pytest.raises(
        SourceError, match=r"tokenizer\.json gives token type 1, and the weights have 1 of them"
    ):
        export_model("tiny-bert", source=str(checkpoint), out=tmp_path / "out", registry=tiny_registry)


@pytest.mark.parametrize(
    ("file", "stated", "fault"),
    [
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True, "include_prompt": True}, None),
        ("1_Pooling/config.json", {"pooling_mode": "cls", "include_prompt": True}, None),
        ("1_Pooling/config.json", {"pooling_mode": "mean"}, "pools by mean"),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, "pools by cls, mean"),
        ("modules.json", [{"type": "a.Transformer"}, {"type": "b.Pooling"}, {"type": "c.Normalize"}], None),
        (
            "modules.json",
            [{"type": "a.Transformer"}, {"type": "b.Pooling"}, {"type": "c.Dense"}],
            "with Dense",
        ),
        ("modules.json", {"not": "a list"}, "cannot be read"),
    ],
)
def test_what_follows_the_network_must_be_what_is_exported(
    tmp_path: Path,
    checkpoints: dict[str, Path],
    tiny_registry: Registry,
    file: str,
    stated: object,
    fault: str | None,
) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(checkpoints["tiny-bert"], checkpoint)
    (checkpoint / file).parent.mkdir(exist_ok=True)
    (checkpoint / file).write_text(json.dumps(stated), encoding="utf-8")

    def export() -> Bundle:
        return export_model("tiny-bert", source=str(checkpoint), out=tmp_path / "out", registry=tiny_registry)

    if fault is None:
        export().verify()
    else:
        with pytest.raises(ExportError, match=fault):
            export()


def test_the_graph_for_accelerators_is_certified_too(
    tmp_path: Path,
    checkpoints: dict[str, Path],
    tiny_registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    convert = exporter.half_compute

    def wrong(model: onnx.ModelProto, directory: Path, weights: WeightsFile) -> onnx.ModelProto:
        result = convert(model, directory, weights)
        for node in result.graph.node:
            if node.op_type == "Softmax":
                node.op_type = "Identity"
                del node.attribute[:]
        return result

    monkeypatch.setattr(exporter, "half_compute", wrong)
    with pytest.raises(ParityError, match="tiny-bert fp16: smallest cosine"):
        export_model(
            "tiny-bert",
            source=str(checkpoints["tiny-bert"]),
            precisions=("fp16",),
            out=tmp_path / "out",
            registry=tiny_registry,
        )
