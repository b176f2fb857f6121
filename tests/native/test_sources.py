"""native/ as it is compiled: under sanitizers, and with every accumulator in a register."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path

import pytest

from tests.native.compiling import BEST_FIRST, COMPILER, FLAGS, NATIVE, compiled, compiled_for, compiles
from tests.packaging.conftest import ROOT


@compiles
@pytest.mark.parametrize("name", BEST_FIRST)
def test_nothing_is_read_or_written_beyond_its_end_and_nothing_is_undefined(
    name: str, tmp_path: Path
) -> None:
    sanitized = ["-g", "-O1", "-std=gnu11", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    sanitized += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{NATIVE}"]
    compiled(*sanitized, "-c", ROOT / "tests/native/check.c", "-o", tmp_path / "stand_in.o")
    compiled_for(name, tmp_path / "check", *sanitized, tmp_path / "stand_in.o", "-lm")
    ran = subprocess.run([tmp_path / "check"], capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert int(ran.stdout) > 800


@compiles
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these tiles are x86's")
@pytest.mark.parametrize(
    ("name", "tiles", "too_large"),
    [
        ("linear_avx512_vnni", [f"{rows}x{panels}" for panels in (1, 4) for rows in range(1, 7)], "8, 4"),
        (
            "attention_avx512",
            [f"{rows}x{columns}" for rows in range(1, 7) for columns in range(1, 5)],
            "8, 4",
        ),
        ("linear_avx2", [f"{rows}" for rows in range(1, 7)], "8"),
    ],
)
def test_no_tile_keeps_an_accumulator_in_memory(name: str, tiles: list[str], too_large: str) -> None:
    """A spilled one costs two thirds of the speed, and no result shows it."""
    source = NATIVE / f"{name}.c"
    assert spills(compiled(*FLAGS, "-S", "-o", "-", source)) == dict.fromkeys(tiles, 0)
    # The check sees what it looks for.
    larger = re.sub(r"ROWS = 6", "ROWS = 8", source.read_text(encoding="utf-8")).replace(
        "unroll 6", "unroll 8"
    )
    tile = too_large.replace(", ", "x")
    # Within the part for x86, which is the last of the file.
    end = larger.rindex("#else") if "#else" in larger else larger.rindex("#endif")
    larger = f"{larger[:end]}\nTILE({too_large})\nTile *const used = tile{tile};\n#endif\n"
    assert spills(compiled_text(larger))[tile] > 0


def compiled_text(text: str) -> str:
    command = [*COMPILER, *FLAGS, f"-I{NATIVE}", "-w", "-x", "c", "-S", "-o", "-", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def spills(assembly: str) -> dict[str, int]:
    """Return, by its size, how often each tile moves a wide register to or from the stack."""
    bodies = re.findall(r"^tile([x\d]+):\n(.*?)^\s*\.cfi_endproc", assembly, re.DOTALL | re.MULTILINE)
    moved = re.compile(r"[yz]mm\d+.*\(%r[sb]p|\(%r[sb]p.*[yz]mm\d+")
    return {size: sum(bool(moved.search(line)) for line in body.splitlines()) for size, body in bodies}


@compiles
def test_it_needs_nothing_but_libc(tmp_path: Path) -> None:
    """Whoever loads it may have no libm: what is missing shows while linking and not before it is called."""
    compiled_for(BEST_FIRST[0], tmp_path / "kernels.so", *FLAGS, "-fPIC", "-shared", "-Wl,-z,defs")


@compiles
def test_the_compiler_has_nothing_to_say(tmp_path: Path) -> None:
    for source in NATIVE.glob("*.c"):
        compiled(*FLAGS, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-c", source, "-o", tmp_path / "object")
