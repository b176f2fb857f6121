"""The compiled part: in the wheel, left out of it, and what happens where nothing compiles."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, output, run

ASK = """
import json
from paritas.engine.runtime.kernels import available_kernels
print(json.dumps(available_kernels()))
"""


@pytest.fixture
def unpacked(dist: Path, tmp_path: Path) -> Path:
    """The source distribution's files."""
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    return folder


def built(source: Path, **environment: str) -> Path:
    command = ["-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", source / "wheels", source]
    output([sys.executable, *command], env=environment)
    (wheel,) = (source / "wheels").glob("*.whl")
    return wheel


def test_one_wheel_is_for_every_python_of_this_platform(wheel: Path) -> None:
    assert "-py3-none-linux_" in wheel.name or "-py3-none-macosx_" in wheel.name
    metadata = zipfile.ZipFile(wheel).read(f"{'-'.join(wheel.name.split('-')[:2])}.dist-info/WHEEL").decode()
    assert "Root-Is-Purelib: false" in metadata


def test_its_kernels_load_with_nothing_but_the_base_dependencies(bare: Path, tmp_path: Path) -> None:
    name, reason, _ = json.loads(output([bare / "python", "-I", "-c", ASK], cwd=tmp_path))
    assert reason in (f"paritas has kernels for {name}", "paritas has no kernels for this CPU")


def test_without_them_the_wheel_is_for_any_machine(unpacked: Path) -> None:
    wheel = built(unpacked, PARITAS_KERNELS="none")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")] == []


def test_what_does_not_compile_is_left_out_with_a_word(unpacked: Path) -> None:
    (unpacked / "native/operators.c").write_text("#error broken\n", encoding="utf-8")
    command = ["-m", "pip", "wheel", "-v", "--no-deps", "--wheel-dir", unpacked / "wheels", unpacked]
    result = run([sys.executable, *command])
    assert result.returncode == 0, result.stdout + result.stderr
    assert "paritas is installed without its kernels" in result.stdout + result.stderr
    (wheel,) = (unpacked / "wheels").glob("*.whl")
    assert [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")] == []
    refused = run([sys.executable, *command], env={"PARITAS_KERNELS": "required"})
    assert refused.returncode != 0


def test_another_choice_is_refused(unpacked: Path) -> None:
    command = ["-m", "pip", "wheel", "--no-deps", "--wheel-dir", unpacked / "wheels", unpacked]
    refused = run([sys.executable, *command], env={"PARITAS_KERNELS": "some"})
    assert refused.returncode != 0
    assert "PARITAS_KERNELS is 'some'; expected none or required" in refused.stdout + refused.stderr


@pytest.mark.parametrize(
    ("compiler", "kernels", "expected"), [("", "", True), ("", "none", False), ("cc", "", False)]
)
def test_a_compiler_is_asked_of_the_index_only_where_there_is_none(
    compiler: str, kernels: str, expected: bool, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    if compiler:
        shutil.copy(sys.executable, tmp_path / "bin" / compiler)
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "native")!r})
import backend
print(backend.get_requires_for_build_wheel(), backend.get_requires_for_build_editable())
"""
    environment = {"PATH": str(tmp_path / "bin"), "PARITAS_KERNELS": kernels, "CC": compiler or "no-compiler"}
    asked = output([sys.executable, "-c", code], cwd=ROOT, env=environment)
    assert ("ziglang" in asked) is expected


def test_what_an_earlier_build_left_is_not_taken_for_new(unpacked: Path) -> None:
    (library,) = [name for name in zipfile.ZipFile(built(unpacked)).namelist() if name.endswith(".so")]
    assert list((unpacked / "build").rglob(Path(library).name))
    (unpacked / "native/operators.c").write_text("#error broken\n", encoding="utf-8")
    assert library not in zipfile.ZipFile(built(unpacked)).namelist()


def ask_backend(call: str, tmp_path: Path, **environment: str) -> str:
    """Return what the build backend said to a call of one of its hooks, and how it ended."""
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'native')!r}); import backend; print(backend.{call})"
    ended = run([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    return f"{ended.returncode} {ended.stdout}{ended.stderr}"


@pytest.mark.parametrize(
    "target", ["aarch64", "aarch64-macos", "x86_64-linux-musl", "riscv64-linux-gnu", "x86_64-linux-gnu -O0"]
)
def test_a_target_that_is_not_served_is_refused(target: str, tmp_path: Path) -> None:
    said = ask_backend("_compiler()", tmp_path, PARITAS_TARGET=target)
    assert said.startswith(f"1 PARITAS_TARGET is {target!r}; expected one like aarch64-linux-gnu.2.17")


def test_a_target_takes_the_compiler_from_the_index_and_is_for_wheels(tmp_path: Path) -> None:
    target = "aarch64-linux-gnu.2.17"
    assert "ziglang" in ask_backend("_compiler()", tmp_path, PARITAS_TARGET=target)
    refused = ask_backend("build_editable('out')", tmp_path, PARITAS_TARGET=target)
    assert refused.startswith("1 PARITAS_TARGET is for wheels; unset it for an editable install")
