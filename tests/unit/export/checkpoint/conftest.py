"""A checkpoint that a test may break."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.tiny import write_tiny_bert


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_bert(tmp_path / "tiny")
