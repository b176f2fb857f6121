"""First loads that are killed, stopped or run two at a time, and full disks: right vectors afterwards."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from paritas.engine.bundle.directory import Bundle
from paritas.engine.runtime import optimized
from tests.faults.models import vectors
from tests.faults.steps import Program, some

LOAD = """
import sys
from paritas import Encoder
from paritas.engine.bundle import digest_cache
digest_cache._TICK_NS = -3_600_000_000_000
Encoder(sys.argv[1]).encode(["the river"], role="query")
"""
FULL = """
import resource, sys
import numpy as np
from paritas import Encoder
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
vectors = Encoder(sys.argv[2], threads=2, workers=2, max_batch_tokens=16).encode(sys.argv[4:], role="query")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
np.save(sys.argv[3], vectors)
"""


@pytest.fixture
def bundle(bundles: dict[str, Bundle]) -> Path:
    return bundles["tiny-bert"].directory


@pytest.fixture
def right(bundle: Path) -> NDArray[np.float32]:
    return vectors(bundle, cache=False)


def partials(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if "partial" in path.name]


def test_killed_at_steps_of_a_first_load(
    bundle: Path, home: Path, right: NDArray[np.float32], whole: bool
) -> None:
    load = Program(LOAD, bundle, watched=home)
    count = len(load.steps())
    assert count > 20
    for step in some(count, None if whole else 6):
        forget(home)
        assert load.killed_at(step)
        assert np.array_equal(vectors(bundle), right)
        assert np.array_equal(vectors(bundle), right)
        assert partials(home) == [] or whole  # a small file may stay until the next that is written there
    print(f"first load: {count} steps")


def test_killed_anywhere_in_a_first_load(
    bundle: Path, home: Path, right: NDArray[np.float32], whole: bool
) -> None:
    moments = random.Random(0)
    for _ in range(100 if whole else 2):
        forget(home)
        Program(LOAD, bundle, watched=home).kill_after(moments.uniform(0.1, 0.8))
        assert np.array_equal(vectors(bundle), right)


def test_a_second_process_at_steps_of_a_first_load(
    bundle: Path, home: Path, right: NDArray[np.float32], whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimized, "_PATIENCE_S", 0.05)
    load = Program(LOAD, bundle, watched=home)
    count = len(load.steps())

    def second() -> None:
        assert np.array_equal(vectors(bundle), right)

    for step in some(count, None if whole else 6):
        forget(home)
        assert load.stopped_at(step, second)
        assert np.array_equal(vectors(bundle), right)
        assert partials(home) == []


def forget(home: Path) -> None:
    """Remove the store, which holds nothing but the cache here."""
    shutil.rmtree(home, ignore_errors=True)


def test_a_full_disk_costs_the_cache_and_nothing_else(
    bundle: Path, home: Path, tmp_path: Path, whole: bool
) -> None:
    texts = ["the river", "night train", "a"]
    sizes = [path.stat().st_size for path in bundle.iterdir()]
    limits = {0, 100, 1_000, *(size // 2 for size in sizes), *sizes} if whole else {0, 1_000, max(sizes)}
    found = []
    for limit in [*sorted(limits), 10**9]:
        forget(home)
        out = tmp_path / "vectors.npy"
        done = subprocess.run(
            [sys.executable, "-c", FULL, str(limit), str(bundle), str(out), *texts],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PARITAS_HOME": str(home)},
        )
        assert done.returncode == 0, done.stderr
        assert partials(home) == []
        kept = list((home / "cache" / "prepared").glob("*"))
        assert kept or "no optimized graph can be kept" in done.stderr
        found.append(np.load(out))
    assert kept
    assert all(np.array_equal(each, found[-1]) for each in found)
