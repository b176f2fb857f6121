"""AMX's tiles belong to a thread and are allowed by the system: both may have other plans."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from paritas.engine.runtime.kernels import LIBRARY, available_kernels
from tests.native.compiling import compiled, compiles
from tests.native.products import Kernels, layer, model, product, run, session, values
from tests.packaging.conftest import ROOT

pytestmark = [
    compiles,
    pytest.mark.skipif(available_kernels().name != "amx_int8", reason="this CPU or system has no AMX"),
]

REFUSED = """
import ctypes, sys
assert ctypes.CDLL(sys.argv[1]).refuse() == 0
names = ctypes.CDLL(sys.argv[2]).paritas_kernels
names.restype = ctypes.c_char_p
print(names().decode())
"""


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("tiles") / "tiles.so"
    compiled("-O2", "-shared", "-fPIC", ROOT / "tests/native/tiles.c", "-o", library)
    return library


@pytest.mark.parametrize("shaped", [True, False])
def test_a_threads_tiles_have_the_shape_they_had(tiles: Path, shaped: bool) -> None:
    """llama.cpp shapes them once a thread: its next product would be an illegal instruction."""
    others, kernels, constants = ctypes.CDLL(str(tiles)), Kernels("amx_int8", LIBRARY), layer(128, 64)
    opened, x = session(model(**constants), kernels), values(40, 128)  # one thread: the caller's
    before = np.zeros(64, np.uint8)
    if shaped:
        before[0] = 1
        before[16:32:2] = 32
        before[48:56] = range(1, 9)
    found = np.ones(64, np.uint8)
    try:
        if shaped:
            others.shape(before.ctypes.data_as(ctypes.c_void_p))
        y = run(opened, x)
        others.look(found.ctypes.data_as(ctypes.c_void_p))
    finally:
        others.release()
    assert np.array_equal(y, product(kernels, x, **constants))
    assert np.array_equal(found, before)


def test_a_system_that_refuses_them_gets_the_next_best_kernels(tiles: Path) -> None:
    command = [sys.executable, "-c", REFUSED, str(tiles), str(LIBRARY)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "avx512_vnni\n"), result.stderr
