"""native/ compiled in other ways than setup.py does."""

from __future__ import annotations

import platform
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT

NATIVE = ROOT / "native"
COMPILER = shlex.split(sysconfig.get_config_var("CC") or "cc")[:1]
BEST_FIRST = (
    ["amx_int8", "avx512_vnni", "avx_vnni", "avx2"] if platform.machine() == "x86_64" else ["i8mm", "asimddp"]
)
# As setup.py has them.
FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=off", "-fno-math-errno"]

compiles = pytest.mark.skipif(shutil.which(COMPILER[0]) is None, reason=f"no C compiler, {COMPILER[0]}, here")


def compiled(*arguments: str | Path) -> str:
    """Run the compiler, and return what it printed."""
    command = [*COMPILER, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def compiled_for(name: str, output: Path, *flags: str | Path, attention: Path | None = None) -> None:
    """Compile native/ so that the kernels of one instruction set are its best.

    Args:
        name: of the kernels.
        output: the library or program to make.
        flags: of the compiler.
        attention: a source whose kernels, named as it is, take the place of all others for attention.
    """
    others = BEST_FIRST[: BEST_FIRST.index(name)]
    renamed = [f"-D{other}_kernels={name}_kernels" for other in others]
    compiled(*flags, *renamed, "-c", NATIVE / "operators.c", "-o", output.with_suffix(".o"))
    left_out = ["operators.c", *(f"linear_{other}.c" for other in others)]
    sources = [source for source in sorted(NATIVE.glob("*.c")) if source.name not in left_out]
    if attention:
        sources = [source for source in sources if not source.name.startswith("attention_")] + [attention]
        flags += tuple(f"-D{one}_attention={attention.stem}" for one in ("avx512", "avx2", "neon"))
    compiled(*flags, output.with_suffix(".o"), *sources, "-o", output)
