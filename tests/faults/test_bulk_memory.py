"""Memory over a long job: flat, however many rows come."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from paritas.export import export_model

pytestmark = pytest.mark.bulk

ROWS = 200_000
# Tells the resident memory now and then, with the rows that were done.
WATCHED = """
import json, sys, time
from paritas.bulk import Request, encode
from paritas.engine.encoder import Encoder
from paritas.engine.runtime.memory import resident_bytes


class Watch:
    def __init__(self):
        self.seen, self.done, self.next = [], 0, 0.0

    def planning(self, done_bytes, total_bytes): ...

    def begin(self, rows, done): ...

    def finishing(self): ...

    def encoded(self, rows, tokens):
        self.done += rows
        if time.monotonic() > self.next:
            self.seen.append((self.done, resident_bytes()))
            self.next = time.monotonic() + 0.2


watch = Watch()
bundle, corpus, out = sys.argv[1:]
with Encoder(bundle, precision="int8") as encoder:
    encode(encoder, Request(inputs=[corpus], out=out, shard_rows=4096), progress=watch)
print(json.dumps(watch.seen))
"""


def test_memory_is_flat_over_two_hundred_thousand_rows(tmp_path: Path) -> None:
    """The median of the last tenth within 5 % of that of the second."""
    bundle = export_model("all-MiniLM-L6-v2", precisions=("fp32", "int8"), out=tmp_path / "bundle")
    with (tmp_path / "corpus.jsonl").open("w") as file:
        file.writelines(json.dumps({"_id": f"{n}", "text": f"row {n}"}) + "\n" for n in range(ROWS))
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, bundle.directory, tmp_path / "corpus.jsonl", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)

    def median(tenth: int) -> float:
        sizes = sorted(size for rows, size in seen if tenth <= rows * 10 // ROWS < tenth + 1)
        return float(sizes[len(sizes) // 2])

    second, last = median(1), median(9)
    print(f"second tenth {second / 2**20:.0f} MiB, last tenth {last / 2**20:.0f} MiB")
    assert last <= 1.05 * second
