"""JSON nested without end, in every file that is read: an error that names the file, or no such file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from paritas.engine.bundle import PROBES, Bundle, digest, file_names
from paritas.engine.checked import Checked
from paritas.engine.settings import read_tuned, tuned_path
from paritas.errors import BundleError, SourceError
from paritas.export.certify import load_reference
from paritas.export.checkpoint import pins
from paritas.export.checkpoint.modules import read_entries
from paritas.export.second_reading.reading import open_second_reading

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


def test_probes(copied: Path) -> None:
    (copied / PROBES).write_text(DEEP, "utf-8")
    manifest = json.loads((copied / "manifest.json").read_bytes())
    manifest["files"][PROBES] = {"sha256": digest(copied / PROBES), "size_bytes": len(DEEP)}
    (copied / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(BundleError, match=r"probes\.json or reference\.npy cannot be read: "):
        load_reference(Bundle(copied))


def test_pins(home: Path) -> None:
    home.mkdir(parents=True)
    (home / "pins.json").write_text(f'{{"owner/name": {DEEP}}}', "utf-8")
    with pytest.raises(SourceError, match=r"pins\.json: cannot be read: "):
        pins.pinned_commit("owner/name")


def test_modules(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(f'[{{"more": {DEEP}}}]', "utf-8")
    with pytest.raises(SourceError, match=r"modules\.json: cannot be read: "):
        read_entries(tmp_path)


def test_a_tokenizers_files(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = shutil.copytree(checkpoints["tiny-bert"], tmp_path / "checkpoint")
    (checkpoint / "tokenizer_config.json").write_text(DEEP, "utf-8")
    with pytest.raises(SourceError, match=r"checkpoint: .* maximum recursion depth"):
        open_second_reading(checkpoint, lowercase=None)


def test_what_is_only_kept_for_speed_is_made_again(copied: Path) -> None:
    bundle = Bundle(copied)
    path = tuned_path(bundle, "fp32")
    path.parent.mkdir(parents=True)
    path.write_text(f'{{"more": {DEEP}}}', "utf-8")
    assert read_tuned(bundle, "fp32") is None
    known = Checked(copied)._path
    known.parent.mkdir(parents=True)
    known.write_text(f'{{"manifest.json": {{"more": {DEEP}}}}}', "utf-8")
    assert Checked(copied).digest("manifest.json") is None
