"""What the emulated CPUs run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from paritas.engine.bundle.directory import Bundle
from paritas.export import export_model


@pytest.fixture(scope="session")
def emulators() -> Path:
    return Path(os.environ["PARITAS_EMULATORS"])


@pytest.fixture(scope="session")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("dynamic") / "bundle"
    options: dict[str, Any] = {"precisions": ("fp32", "int8")}
    return export_model("all-MiniLM-L6-v2", source="package", out=out, **options)
