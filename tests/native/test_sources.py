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
    # With no room on the stack that is larger than asked for.
    sanitized = ["-g", "-O1", "-std=gnu11", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-DSMALL=1"]
    # What goes on after a finding: so gcc 12 keeps masks in memory, whose upper bits it then makes up.
    sanitized += ["-fsanitize=address,undefined,float-cast-overflow", f"-I{NATIVE}"]
    compiled(*sanitized, "-c", ROOT / "tests/native/check.c", "-o", tmp_path / "stand_in.o")
    compiled_for(name, tmp_path / "check", *sanitized, tmp_path / "stand_in.o", "-lm")
    ran = subprocess.run([tmp_path / "check"], capture_output=True, text=True, check=False, timeout=300)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout + ran.stderr
    assert int(ran.stdout) > 1600


ROWS = range(1, 7)
BYTES = [f"{name}{rows}" for name in ("narrow", "wide") for rows in ROWS]
HIGHER = [f"{name}{rows}" for name in ("narrow", "wide") for rows in range(1, 13)]
TILES = {
    columns: [f"tile{rows}x{wide}" for rows in ROWS for wide in range(1, columns + 1)] for columns in (2, 4)
}


@compiles
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these tiles are x86's")
@pytest.mark.parametrize(
    ("name", "tiles", "larger"),
    [
        ("linear_avx512_vnni", HIGHER, {"COLUMNS = 2": "COLUMNS = 3"}),
        ("linear_avx_vnni", BYTES, {"COLUMNS = 2": "COLUMNS = 4"}),
        (
            "linear_avx2",
            [f"tile{rows}" for rows in ROWS],
            {"ROWS = 6": "ROWS = 8", "TILE(6)": "TILE(8)", "tile6}": "tile8}"},
        ),
        ("attention_avx512", TILES[4], {"COLUMNS = 4": "COLUMNS = 5", "EACH(rows, 4)": "EACH(rows, 5)"}),
        ("attention_avx2", TILES[2], {"COLUMNS = 2": "COLUMNS = 3", "EACH(rows, 2)": "EACH(rows, 3)"}),
    ],
)
def test_no_tile_keeps_an_accumulator_in_memory(name: str, tiles: list[str], larger: dict[str, str]) -> None:
    """A spilled one costs two thirds of the speed, and no result shows it."""
    source = NATIVE / f"{name}.c"
    assert spills(compiled(*FLAGS, "-S", "-o", "-", source)) == dict.fromkeys(tiles, 0)
    # The check sees what it looks for.
    text = source.read_text(encoding="utf-8")
    for small, large in larger.items():
        assert small in text
        text = text.replace(small, large)
    assert max(spills(compiled_text(text)).values()) > 0


@compiles
@pytest.mark.parametrize("name", [one for one in BEST_FIRST if one != "amx_int8"])
def test_every_tile_of_products_fetches_the_weights_that_come_next(name: str) -> None:
    """Without it 8 to 14 tokens take 1.2 times as long where weights come from memory, to the same bits."""
    bodies = tiles_in(compiled(*FLAGS, "-S", "-o", "-", NATIVE / f"linear_{name}.c"))
    assert len(bodies) >= 6
    assert [tile for tile, body in bodies.items() if not re.search(r"\b(prefetch|prfm)", body)] == []


@compiles
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these instructions are x86's")
def test_amx_loads_tiles_between_products_and_fetches_the_lines_of_outputs() -> None:
    """Without the one products take 1.14 times as long, without the other up to twice, to the same bits."""
    body = body_of(
        "multiply_square", compiled(*FLAGS, "-fno-inline", "-S", "-o", "-", NATIVE / "linear_amx_int8.c")
    )
    names = re.findall(r"^\s+(tileloadd|tdpbusd|prefetch)", body, re.MULTILINE)
    turn = "tdpbusd tdpbusd tileloadd tdpbusd tileloadd tdpbusd tileloadd tileloadd"
    assert turn in " ".join(name for name in names if name != "prefetch")
    assert "prefetch" in names


@compiles
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these instructions are x86's")
@pytest.mark.parametrize(
    ("name", "functions"),
    [
        *((f"linear_{one}", {"gelu": 10, "normalize": 1, "round_rows": 1}) for one in BEST_FIRST),
        *((f"attention_{one}", {"attend": 4}) for one in ("avx512", "avx2")),
    ],
)
def test_what_follows_products_is_done_in_vectors(name: str, functions: dict[str, int]) -> None:
    """gcc made branches of GELU's ends for AVX2, a value at a time: eight times as slow, to the same bits."""
    assembly = compiled(*FLAGS, "-S", "-o", "-", NATIVE / f"{name}.c")
    for function, least in functions.items():
        instruction = r"vfmadd\w+ps" if least > 1 else r"v(?:fmadd\w+|mul)ps"
        assert len(re.findall(rf"{instruction}.*[yz]mm", body_of(function, assembly))) >= least, function


@compiles
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these instructions are x86's")
@pytest.mark.parametrize("name", ["amx_int8", "avx512_vnni", "avx_vnni"])
def test_the_largest_inputs_are_found_in_vectors(name: str) -> None:
    """Of plain loops gcc made a transposition of the inputs: 1.7 times as slow, to the same bits."""
    body = body_of("round_rows", compiled(*FLAGS, "-S", "-o", "-", NATIVE / f"linear_{name}.c"))
    assert len(re.findall(r"vpmaxsd.*[yz]mm", body)) >= 3
    assert "vpermt2ps" not in body


@compiles
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these instructions are x86's")
@pytest.mark.parametrize("name", ["amx_int8", "avx512_vnni", "avx_vnni", "avx2"])
def test_a_norm_writes_its_row_in_vectors(name: str) -> None:
    """In one loop that adds the residual and sums up, gcc wrote the last values and all sums one by one."""
    body = body_of("normalize", compiled(*FLAGS, "-S", "-o", "-", NATIVE / f"linear_{name}.c"))
    # Those beyond the last whole register are.
    assert len(re.findall(r"^\s+v(?:movss|extractps)\s.*, -?\w*\(", body, re.MULTILINE)) < 20


def body_of(function: str, assembly: str) -> str:
    (body,) = re.findall(rf"^{function}:\n(.*?)^\s*\.cfi_endproc", assembly, re.DOTALL | re.MULTILINE)
    return str(body)


def compiled_text(text: str) -> str:
    command = [*COMPILER, *FLAGS, f"-I{NATIVE}", "-w", "-x", "c", "-S", "-o", "-", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def tiles_in(assembly: str) -> dict[str, str]:
    """Return each tile's instructions by its name."""
    names = r"^((?:tile|narrow|wide)[x\d]+):.*?\n(.*?)^\s*\.cfi_endproc"
    return dict(re.findall(names, assembly, re.DOTALL | re.MULTILINE))


def spills(assembly: str) -> dict[str, int]:
    """Return, by its name, how often each tile moves a wide register to or from the stack."""
    moved = re.compile(r"[yz]mm\d+.*\(%r[sb]p|\(%r[sb]p.*[yz]mm\d+|\bq\d+.*\[sp")
    return {
        name: sum(bool(moved.search(line)) for line in body.splitlines())
        for name, body in tiles_in(assembly).items()
    }


@compiles
def test_it_needs_nothing_but_libc(tmp_path: Path) -> None:
    """Whoever loads it may have no libm: what is missing shows while linking and not before it is called."""
    compiled_for(BEST_FIRST[0], tmp_path / "kernels.so", *FLAGS, "-fPIC", "-shared", "-Wl,-z,defs")


@compiles
def test_the_compiler_has_nothing_to_say(tmp_path: Path) -> None:
    for source in NATIVE.glob("*.c"):
        compiled(*FLAGS, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-c", source, "-o", tmp_path / "object")
