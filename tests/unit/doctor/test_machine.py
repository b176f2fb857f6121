"""The machine as the doctor sees it: limits of memory, and the runtime."""

from __future__ import annotations

from pathlib import Path

import pytest

from paritas.doctor import examine
from paritas.doctor.machine import cgroup_memory_limit
from paritas.engine.runtime import cpus


def test_a_machine_with_nothing_exported_is_well(home: Path) -> None:
    found = examine()
    assert (found.ok, found.problems, found.bundles) == (True, [], [])
    assert found.versions.keys() >= {"paritas", "python", "numpy", "tokenizers", "usearch"}
    assert "CPUExecutionProvider" in found.onnxruntime.providers
    assert (found.store.path, found.store.writable, found.store.cache_bytes) == (str(home), True, 0)
    assert not home.exists()


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"memory.max": "max\n"}, None),
        ({"memory.max": "1000000\n"}, 1_000_000),
        ({"memory/memory.limit_in_bytes": "2000000\n"}, 2_000_000),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({"memory.max": "lots\n", "pod/memory.max": "7\n", "pod/app/memory.max": "9\n"}, 7),
        ({"memory.max": "8\n", "pod/other/memory.max": "7\n"}, 8),
        ({"cpu/memory.max": "7\n"}, None),
    ],
)
def test_the_tightest_memory_limit_of_this_cgroup_and_its_parents_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], limit: int | None
) -> None:
    (tmp_path / "own").write_text("0::/pod/app\n")
    own = tmp_path / "own"
    monkeypatch.setattr(cpus, "Path", lambda path: own if path == "/proc/self/cgroup" else Path(path))
    for name, content in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(content)
    assert cgroup_memory_limit(tmp_path / "cgroup") == limit


@pytest.mark.parametrize(("value", "problems"), [("1", 0), ("0", 1), ("", 1)])
def test_telemetry_that_the_user_asked_for_is_shown(
    monkeypatch: pytest.MonkeyPatch, value: str, problems: int
) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", value)
    found = examine()
    assert (len(found.problems), found.ok) == (problems, True)
    assert found.onnxruntime.telemetry == value
