"""native/ as it is compiled: under sanitizers, and with every accumulator in a register."""

from __future__ import annotations

import platform
import re
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT

NATIVE = ROOT / "native"
COMPILER = shlex.split(sysconfig.get_config_var("CC") or "cc")[:1]
# As setup.py has them.
FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=off"]

compiles = pytest.mark.skipif(shutil.which(COMPILER[0]) is None, reason=f"no C compiler, {COMPILER[0]}, here")


def compiled(*arguments: str | Path) -> str:
    command = [*COMPILER, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@compiles
def test_nothing_is_read_or_written_beyond_its_end_and_nothing_is_undefined(tmp_path: Path) -> None:
    sanitized = ["-g", "-O1", "-std=gnu11", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    sanitized += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{NATIVE}"]
    sources = [ROOT / "tests/native/check.c", *sorted(NATIVE.glob("*.c"))]
    compiled(*sanitized, *sources, "-lm", "-o", tmp_path / "check")
    ran = subprocess.run([tmp_path / "check"], capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert int(ran.stdout) > 800


@compiles
@pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX2 is x86's")
def test_no_tile_keeps_an_accumulator_in_memory() -> None:
    """A spilled one costs two thirds of the speed, and no result shows it."""
    source = NATIVE / "linear_avx2.c"
    assert spills(compiled(*FLAGS, "-S", "-o", "-", source)) == dict.fromkeys(range(1, 7), 0)
    # The check sees what it looks for: a tile of eight rows does not fit.
    larger = re.sub(r"ROWS = 6", "ROWS = 8", source.read_text(encoding="utf-8"))
    larger = larger.replace("unroll 6", "unroll 8").replace("TILE(6)", "TILE(6) TILE(8)")
    found = spills(compiled_text(larger))
    assert found[8] > 0


def compiled_text(text: str) -> str:
    command = [*COMPILER, *FLAGS, f"-I{NATIVE}", "-w", "-x", "c", "-S", "-o", "-", "-"]
    text += "\nTile *const used = tile8;\n"
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def spills(assembly: str) -> dict[int, int]:
    """Return, by its rows, how often each tile moves a wide register to or from the stack."""
    bodies = re.findall(r"^tile(\d+):\n(.*?)^\s*\.cfi_endproc", assembly, re.DOTALL | re.MULTILINE)
    moved = re.compile(r"ymm\d+.*\(%r[sb]p|\(%r[sb]p.*ymm\d+")
    return {int(rows): sum(bool(moved.search(line)) for line in body.splitlines()) for rows, body in bodies}


@compiles
def test_the_compiler_has_nothing_to_say(tmp_path: Path) -> None:
    for source in NATIVE.glob("*.c"):
        compiled(*FLAGS, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-c", source, "-o", tmp_path / "object")
