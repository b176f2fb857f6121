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
    sanitized += [
        "-fsanitize=address,undefined,float-cast-overflow",
        "-fno-sanitize-recover=all",
        f"-I{NATIVE}",
    ]
    compiled(*sanitized, "-c", ROOT / "tests/native/check.c", "-o", tmp_path / "stand_in.o")
    compiled_for(name, tmp_path / "check", *sanitized, tmp_path / "stand_in.o", "-lm")
    ran = subprocess.run([tmp_path / "check"], capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert int(ran.stdout) > 800


ROWS = range(1, 7)
BYTES = [f"{name}{rows}" for name in ("narrow", "wide") for rows in ROWS]
HIGHER = [f"{name}{rows}" for name in ("narrow", "wide") for rows in range(1, 13)]


@compiles
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these tiles are x86's")
@pytest.mark.parametrize(
    ("name", "tiles", "enlarge"),
    [
        ("linear_avx512_vnni", HIGHER, ("COLUMNS = 2", "COLUMNS = 3")),
        ("linear_avx_vnni", BYTES, ("COLUMNS = 2", "COLUMNS = 4")),
        ("linear_avx2", [f"tile{rows}" for rows in ROWS], ("ROWS = 6", "ROWS = 8", "TILE(8)")),
        (
            "attention_avx512",
            [f"tile{rows}x{columns}" for rows in ROWS for columns in range(1, 5)],
            ("ROWS = 6", "ROWS = 8", "TILE(8, 4)"),
        ),
    ],
)
def test_no_tile_keeps_an_accumulator_in_memory(
    name: str, tiles: list[str], enlarge: tuple[str, ...]
) -> None:
    """A spilled one costs two thirds of the speed, and no result shows it."""
    source = NATIVE / f"{name}.c"
    assert spills(compiled(*FLAGS, "-S", "-o", "-", source)) == dict.fromkeys(tiles, 0)
    # The check sees what it looks for.
    smaller, larger, *tile = enlarge
    text = source.read_text(encoding="utf-8").replace(smaller, larger).replace("unroll 6", "unroll 8")
    # Within the part for x86, which is the last of the file.
    end = text.rindex("#else") if "#else" in text else text.rindex("#endif")
    used = [f"{one}\nTile *const used = tile{'x'.join(re.findall(r'[0-9]', one))};" for one in tile]
    assert max(spills(compiled_text("\n".join([text[:end], *used, "#endif\n"]))).values()) > 0


@compiles
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these instructions are x86's")
@pytest.mark.parametrize("name", ["linear_avx512_vnni", "linear_avx_vnni", "linear_avx2"])
def test_what_follows_products_is_done_in_vectors(name: str) -> None:
    """gcc made branches of GELU's ends for AVX2, a value at a time: eight times as slow, to the same bits."""
    assembly = compiled(*FLAGS, "-S", "-o", "-", NATIVE / f"{name}.c")
    for function in ("gelu", "normalize", "round_rows"):
        of_function = rf"^{function}:\n(.*?)^\s*\.cfi_endproc"
        (body,) = re.findall(of_function, assembly, re.DOTALL | re.MULTILINE)
        wide = re.findall(r"v(?:fmadd\w+|mul)ps.*[yz]mm", body)
        assert len(wide) >= (10 if function == "gelu" else 1), function


def compiled_text(text: str) -> str:
    command = [*COMPILER, *FLAGS, f"-I{NATIVE}", "-w", "-x", "c", "-S", "-o", "-", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def spills(assembly: str) -> dict[str, int]:
    """Return, by its name, how often each tile moves a wide register to or from the stack."""
    names = r"^((?:tile|narrow|wide)[x\d]+):.*?\n(.*?)^\s*\.cfi_endproc"
    bodies = re.findall(names, assembly, re.DOTALL | re.MULTILINE)
    moved = re.compile(r"[yz]mm\d+.*\(%r[sb]p|\(%r[sb]p.*[yz]mm\d+|\bq\d+.*\[sp")
    return {name: sum(bool(moved.search(line)) for line in body.splitlines()) for name, body in bodies}


@compiles
def test_it_needs_nothing_but_libc(tmp_path: Path) -> None:
    """Whoever loads it may have no libm: what is missing shows while linking and not before it is called."""
    compiled_for(BEST_FIRST[0], tmp_path / "kernels.so", *FLAGS, "-fPIC", "-shared", "-Wl,-z,defs")


@compiles
def test_the_compiler_has_nothing_to_say(tmp_path: Path) -> None:
    for source in NATIVE.glob("*.c"):
        compiled(*FLAGS, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-c", source, "-o", tmp_path / "object")
