"""A store of the test's own, and a checkpoint it may break."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.tiny import write_tiny_bert


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PARITAS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_bert(tmp_path / "tiny")
