"""The weights of a checkpoint directory, one tensor at a time.

`model.safetensors`, whole or in shards, is read by memory mapping. `pytorch_model.bin` is a pickle, so it is
read only by torch with `weights_only=True`, which refuses anything but tensors and plain containers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from paritas.errors import MissingExtraError, SourceError
from paritas.export.checkpoint.files import (
    PYTORCH,
    PYTORCH_INDEX,
    SAFETENSORS,
    SAFETENSORS_INDEX,
    read_json,
)

_FLOATS = {"F16", "BF16", "F32", "F64"}


class Weights(Protocol):
    """Named tensors, read when asked for."""

    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def __getitem__(self, name: str) -> NDArray[np.float32]: ...


def weight_files(directory: Path) -> list[str]:
    """Return the names of the files that hold the weights, safetensors before pickles.

    Raises:
        SourceError: there are none.
    """
    if (directory / SAFETENSORS).exists():
        return [SAFETENSORS]
    if (directory / SAFETENSORS_INDEX).exists():
        return shards(directory, SAFETENSORS_INDEX)
    if (directory / PYTORCH).exists():
        return [PYTORCH]
    if (directory / PYTORCH_INDEX).exists():
        return shards(directory, PYTORCH_INDEX)
    raise SourceError(
        f"{directory}: no weights; expected {SAFETENSORS} or {PYTORCH}, or the index of one in shards"
    )


def shards(directory: Path, index: str) -> list[str]:
    """Return the shard names that an index lists, each checked to be a plain file name."""
    weight_map = read_json(directory / index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SourceError(f"{directory / index}: no weight_map")
    names = sorted(set(map(str, weight_map.values())))
    for name in names:
        if Path(name).name != name or name == "..":
            raise SourceError(f"{directory / index}: shard {name!r} is not a plain file name")
    return names


def open_weights(directory: Path) -> Weights:
    """Open a checkpoint's weights.

    Raises:
        SourceError: no weights, or a file that is damaged.
        MissingExtraError: only a pickle is there and torch is not installed.
    """
    names = weight_files(directory)
    paths = [directory / name for name in names]
    weights: Weights = _PickledWeights(paths) if names[0].endswith(".bin") else _SafetensorsWeights(paths)
    if len(names) > 1 or names[0] not in (SAFETENSORS, PYTORCH):
        _check_index(directory, weights)
    return weights


def _check_index(directory: Path, weights: Weights) -> None:
    """Refuse shards with other weights than their index says: transformers 4.57 makes up what it lacks."""
    index = next(name for name in (SAFETENSORS_INDEX, PYTORCH_INDEX) if (directory / name).exists())
    listed, stored = set(read_json(directory / index)["weight_map"]), set(weights.shapes())
    if listed != stored:
        name = min(listed ^ stored)
        where = "in no shard" if name in listed else "in a shard, and not listed"
        raise SourceError(f"{directory / index}: weight_map: {name!r} is {where}; save the model again")


class _SafetensorsWeights:
    def __init__(self, paths: list[Path]) -> None:
        from safetensors import SafetensorError, safe_open

        self._files: dict[str, Any] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for path in paths:
            try:
                opened: Any = safe_open(path, framework="np")
            except (SafetensorError, OSError) as error:
                raise SourceError(f"{path}: not a readable safetensors file: {error}") from error
            for name in opened.keys():  # noqa: SIM118 - safe_open is no mapping
                self._files[name] = opened
                self._shapes[name] = tuple(opened.get_slice(name).get_shape())

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        opened = self._files[name]
        dtype = opened.get_slice(name).get_dtype()
        if dtype not in _FLOATS:
            raise SourceError(f"weight {name!r} has dtype {dtype}; expected one of {sorted(_FLOATS)}")
        if dtype == "BF16":
            return _bfloat16(opened, name)
        return np.asarray(opened.get_tensor(name), dtype=np.float32)


def _bfloat16(opened: Any, name: str) -> NDArray[np.float32]:
    """Widen a bfloat16 tensor: its bits are the upper half of the float32's."""
    # onnx brings ml_dtypes, whose import gives NumPy the dtype that safetensors looks for.
    import ml_dtypes  # noqa: F401

    return np.asarray(opened.get_tensor(name)).astype(np.float32)


class _PickledWeights:
    def __init__(self, paths: list[Path]) -> None:
        self._state: dict[str, Any] = {}
        for path in paths:
            self._state.update(_unpickled(path))

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self._state.items()}

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        tensor = self._state[name]
        if not tensor.is_floating_point():
            raise SourceError(f"weight {name!r} has dtype {tensor.dtype}; expected a float")
        return np.asarray(tensor.detach().float().numpy())


def _unpickled(path: Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(
            f"{path} is a pickle, which is only read through torch (weights_only=True); "
            f"type: pip install torch, or convert the checkpoint to {SAFETENSORS}"
        ) from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's message goes on to advise weights_only=False, which is what must not be done.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceError(f"{path}: torch refused it with weights_only=True: {reason}") from error
    if not isinstance(state, dict) or not all(torch.is_tensor(value) for value in state.values()):
        raise SourceError(f"{path}: expected a state dict of tensors and nothing else")
    return state
