"""Runs commands in a folder of the test's own that has everything a command may be given."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from paritas.engine.bundle.directory import Bundle
from tests.unit.cli.runs import Result, Run, command, write_jsonl

DOCUMENTS = [
    {"_id": "sky", "title": "", "text": "why is the sky blue"},
    {"_id": "ferry", "title": "Island", "text": "the ferry leaves in the morning"},
    {"_id": "zürich", "title": "Straße", "text": "the train to Zürich — 日本の川 🚆"},
    {"_id": 7, "text": "what is the price of an apple"},
]


@pytest.fixture
def environment(tmp_path: Path, home: Path) -> dict[str, str]:
    """Whatever a command may write without being asked lies in the test's own folder."""
    (tmp_path / "scratch").mkdir()
    # onnxruntime writes less where it takes itself for a test.
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    return {
        **kept,
        "PARITAS_HOME": str(tmp_path / "home"),
        "HOME": str(tmp_path / "scratch"),
        "XDG_CACHE_HOME": str(tmp_path / "scratch"),
        "TMPDIR": str(tmp_path / "scratch"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str]) -> Run:
    def run(*arguments: str, before: str | None = None, stdin: str = "") -> Result:
        return subprocess.run(
            [*command(before), *arguments],
            input=stdin,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def template(
    tmp_path_factory: pytest.TempPathFactory,
    bundles: dict[str, Bundle],
    checkpoints: dict[str, Path],
    tiny_registry_path: Path,
) -> Path:
    """A folder with everything a command may be given: registry, checkpoints, bundles, corpus, index."""
    folder = tmp_path_factory.mktemp("template")
    shutil.copy(tiny_registry_path, folder / "tiny.yaml")
    for model in ("bert", "mpnet"):
        shutil.copytree(checkpoints[f"tiny-{model}"], folder / f"{model}.checkpoint")
        shutil.copytree(bundles[f"tiny-{model}"].directory, folder / f"{model}.bundle")
    write_jsonl(folder / "corpus.jsonl", DOCUMENTS)
    arguments = shlex.split("index corpus.jsonl --model mpnet.bundle --out corpus.index --json")
    subprocess.run([*command(), *arguments], cwd=folder, check=True, capture_output=True, timeout=120)
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    """The test's own copy of the template; commands run in it."""
    return shutil.copytree(template, tmp_path, dirs_exist_ok=True)
