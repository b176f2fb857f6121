"""INT8 on CPUs this machine has not: run by emulators, from the bundle made here.

`make test-cpus` fetches the emulators and names them in PARITAS_EMULATORS. Emulation shows which kernels
onnxruntime takes and what they compute; of speed it says nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.export import export_model
from paritas.export.certificate.certify import compare
from tests.cpus.emulated import ROOT, TEXTS, Outcome, arm, arm_python, emulate, run, x86

pytestmark = pytest.mark.cpus

NATIVE_TESTS = ("test_linear_int8.py", "test_following.py", "test_attention.py")
# Of these where FP32 is emulated: it takes a minute each otherwise.
_FEW = 6


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """INT8 with static inputs: onnxruntime's own kernels."""
    out = tmp_path_factory.mktemp("cpus") / "bundle"
    options: dict[str, Any] = {"precisions": ("fp32", "int8"), "int8_inputs": "static"}
    return export_model("all-MiniLM-L6-v2", source="package", out=out, **options)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as installed: an emulated Python does not follow this one's editable install."""
    target = tmp_path_factory.mktemp("package")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(ROOT)]
    subprocess.run(pip, check=True)
    return target


@pytest.fixture(scope="module")
def arm_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, compiled for ARM64."""
    target = tmp_path_factory.mktemp("arm")
    environment = os.environ | {"PARITAS_TARGET": "aarch64-linux-gnu.2.17"}
    command = ["-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(target), str(ROOT)]
    subprocess.run([sys.executable, *command], check=True, env=environment)
    (wheel,) = target.glob("*_aarch64.whl")
    zipfile.ZipFile(wheel).extractall(target)
    return target


def command_for(cpu: str, emulators: Path, package: Path, arm_package: Path) -> list[str]:
    on_arm = cpu.startswith("cortex")
    return (arm if on_arm else x86)(emulators, cpu, arm_package if on_arm else package)


@pytest.fixture(scope="module", params=["Haswell", "Nehalem", "cortex-a76"])
def outcome(
    request: pytest.FixtureRequest,
    emulators: Path,
    bundle: Bundle,
    package: Path,
    arm_package: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Outcome:
    command = command_for(request.param, emulators, package, arm_package)
    found = emulate(command, bundle, tmp_path_factory.mktemp("out") / request.param, "int8")
    found.facts["cpu"] = request.param
    return found


def vectors(bundle: Bundle, precision: Any) -> NDArray[np.float32]:
    with Encoder(bundle, precision=precision) as encoder:
        return encoder.encode(TEXTS, role="query")


def test_int8_is_as_near_to_fp32_as_here(bundle: Bundle, outcome: Outcome) -> None:
    figures = compare(outcome.vectors["int8"], vectors(bundle, "fp32"))
    cpu = outcome.facts["cpu"]
    print(f"{cpu}: cosine to FP32, mean {figures.mean_cosine:.5f}, smallest {figures.min_cosine:.5f}")
    assert figures.mean_cosine >= 0.995
    assert figures.min_cosine >= 0.98


def test_nothing_saturates(bundle: Bundle, outcome: Outcome) -> None:
    # The integer products are the same everywhere, what lies between them is not: a value near the edge of a
    # step falls to either side, so vectors differ in the fourth digit and are as good. Without the shift to
    # unsigned weights Haswell falls much further.
    exact = vectors(bundle, "fp32")
    here, there = compare(vectors(bundle, "int8"), exact), compare(outcome.vectors["int8"], exact)
    assert there.mean_cosine >= here.mean_cosine - 0.0005


def test_auto_knows_the_cpu_it_is_on(outcome: Outcome) -> None:
    expected = {
        "Haswell": (["avx2"], "fp32"),
        "Nehalem": ([], "fp32"),
        "cortex-a76": (["asimd", "asimddp"], "int8"),
    }[outcome.facts["cpu"]]
    assert (outcome.facts["instructions"], outcome.facts["auto"]) == expected
    assert outcome.facts["reason"]


@pytest.mark.parametrize(
    ("cpu", "kernels", "reason"),
    [
        ("Haswell", "avx2", "paritas has kernels for avx2"),
        ("Nehalem", "onnxruntime", "paritas has no kernels for this CPU"),
        ("cortex-a76", "asimddp", "paritas has kernels for asimddp"),
        ("cortex-a57", "onnxruntime", "paritas has no kernels for this CPU"),
    ],
)
def test_one_bundle_of_dynamic_inputs_serves_them_all(
    cpu: str,
    kernels: str,
    reason: str,
    emulators: Path,
    dynamic: Bundle,
    package: Path,
    arm_package: Path,
    tmp_path: Path,
) -> None:
    command = command_for(cpu, emulators, package, arm_package)
    found = emulate(command, dynamic, tmp_path / "out", "int8", texts=TEXTS[:_FEW])
    assert found.facts["kernels"] == kernels
    assert found.facts["kernels_reason"].startswith(reason)
    figures = compare(found.vectors["int8"], vectors(dynamic, "fp32")[:_FEW])
    print(
        f"{cpu}: dynamic, cosine to FP32, mean {figures.mean_cosine:.5f}, smallest {figures.min_cosine:.5f}"
    )
    assert figures.mean_cosine >= 0.9995
    assert figures.min_cosine >= 0.999


def test_a_library_of_another_architecture_is_no_library(
    emulators: Path, dynamic: Bundle, package: Path, tmp_path: Path
) -> None:
    command = arm(emulators, "cortex-a76", package)
    found = emulate(command, dynamic, tmp_path / "out", "int8", texts=TEXTS[:1])
    assert found.facts["kernels"] == "onnxruntime"
    assert found.facts["kernels_reason"].startswith("paritas's library of kernels does not load")


@pytest.mark.parametrize(("cpu", "kernels"), [("max,sve=off", "i8mm"), ("cortex-a76", "asimddp")])
def test_operators_have_numpys_bits_on_arm(
    cpu: str, kernels: str, emulators: Path, arm_package: Path
) -> None:
    """The tests of native/, run there; each is named after its kernels."""
    path = f"{arm_package}:{emulators / 'arm64/site'}:{ROOT}"
    tests = [str(ROOT / "tests/native" / name) for name in NATIVE_TESTS]
    pytest_there = ["-m", "pytest", "-v", "-p", "no:cacheprovider", f"--rootdir={ROOT}", *tests]
    chosen = f"{kernels} and not width_of_registers"  # which takes a compiler
    printed = run([*arm_python(emulators, cpu), *pytest_there, "-k", chosen], PYTHONPATH=path)
    print(printed.splitlines()[-1])
    assert printed.count(f"[{kernels}") == printed.count(" PASSED") > 250
