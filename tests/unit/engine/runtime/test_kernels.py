"""Whose kernels run: what the library says, what the environment says, and what is there."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

from paritas.doctor import examine
from paritas.engine.runtime import kernels
from paritas.engine.runtime.kernels import LIBRARY, available_kernels
from paritas.errors import InputError


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    kernels._library_kernels.cache_clear()
    yield
    kernels._library_kernels.cache_clear()


def test_the_library_was_built_and_says_what_it_has() -> None:
    assert LIBRARY.is_file()
    found = available_kernels()
    kinds = ("amx_int8", "avx512_vnni", "avx_vnni", "avx2", "i8mm", "asimddp")
    assert found.own == (found.name in kinds)
    assert len(found.identity) == (64 if found.own else 0)


def test_none_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARITAS_KERNELS", "none")
    found = available_kernels()
    assert (found.name, found.own, found.reason) == ("onnxruntime", False, "PARITAS_KERNELS is none")


def test_any_other_word_is_refused_and_the_doctor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARITAS_KERNELS", "avx512")
    with pytest.raises(InputError, match="'avx512'; expected none or required, or unset it"):
        available_kernels()
    found = examine()
    assert found.cpu.kernels == "onnxruntime"
    assert ("PARITAS_KERNELS is 'avx512'", "unset PARITAS_KERNELS") in [
        (problem.what, problem.mend) for problem in found.problems
    ]


@pytest.mark.parametrize("content", [None, b"", b"not a library"])
def test_a_library_that_is_missing_or_damaged_is_a_reason_and_no_error(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "LIBRARY", tmp_path / "kernels.so")
    if content is not None:
        (tmp_path / "kernels.so").write_bytes(content)
    found = available_kernels()
    assert (found.name, found.own) == ("onnxruntime", False)
    assert ("without its library" if content is None else "does not load") in found.reason
    monkeypatch.setenv("PARITAS_KERNELS", "required")
    with pytest.raises(InputError, match="PARITAS_KERNELS is required, but paritas"):
        available_kernels()


def test_another_library_in_its_place_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from numpy._core import _multiarray_umath

    shutil.copy(_multiarray_umath.__file__, tmp_path / "kernels.so")
    monkeypatch.setattr(kernels, "LIBRARY", tmp_path / "kernels.so")
    found = available_kernels()
    assert (found.name, found.own) == ("onnxruntime", False)
    assert "paritas's library of kernels does not load: " in found.reason


def test_a_cpu_that_no_kernel_fits_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        def __init__(self, _path: str) -> None:
            self.paritas_kernels = ctypes.CFUNCTYPE(ctypes.c_char_p)(lambda: None)

    monkeypatch.setattr(kernels.ctypes, "CDLL", Library)
    assert available_kernels().reason == "paritas has no kernels for this CPU"
