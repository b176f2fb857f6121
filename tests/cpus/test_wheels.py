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
    ("architecture", "source"),
    [
        ("x86_64", "linear_avx512_vnni"),
        ("x86_64", "linear_avx_vnni"),
        ("x86_64", "linear_avx2"),
        ("x86_64", "attention_avx512"),
        ("aarch64", "linear_i8mm"),
        ("aarch64", "linear_asimddp"),
    ],
)
def test_their_compiler_keeps_all_sums_of_a_tile_in_registers(
    architecture: str, source: str, tmp_path: Path
) -> None:
    target = ["-target", f"{architecture}-linux-gnu.2.17", "-mcpu=baseline"]
    flags = [
        "-std=gnu11",
        "-O3",
        "-ffp-contract=off",
        "-fno-math-errno",
        "-fPIC",
        "-g0",
        "-S",
        "-o",
        str(tmp_path / "s"),
    ]
    command = [sys.executable, "-m", "ziglang", "cc", *target, *flags, str(ROOT / f"native/{source}.c")]
    subprocess.run(command, capture_output=True, check=True)
    found = spills((tmp_path / "s").read_text(encoding="utf-8"))
    assert found == dict.fromkeys(found, 0)
    assert len(found) >= 6
