"""The kernels that this CPU can run, one after the other."""

from __future__ import annotations

import ctypes
import shutil

import pytest

from paritas.engine.runtime.kernels import LIBRARY, available_kernels
from tests.native.compiling import BEST_FIRST, COMPILER, FLAGS, compiled_for
from tests.native.products import Kernels


@pytest.fixture(scope="session", params=BEST_FIRST)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """The library's best, and in a library of its own what it has for lesser CPUs."""
    name, best = request.param, available_kernels()
    if name == best.name:
        return Kernels(name, LIBRARY)
    if not best.own or BEST_FIRST.index(name) < BEST_FIRST.index(best.name):
        pytest.skip(f"{name} does not run here: {best.reason}")
    if shutil.which(COMPILER[0]) is None:
        pytest.skip(f"no C compiler, {COMPILER[0]}, here")
    library = tmp_path_factory.mktemp(name) / "kernels.so"
    compiled_for(name, library, *FLAGS, "-fPIC", "-shared")
    names = ctypes.CDLL(str(library)).paritas_kernels
    names.restype = ctypes.c_char_p
    if names() != name.encode():  # a CPU may have AVX-512 VNNI and no AVX-VNNI
        pytest.skip(f"{name} does not run here")
    return Kernels(name, library)
