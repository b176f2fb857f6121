"""The facts that every script reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from paritas.engine.bundle.directory import Bundle
from paritas.export import export_model
from paritas.registry import Registry
from tests.integrations import given
from tests.unit.tiny import write_prompted_bert


@pytest.fixture(scope="session")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model whose queries and passages have prompts."""
    checkpoint = write_prompted_bert(tmp_path_factory.mktemp("prompted"))
    return export_model(str(checkpoint), out=tmp_path_factory.mktemp("bundle") / "prompted")


@pytest.fixture(scope="session")
def facts(
    bundles: dict[str, Bundle],
    prompted: Bundle,
    tiny_registry: Registry,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder that scripts are given; its `home` is a store with all-MiniLM-L6-v2."""
    directory = tmp_path_factory.mktemp("facts")
    out = directory / "home" / "bundles" / "all-MiniLM-L6-v2"
    minilm = export_model("all-MiniLM-L6-v2", source="package", precisions=("fp32",), out=out)
    given.write(directory, {"minilm": minilm, "pairs": bundles["tiny-bert"], "prompted": prompted})
    return directory
