"""The wheels that `make wheels` made, each tried: x86-64's here, ARM64's by an emulator.

PARITAS_WHEELS is the directory they lie in, PARITAS_EMULATORS that of the emulators.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.export.certificate.certify import compare
from tests.cpus.emulated import ROOT, SCRIPT, TEXTS, arm, emulate
from tests.native.test_sources import spills

pytestmark = pytest.mark.wheels

ARCHITECTURES = ("x86_64", "aarch64")


def wheel(architecture: str) -> Path:
    (found,) = Path(os.environ["PARITAS_WHEELS"]).glob(f"*_{architecture}.whl")
    return found


def unpacked(architecture: str, out: Path) -> Path:
    zipfile.ZipFile(wheel(architecture)).extractall(out)
    return out


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_its_name_says_whom_it_serves(architecture: str) -> None:
    assert "-py3-none-" in wheel(architecture).name
    assert f"manylinux2014_{architecture}" in wheel(architecture).name


def test_they_differ_in_the_library_alone() -> None:
    ours, theirs = (
        {info.filename: info.CRC for info in zipfile.ZipFile(wheel(architecture)).infolist()}
        for architecture in ARCHITECTURES
    )
    assert ours.keys() == theirs.keys()
    differ = {Path(name).name for name in ours if ours[name] != theirs[name]}
    assert differ == {"kernels.so", "WHEEL", "RECORD"}


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="not an x86-64 Linux")
def test_the_one_for_x86_runs_here(dynamic: Bundle, tmp_path: Path) -> None:
    site = sysconfig.get_path("purelib")
    python = [sys.executable, "-s", "-B", str(SCRIPT)]
    package = unpacked("x86_64", tmp_path / "wheel")
    found = emulate([*python, f"{package}:{site}"], dynamic, tmp_path / "found", "int8")
    here = emulate([*python, site], dynamic, tmp_path / "here", "int8")
    assert found.facts["kernels"] == here.facts["kernels"]
    # By another compiler, to the same bits.
    assert np.array_equal(found.vectors["int8"], here.vectors["int8"])


def test_the_one_for_arm_runs_there(dynamic: Bundle, emulators: Path, tmp_path: Path) -> None:
    package = unpacked("aarch64", tmp_path / "wheel")
    found = emulate(arm(emulators, "cortex-a76", package), dynamic, tmp_path / "out", "int8")
    assert (found.facts["kernels"], found.facts["auto"]) == ("asimddp", "int8")
    with Encoder(dynamic, precision="fp32") as encoder:
        figures = compare(found.vectors["int8"], encoder.encode(TEXTS, role="query"))
    assert figures.mean_cosine >= 0.9995


@pytest.mark.parametrize(
    ("architecture", "source", "tiles"),
    [
        ("x86_64", "linear_avx512_vnni", 24),
        ("x86_64", "linear_avx_vnni", 12),
        ("x86_64", "linear_avx2", 6),
        ("x86_64", "attention_avx512", 24),
        ("x86_64", "attention_avx2", 12),
        ("aarch64", "linear_i8mm", 12),
        ("aarch64", "linear_asimddp", 10),
        ("aarch64", "attention_neon", 24),
    ],
)
def test_their_compiler_keeps_all_sums_of_a_tile_in_registers(
    architecture: str, source: str, tiles: int, tmp_path: Path
) -> None:
    text = (ROOT / f"native/{source}.c").read_text(encoding="utf-8")
    found = spills(assembly(architecture, text, tmp_path))
    assert (len(found), sum(found.values())) == (tiles, 0)
    if source == "linear_asimddp":  # the check sees what it looks for
        larger = text.replace("EACH(5)", "EACH(5) EACH(6) EACH(7) EACH(8)").replace("ROWS = 5", "ROWS = 8")
        assert sum(spills(assembly(architecture, larger, tmp_path)).values()) > 0


def assembly(architecture: str, text: str, scratch: Path) -> str:
    """Return what the wheels' compiler makes of a source of native/."""
    (scratch / "source.c").write_text(text, encoding="utf-8")
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", f"{architecture}-linux-gnu.2.17"]
    flags = "-mcpu=baseline -std=gnu11 -O3 -ffp-contract=off -fno-math-errno -fPIC -g0 -S".split()
    files = [f"-I{ROOT / 'native'}", str(scratch / "source.c"), "-o", str(scratch / "assembly")]
    subprocess.run([*zig, *flags, *files], capture_output=True, check=True)
    return (scratch / "assembly").read_text(encoding="utf-8")
