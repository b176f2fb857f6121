"""Small corpora in every form, and what is read back of vectors."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from paritas.bulk import Request, Summary, encode
from paritas.engine.encoder import Encoder

WORDS = (
    "the river ferry leaves in morning train to zürich why is sky blue price of an apple 日本 island".split()
)


def documents(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Documents of one to thirty words, some with a title; no two texts are alike."""
    drawn = random.Random(seed)
    made = []
    for number in range(count):
        text = " ".join(drawn.choices(WORDS, k=drawn.randint(1, 30))) + f" {number}"
        made.append({"_id": f"d{number}", "title": drawn.choice(["", "Island", "Straße"]), "text": text})
    return made


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def texts(rows: Sequence[dict[str, Any]], *, pair: bool) -> list[Any]:
    if pair:
        return [(row.get("title", ""), row["text"]) for row in rows]
    return [f"{row['title']} {row['text']}" if row.get("title") else row["text"] for row in rows]


def run(encoder: Encoder, out: Path, *inputs: Path | str, **options: Any) -> Summary:
    """Encode files into a folder, in small shards unless told otherwise."""
    options.setdefault("shard_rows", 16)
    return encode(encoder, Request(inputs=[str(given) for given in inputs], out=str(out), **options))


def table(out: Path) -> pa.Table:
    """All shards of a folder, in order."""
    return pa.concat_tables([pq.read_table(path) for path in sorted(out.glob("part-*.parquet"))])


def vectors(rows: pa.Table) -> NDArray[Any]:
    column = rows.column("vector").combine_chunks()
    width = column.type.list_size
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(-1, width)


def parts(out: Path) -> dict[str, bytes]:
    """The files that must be the same bytes, however a job came to its end."""
    names = ("part-*.parquet", "_job/rejects.jsonl", "vectors.*", "ids.jsonl")
    return {path.name: path.read_bytes() for name in names for path in sorted(out.glob(name))}
