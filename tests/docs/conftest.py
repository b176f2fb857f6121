"""What the pages' blocks find: a store with all-MiniLM-L6-v2, a hub, and a few files of a user's own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import run_shell
from tests.docs.not_run import ONCE
from tests.unit.export.checkpoint.hub_server import Hub
from tests.unit.tiny import write_prompted_bert

# The hub ids in the pages. The local hub has one small model under all of these names.
HUB_IDS = ("intfloat/e5-small-v2",)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint with prompts, laid out as sentence-transformers saves them."""
    return write_prompted_bert(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def hub_endpoint(checkpoint: Path) -> Iterator[str]:
    """The address of a hub on this machine."""
    files = {
        path.relative_to(checkpoint).as_posix(): path.read_bytes()
        for path in checkpoint.rglob("*")
        if path.is_file()
    }
    with Hub() as hub:
        for name in HUB_IDS:
            hub.commit(name, files)
        yield hub.endpoint


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, hub_endpoint: str) -> Path:
    """A store with what the commands of ONCE export."""
    directory = tmp_path_factory.mktemp("pages")
    _plain(checkpoint, directory / "my-model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARITAS_HOME", str(directory / "store"))
        patch.setenv("HF_ENDPOINT", hub_endpoint)
        patch.setenv("HF_HOME", str(directory / "hub"))
        for command in ONCE:
            run_shell(command, directory)
    return directory / "store"


@pytest.fixture
def scratch(
    tmp_path: Path,
    exported: Path,
    checkpoint: Path,
    hub_endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A page's own directory and store; the blocks of the page run in it."""
    store, directory = tmp_path / ".local/share/paritas", tmp_path / "work"
    shutil.copytree(exported, store, copy_function=os.link)
    directory.mkdir()
    _plain(checkpoint, directory / "my-model")
    monkeypatch.chdir(directory)
    monkeypatch.syspath_prepend(directory)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PARITAS_HOME", str(store))
    monkeypatch.setenv("HF_ENDPOINT", hub_endpoint)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return directory


def _plain(checkpoint: Path, target: Path) -> None:
    """Copy what transformers alone would save: a checkpoint that says nothing of its pooling."""
    target.mkdir()
    for path in checkpoint.iterdir():
        if path.is_file() and path.name not in {"modules.json", "config_sentence_transformers.json"}:
            shutil.copy(path, target)
