"""JSON nested without end, in every file that is read: an error that names the file, or no such file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from paritas.engine.bundle.directory import Bundle, file_names
from paritas.errors import BundleError, SourceError
from paritas.export.checkpoint.modules import read_entries

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def copied(bundles: dict[str, Bundle], tmp_path: Path) -> Path:
    return shutil.copytree(bundles["tiny-bert"].directory, tmp_path / "bundle")


def test_a_manifest(copied: Path) -> None:
    path = copied / "manifest.json"
    whole = json.loads(path.read_bytes())
    path.write_text(json.dumps({**whole, "more": 0}).replace('"more": 0', f'"more": {DEEP}'), "utf-8")
    with pytest.raises(BundleError, match=r"manifest\.json: "):
        Bundle(copied)
    with pytest.raises(BundleError, match=r"not a bundle: manifest\.json: "):
        file_names(copied)


def test_modules(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(f'[{{"more": {DEEP}}}]', "utf-8")
    with pytest.raises(SourceError, match=r"modules\.json: cannot be read: "):
        read_entries(tmp_path)
