"""Ray: the same bytes from a cluster of two nodes, one of which is killed midway; a dataset of one's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from tests.unit.bulk.corpora import documents, parts, run, write_jsonl

pytestmark = pytest.mark.ray

# In a process of its own: warnings of Ray are not errors of ours.
WORK = """
import json, sys
from paritas.bulk import Request
from paritas.bulk.ray import encode
from paritas.engine.encoder import Encoder
bundle, corpus, out = sys.argv[1:]
with Encoder(bundle) as encoder:
    request = Request(inputs=[corpus], out=out, shard_rows=16)
    summary = encode(encoder, request, address="127.0.0.2:6399", cpus=1)
print(json.dumps({"rows": summary.rows, "workers": summary.workers}))
"""
DATASET = """
import json, sys
import numpy as np
import ray
from paritas.bulk.ray import EncodeBatch
from paritas.engine.encoder import Encoder
bundle, corpus = sys.argv[1:]
ray.init(address="127.0.0.2:6399", log_to_driver=False, logging_level="ERROR")
dataset = ray.data.read_json(corpus, lines=True).map_batches(
    EncodeBatch,
    fn_constructor_kwargs={"model": bundle, "cpus": 1, "title": "title"},
    num_cpus=1,
    compute=ray.data.ActorPoolStrategy(size=1),
)
rows = {row["_id"]: row for row in dataset.take_all()}
with Encoder(bundle) as encoder:
    texts = [(row["title"], row["text"]) for row in rows.values()]
    expected = encoder.encode(texts, role="passage")
assert np.array_equal(np.stack([row["vector"] for row in rows.values()]), expected)
print(json.dumps({"rows": len(rows)}))
"""


def ray_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "ray", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=ENVIRONMENT,
    )


@pytest.fixture
def second_node() -> Iterator[Callable[[], None]]:
    """Two nodes on this machine's own addresses, one CPU each; yields what kills the second."""
    # Ray takes 127.0.0.1 for the address that other machines have for this one.
    ray_command(
        *("start", "--head", "--node-ip-address=127.0.0.2", "--port=6399", "--num-cpus=1"),
        "--include-dashboard=false",
    )
    try:
        ray_command("start", "--address=127.0.0.2:6399", "--node-ip-address=127.0.0.3", "--num-cpus=1")

        def kill() -> None:
            subprocess.run(["pkill", "-9", "-f", "raylet.*127.0.0.3"], check=True)

        yield kill
    finally:
        ray_command("stop", "--force")


ENVIRONMENT = {
    **os.environ,
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


def begun(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def answer(process: subprocess.Popen[str]) -> dict[str, int]:
    try:
        told, errors = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-4000:]
    found: dict[str, int] = json.loads(told.splitlines()[-1])
    return found


@pytest.mark.parametrize("killed", [False, True], ids=["whole", "one killed"])
def test_a_cluster_of_two_nodes_gives_the_same_bytes(
    bert: Encoder,
    bundles: dict[str, Bundle],
    tmp_path: Path,
    second_node: Callable[[], None],
    killed: bool,
) -> None:
    corpus = write_jsonl(tmp_path / "corpus.jsonl", documents(1600))
    run(bert, tmp_path / "expected", corpus)
    process = begun(WORK, bundles["tiny-bert"].directory, corpus, tmp_path / "out")
    if killed:
        end = time.monotonic() + 120
        while len(list((tmp_path / "out").glob("part-*"))) < 20:
            assert time.monotonic() < end
            time.sleep(0.02)
        second_node()
    told = answer(process)
    assert parts(tmp_path / "out") == parts(tmp_path / "expected")
    assert told["rows"] == 1600
    assert killed or told["workers"] == 2


@pytest.mark.usefixtures("second_node")
def test_a_dataset_of_ones_own(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "corpus.jsonl", documents(50))
    assert answer(begun(DATASET, bundles["tiny-bert"].directory, corpus)) == {"rows": 50}
