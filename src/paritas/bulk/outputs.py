"""What is made of the shards when all are there: a file of all vectors and one of their ids, or an index."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from paritas.bulk.folders import Folder
from paritas.bulk.indexing import Built, build_from_job
from paritas.bulk.ledger import OUTPUTS, PLAN, part_name
from paritas.bulk.objects import is_url
from paritas.bulk.plan import Plan, VectorType
from paritas.bulk.preparing import Prepared
from paritas.bulk.progress import Progress
from paritas.bulk.request import Request
from paritas.bulk.shards import read_tables, vectors_of
from paritas.engine.encoder import Encoder
from paritas.engine.index import ScalarType, VectorIndex, check_target
from paritas.errors import InputError, JobError

INDEX = "index"
_STORED: dict[VectorType, ScalarType] = {"float32": "f32", "float16": "f16", "int8": "i8"}


def check_output(encoder: Encoder, request: Request) -> None:
    """Refuse an index that cannot be made, before anybody encodes a million texts for it.

    Raises:
        InputError: the folder is in a store, ids may come twice, or the dtype does not fit the model.
        JobError: something is in the index's place that no job made.
        VectorIndexError: the index's directory holds other files, or nothing can be written there.
    """
    if request.output != "index":
        return
    if is_url(request.out):
        raise InputError(
            f"{request.out}: an index is files to be mapped, in a directory; write Parquet there, and type: "
            f"paritas index {request.out} --out DIRECTORY"
        )
    if request.on_duplicate_id == "keep":
        raise InputError("an index has each id once; type: --on-duplicate-id first or last")
    VectorIndex(encoder, dtype=_STORED[request.dtype]).close()
    target = Path(request.out) / INDEX
    if os.path.lexists(target) and not (Path(request.out) / PLAN).exists():
        raise JobError(f"{target}: is there already, and no job made it; name another --out")
    check_target(target)


def write_outputs(encoder: Encoder, ready: Prepared, progress: Progress) -> Built | None:
    """Write what is asked for beside the shards, if anything is; return how an index went.

    The vectors stand in the order of the input; line by line `ids.jsonl` has the id of each, as JSON.
    """
    folder, plan = ready.folder, ready.plan
    if plan.spec.output == "index":
        return build_from_job(
            encoder,
            folder,
            plan,
            ready.sources,
            Path(folder.place) / INDEX,
            dtype=_STORED[plan.spec.dtype],
            progress=progress,
        )
    if plan.spec.output != "parquet":
        _write_file(folder, plan)
    return None


def _write_file(folder: Folder, plan: Plan) -> None:
    ids, vectors = OUTPUTS[plan.spec.output]
    with folder.written(ids) as file:
        for table in read_tables(folder, plan):
            encode = msgspec.json.encode
            file.writelines(encode(id_) + b"\n" for id_ in table.column("id").to_pylist())
    with folder.written(vectors) as file:
        (_write_npy if plan.spec.output == "npy" else _write_safetensors)(file, folder, plan)


def remove_shards(folder: Folder, plan: Plan) -> None:
    """Remove shards that were the way to another output."""
    if plan.spec.output != "parquet":
        below = part_name(plan, 0).rpartition("/")[0] + "/"
        for name in folder.names(below):
            folder.remove(f"{below}{name}")


def _write_npy(file: IO[bytes], folder: Folder, plan: Plan) -> None:
    header = {
        "descr": np.dtype(plan.spec.dtype).newbyteorder("<").str,
        "fortran_order": False,
        "shape": (plan.rows, plan.spec.dim),
    }
    np.lib.format.write_array_header_1_0(file, header)
    for table in read_tables(folder, plan):
        file.write(vectors_of(table, plan).tobytes())


def _write_safetensors(file: IO[bytes], folder: Folder, plan: Plan) -> None:
    """Write the tensors `vectors`, `tokens` and `truncated`.

    The package's own writer wants all of them in memory. The format is a length, a header in JSON, and the
    tensors end to end (github.com/huggingface/safetensors, README).
    """
    names = {"float32": "F32", "float16": "F16", "int8": "I8"}
    width = np.dtype(plan.spec.dtype).itemsize * plan.spec.dim
    tensors: list[tuple[str, str, list[int], int, Callable[[Any], NDArray[Any]]]] = [
        ("vectors", names[plan.spec.dtype], [plan.rows, plan.spec.dim], width, lambda t: vectors_of(t, plan)),
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
        for table in read_tables(folder, plan):
            file.write(np.ascontiguousarray(values(table)).tobytes())
