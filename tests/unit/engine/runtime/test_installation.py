"""Which onnxruntime is installed, by whatever name it was built."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from paritas.engine.runtime.installation import installed_runtimes


def install(folder: Path, name: str, package: str = "onnxruntime") -> None:
    record = folder / f"{name.replace('-', '_')}-1.30.0.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.30.0\n")
    (record / "RECORD").write_text(f"{package}/__init__.py,sha256=x,1\n{record.name}/METADATA,,\n")
    (folder / package).mkdir(exist_ok=True)
    (folder / package / "__init__.py").touch()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that is installed."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "onnxruntime",
        "onnxruntime-gpu",
        "onnxruntime-training",
        "onnxruntime-training-cpu",
        "ort-nightly",
        "ort-nightly-gpu",
        "intel-build-of-it",
    ],
)
def test_any_distribution_that_brings_it_counts(site: Path, name: str) -> None:
    install(site, name)
    assert installed_runtimes() == [name]


def test_what_is_only_called_like_it_does_not(site: Path) -> None:
    install(site, "onnxruntime-genai", "onnxruntime_genai")
    install(site, "onnxruntime-extensions", "onnxruntime_extensions")
    assert installed_runtimes() == []
    install(site, "onnxruntime-gpu")
    assert installed_runtimes() == ["onnxruntime-gpu"]


def test_two_of_them_clash_whatever_they_are_called(site: Path) -> None:
    install(site, "ort-nightly")
    install(site, "onnxruntime")
    assert installed_runtimes() == ["onnxruntime", "ort-nightly"]


def test_a_build_without_a_record_counts_by_its_name(site: Path) -> None:
    assert installed_runtimes() == []
    (site / "onnxruntime").mkdir()
    assert installed_runtimes() == []  # what an uninstalled one may leave
    (site / "onnxruntime" / "__init__.py").touch()
    assert installed_runtimes() == ["onnxruntime"]
