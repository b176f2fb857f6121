"""How many CPUs a process may use, affinity or quota, and which instructions they have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paritas.engine.runtime import cpus
from paritas.engine.runtime.cpus import available_cpus, cpu_name, dot_product, instructions


@pytest.fixture(autouse=True)
def host_of_64(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that lets this process run everywhere."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)), raising=False)


def version_2(directory: Path, content: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cpu.max").write_text(content)
    return directory


def version_1(directory: Path, quota: str, period: str = "100000\n") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cpu.cfs_quota_us").write_text(quota)
    (directory / "cpu.cfs_period_us").write_text(period)
    return directory


def belongs_to(monkeypatch: pytest.MonkeyPatch, directory: Path, lines: str) -> None:
    """Let this process be in other cgroups than it is."""
    listing = directory / "proc-self-cgroup"
    listing.write_text(lines)
    monkeypatch.setattr(cpus, "Path", lambda path: listing if path == "/proc/self/cgroup" else Path(path))


def test_without_cgroups_the_affinity_counts(tmp_path: Path) -> None:
    assert available_cpus(tmp_path) == 64
    assert available_cpus(tmp_path / "absent") == 64


@pytest.mark.parametrize(
    ("content", "count"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("1 100000\n", 1),
        ("6400000 100000\n", 64),
        ("12800000 100000\n", 64),
        ("max 100000\n", 64),
    ],
)
def test_a_quota_of_version_2_is_rounded_up(tmp_path: Path, content: str, count: int) -> None:
    assert available_cpus(version_2(tmp_path, content)) == count


@pytest.mark.parametrize("controller", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize(("quota", "count"), [("300000\n", 3), ("250000\n", 3), ("-1\n", 64)])
def test_a_quota_of_version_1_is_rounded_up(tmp_path: Path, controller: str, quota: str, count: int) -> None:
    version_1(tmp_path / controller, quota)
    assert available_cpus(tmp_path) == count


@pytest.mark.parametrize(
    "content", ["", "\n", "max\n", "100000\n", "many 100000\n", "100000 0\n", "1 2 3\n", "1.5 1\n"]
)
def test_a_malformed_quota_is_no_quota(tmp_path: Path, content: str) -> None:
    assert available_cpus(version_2(tmp_path, content)) == 64


def test_a_malformed_quota_does_not_hide_another(tmp_path: Path) -> None:
    version_2(tmp_path, "broken\n")
    version_1(tmp_path / "cpu", "300000\n")
    assert available_cpus(tmp_path) == 3


def test_a_quota_without_its_period_is_no_quota(tmp_path: Path) -> None:
    (version_1(tmp_path / "cpu", "300000\n") / "cpu.cfs_period_us").unlink()
    assert available_cpus(tmp_path) == 64


def test_a_quota_of_nothing_still_leaves_one(tmp_path: Path) -> None:
    assert available_cpus(version_2(tmp_path, "0 100000\n")) == 1


def test_a_file_that_is_not_readable_is_no_quota(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").mkdir()
    assert available_cpus(tmp_path) == 64


def test_the_tightest_of_the_cgroups_above_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    belongs_to(monkeypatch, tmp_path, "0::/system.slice/pod/app\n")
    mount = tmp_path / "cgroup"
    version_2(mount / "system.slice" / "pod" / "app", "max 100000\n")
    version_2(mount / "system.slice" / "pod", "300000 100000\n")
    version_2(mount / "system.slice", "800000 100000\n")
    assert available_cpus(mount) == 3


def test_a_neighbours_quota_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    belongs_to(monkeypatch, tmp_path, "0::/pod/app\n")
    mount = tmp_path / "cgroup"
    version_2(mount / "pod" / "other", "100000 100000\n")
    version_2(tmp_path, "100000 100000\n")  # above the mount
    assert available_cpus(mount) == 64


def test_of_version_1_only_the_cpu_controllers_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    belongs_to(
        monkeypatch, tmp_path, "4:memory:/small\n3:cpu,cpuacct:/docker/app\n2:cpuset:/small\n1:name=x:/\n"
    )
    mount = tmp_path / "cgroup"
    version_1(mount / "memory" / "small", "100000\n")
    version_1(mount / "cpu,cpuacct" / "docker" / "app", "500000\n")
    assert available_cpus(mount) == 5


def test_a_system_without_proc_is_asked_at_the_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    belongs_to(monkeypatch, tmp_path, "")
    (tmp_path / "proc-self-cgroup").unlink()
    assert available_cpus(version_2(tmp_path / "cgroup", "200000 100000\n")) == 2


def test_a_system_without_affinities_counts_its_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert available_cpus(tmp_path) == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus(tmp_path) == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinities")
def test_a_process_bound_to_one_cpu_has_one() -> None:
    code = (
        "import os; from paritas.engine.runtime.cpus import available_cpus; "
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(available_cpus())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


# What they can do.


def machine(
    monkeypatch: pytest.MonkeyPatch, directory: Path, numpy_says: list[str], kernel_says: str
) -> None:
    from numpy._core import _multiarray_umath

    monkeypatch.setattr(_multiarray_umath, "__cpu_features__", dict.fromkeys(numpy_says, True))
    (directory / "cpuinfo").write_text(f"model name\t: A CPU @ 1 GHz\nflags\t\t: {kernel_says}\n")
    monkeypatch.setattr(cpus, "_CPUINFO", directory / "cpuinfo")


def test_instructions_are_named_as_the_kernel_names_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine(monkeypatch, tmp_path, ["SSE2", "AVX2"], "fpu sse2 avx2 avx_vnni")
    assert instructions() == ["avx2", "avx_vnni"]
    assert cpu_name() == "A CPU @ 1 GHz (avx2 avx_vnni)"


def test_a_name_without_a_number_gets_its_family(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, tmp_path, ["AVX2"], "fpu avx2")
    (tmp_path / "cpuinfo").write_text(
        "cpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\nflags\t: avx2\n"
    )
    assert cpu_name() == "AMD EPYC family 26 model 2 (avx2)"


def test_an_emulated_cpu_is_not_taken_for_its_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, tmp_path, ["AVX2"], "fpu avx2 avx512f avx512_vnni avx_vnni amx_int8")
    assert instructions() == ["avx2"]
    machine(monkeypatch, tmp_path, ["ASIMD", "ASIMDDP"], "fpu avx2 avx512f avx_vnni")
    assert instructions() == ["asimd", "asimddp"]


def test_without_cpuinfo_numpy_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, tmp_path, ["ASIMD", "ASIMDDP"], "")
    (tmp_path / "cpuinfo").unlink()
    assert instructions() == ["asimd", "asimddp"]
    assert cpu_name().endswith("(asimd asimddp)")


@pytest.mark.parametrize(
    ("available", "fastest"),
    [
        ([], None),
        (["avx2", "avx512f"], None),
        (["asimd"], None),
        (["avx2", "avx_vnni"], "avx_vnni"),
        (["avx2", "avx512f", "avx512_vnni", "amx_int8"], "amx_int8"),
        (["asimd", "asimddp"], "asimddp"),
    ],
)
def test_a_byte_dot_product_is_found_where_there_is_one(available: list[str], fastest: str | None) -> None:
    assert dot_product(available) == fastest


@pytest.mark.parametrize(
    ("available", "shifted"), [(["avx2"], "1"), (["avx512_vnni"], None), (["asimd"], "1")]
)
def test_weights_are_shifted_where_bytes_have_no_dot_product(
    available: list[str], shifted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paritas.engine.runtime import session

    monkeypatch.setattr(session, "instructions", lambda: available)
    options = session._options(1)
    try:
        found = options.get_session_config_entry("session.x64quantprecision")
    except RuntimeError:  # onnxruntime's answer for an entry that was not set
        found = None
    assert found == shifted
