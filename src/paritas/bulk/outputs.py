"""One file of all vectors, .npy or safetensors, made of the shards when all are there; the ids beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from paritas.bulk.folders import Folder
from paritas.bulk.ledger import part_name
from paritas.bulk.plan import Plan
from paritas.bulk.shards import read_table

IDS = "ids.jsonl"
_FILES = {"npy": "vectors.npy", "safetensors": "vectors.safetensors"}


def write_outputs(folder: Folder, plan: Plan) -> list[str]:
    """Write what is asked for beside the shards, if anything is, and return the files' names.

    The vectors stand in the order of the input; line by line `ids.jsonl` has the id of each, as JSON.
    """
    output = plan.spec.output
    if output == "parquet":
        return []
    with folder.written(IDS) as file:
        for table in _tables(folder, plan):
            encode = msgspec.json.encode
            file.writelines(encode(id_) + b"\n" for id_ in table.column("id").to_pylist())
    with folder.written(_FILES[output]) as file:
        (_write_npy if output == "npy" else _write_safetensors)(file, folder, plan)
    return [IDS, _FILES[output]]


def remove_shards(folder: Folder, plan: Plan) -> None:
    """Remove shards that were the way to another output."""
    if plan.spec.output != "parquet":
        below = part_name(plan, 0).rpartition("/")[0] + "/"
        for name in folder.names(below):
            folder.remove(f"{below}{name}")


def _tables(folder: Folder, plan: Plan) -> Iterator[Any]:
    for number in range(len(plan.shards)):
        yield read_table(folder, part_name(plan, number))


def _vectors(table: Any, plan: Plan) -> NDArray[Any]:
    flat = table.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, plan.spec.dtype).reshape(-1, plan.spec.dim)


def _write_npy(file: IO[bytes], folder: Folder, plan: Plan) -> None:
    header = {
        "descr": np.dtype(plan.spec.dtype).newbyteorder("<").str,
        "fortran_order": False,
        "shape": (plan.rows, plan.spec.dim),
    }
    np.lib.format.write_array_header_1_0(file, header)
    for table in _tables(folder, plan):
        file.write(_vectors(table, plan).tobytes())


def _write_safetensors(file: IO[bytes], folder: Folder, plan: Plan) -> None:
    """Write the tensors `vectors`, `tokens` and `truncated`.

    The package's own writer wants all of them in memory. The format is a length, a header in JSON, and the
    tensors end to end (github.com/huggingface/safetensors, README).
    """
    names = {"float32": "F32", "float16": "F16", "int8": "I8"}
    width = np.dtype(plan.spec.dtype).itemsize * plan.spec.dim
    tensors: list[tuple[str, str, list[int], int, Callable[[Any], NDArray[Any]]]] = [
        ("vectors", names[plan.spec.dtype], [plan.rows, plan.spec.dim], width, lambda t: _vectors(t, plan)),
        ("tokens", "I32", [plan.rows], 4, lambda t: t.column("tokens").to_numpy()),
        ("truncated", "BOOL", [plan.rows], 1, lambda t: t.column("truncated").to_numpy()),
    ]
    header: dict[str, Any] = {}
    begin = 0
    for name, dtype, shape, row_bytes, _ in tensors:
        end = begin + row_bytes * plan.rows
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        begin = end
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    file.write(len(content).to_bytes(8, "little") + content)
    for _, _, _, _, values in tensors:
        for table in _tables(folder, plan):
            file.write(np.ascontiguousarray(values(table)).tobytes())
