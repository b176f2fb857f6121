"""Weights as checkpoints hold them: shards, other floats, pickles that may be malicious."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from paritas.errors import MissingExtraError, SourceError
from paritas.export.checkpoint.sources import open_checkpoint
from paritas.export.checkpoint.weights import open_weights, weight_files
from paritas.export.networks.weights import open_network
from tests.unit.export.checkpoint.checkpoints import NAME, model_of, opened, refusal, shard


def test_sharded_weights_read_as_whole_ones(tiny: Path) -> None:
    whole = load_file(tiny / "model.safetensors")
    shard(tiny)
    weights = open_weights(tiny)
    assert weights.shapes() == {name: value.shape for name, value in whole.items()}
    for name, value in whole.items():
        np.testing.assert_array_equal(weights[name], value)
    assert len(weight_files(tiny)) == 2
    assert set(opened(model_of(), str(tiny)).digests) == {
        "config.json",
        "tokenizer.json",
        "model.safetensors.index.json",
        *weight_files(tiny),
    }


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/b", "..", "."])
def test_shard_name_that_climbs_is_refused(tiny: Path, name: str) -> None:
    (tiny.parent / "evil").write_bytes((tiny / "model.safetensors").read_bytes())
    (tiny / "model.safetensors").unlink()
    (tiny / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    assert name in refusal(model_of(), str(tiny))


@pytest.mark.parametrize("index", ["[]", "{", '{"weight_map": {}}', '{"weight_map": ["a"]}'])
def test_shard_index_that_is_none_is_refused(tiny: Path, index: str) -> None:
    (tiny / "model.safetensors").unlink()
    (tiny / "model.safetensors.index.json").write_text(index)
    assert "model.safetensors.index.json" in refusal(model_of(), str(tiny))


def test_damaged_safetensors_are_refused(tiny: Path) -> None:
    (tiny / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes()[:-5])
    with pytest.raises(SourceError, match=r"model\.safetensors: not a readable safetensors file"):
        open_weights(tiny)


def write_safetensors(path: Path, dtype: str, values: dict[str, tuple[tuple[int, ...], bytes]]) -> None:
    """Write the format by hand, so that reading is tested against its definition and not its library."""
    header: dict[str, Any] = {}
    data = b""
    for name, (shape, content) in values.items():
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def half(value: NDArray[np.float32]) -> tuple[bytes, NDArray[np.float32]]:
    rounded = value.astype("<f2")
    return rounded.tobytes(), rounded.astype(np.float32)


def brain(value: NDArray[np.float32]) -> tuple[bytes, NDArray[np.float32]]:
    upper = value.view(np.uint32) >> 16
    return upper.astype("<u2").tobytes(), (upper << 16).view(np.float32)


def double(value: NDArray[np.float32]) -> tuple[bytes, NDArray[np.float32]]:
    return value.astype("<f8").tobytes(), value


@pytest.mark.parametrize(("dtype", "stored"), [("F16", half), ("BF16", brain), ("F64", double)])
def test_other_floats_read_as_float32(
    tiny: Path, dtype: str, stored: Callable[[NDArray[np.float32]], tuple[bytes, NDArray[np.float32]]]
) -> None:
    whole = load_file(tiny / "model.safetensors")
    values = {name: (value.shape, stored(value)[0]) for name, value in whole.items()}
    write_safetensors(tiny / "model.safetensors", dtype, values)
    weights = open_weights(tiny)
    for name, value in whole.items():
        assert weights[name].dtype == np.float32
        np.testing.assert_array_equal(weights[name], stored(value)[1])


def test_bfloat16_reads_where_nothing_else_has_taught_numpy_the_type(tiny: Path) -> None:
    write_safetensors(tiny / "model.safetensors", "BF16", {"x": ((2,), b"\x80\x3f\x00\xc0")})
    code = (
        "import sys; from pathlib import Path; from paritas.export.checkpoint.weights import open_weights; "
        "assert 'ml_dtypes' not in sys.modules; print(open_weights(Path(sys.argv[1]))['x'].tolist())"
    )
    command = [sys.executable, "-P", "-c", code, str(tiny)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[1.0, -2.0]\n"


def test_weights_that_are_no_floats_are_refused(tiny: Path) -> None:
    write_safetensors(tiny / "model.safetensors", "I32", {"x": ((1,), b"\0\0\0\0")})
    with pytest.raises(SourceError, match="'x' has dtype I32"):
        open_weights(tiny)["x"]


class _Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def pickled_by_torch(value: object, path: Path) -> None:
    import torch

    torch.save(value, path)


def pickled_plainly(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=2))


def test_pickle_reads_as_the_safetensors(tiny: Path) -> None:
    import torch

    whole = load_file(tiny / "model.safetensors")
    torch.save({name: torch.from_numpy(value) for name, value in whole.items()}, tiny / "pytorch_model.bin")
    (tiny / "model.safetensors").unlink()
    weights = open_weights(tiny)
    assert weights.shapes() == {name: value.shape for name, value in whole.items()}
    for name, value in whole.items():
        np.testing.assert_array_equal(weights[name], value)
    assert set(opened(model_of(), str(tiny)).digests) == {
        "config.json",
        "tokenizer.json",
        "pytorch_model.bin",
    }


@pytest.mark.parametrize("write", [pickled_by_torch, pickled_plainly])
def test_malicious_pickle_is_refused_and_does_nothing(
    tiny: Path, tmp_path: Path, write: Callable[[object, Path], None]
) -> None:
    (tiny / "model.safetensors").unlink()
    write({"embeddings.word_embeddings.weight": _Trap(tmp_path / "sprung")}, tiny / "pytorch_model.bin")
    with pytest.raises(SourceError, match=r"pytorch_model\.bin: torch refused it"):
        open_network(tiny)
    with open_checkpoint(NAME, model_of(), str(tiny)):
        pass
    assert not (tmp_path / "sprung").exists()
    # The trap itself works: a reader that trusts pickles would have made the folder.
    pickle.loads(pickle.dumps(_Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


def test_pickle_without_torch_names_what_to_install(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (tiny / "model.safetensors").unlink()
    (tiny / "pytorch_model.bin").write_bytes(b"whatever")
    with pytest.raises(MissingExtraError, match="pip install torch"):
        open_weights(tiny)


def test_a_pickle_of_more_than_tensors_is_refused(tmp_path: Path) -> None:
    import torch

    torch.save({"epoch": 3, "state_dict": {"w": torch.ones(2)}}, tmp_path / "pytorch_model.bin")
    with pytest.raises(SourceError, match="expected a state dict of tensors"):
        open_weights(tmp_path)
