"""What is shipped, built once, and an environment that has nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGED = ("src", "engine", "export", "examples")
FOLDERS = (*PACKAGED, "native", "kernels_bench", "tests", "docs", "deploy")


def run(
    arguments: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command outside of this checkout's import path."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env={**inherited, **(env or {})},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def output(
    arguments: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Return what a command wrote; one that fails fails the test."""
    result = run(arguments, cwd=cwd, env=env)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source distribution, and the wheel built from it and from nothing else."""
    source = tmp_path_factory.mktemp("source")
    # A copy: building would leave build/ behind, whose files get into the next wheel.
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so", "build")
    for folder in FOLDERS:
        if (ROOT / folder).is_dir():
            shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    output([sys.executable, "-m", "build", "--outdir", source / "dist", source])
    return source / "dist"


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that has the wheel and its base dependencies, no extra."""
    environment = tmp_path_factory.mktemp("bare")
    output([sys.executable, "-m", "venv", "--without-pip", environment])
    python = environment / "bin" / "python"
    output([sys.executable, "-m", "pip", "--python", python, "install", "-q", wheel])
    return environment / "bin"
