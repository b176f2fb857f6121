"""Code blocks of the pages: where they stand, and how each language is run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])

_BLOCK = re.compile(
    r"^```(?P<language>[^\s`]*)(?P<rest>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
_FILE = re.compile(r"\A# (?P<name>[\w.-]+\.\w+)\n")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    code: str
    is_output: bool = False
    """Marked `text output`: what the last command before it writes, to the letter."""

    @property
    def place(self) -> str:
        """Where the block starts, as an editor takes it."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str | None:
        """The name in a first line such as `# worker.py`; such a block is saved and not run."""
        found = _FILE.match(self.code)
        return found["name"] if found else None


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, found["language"], found["code"], found["rest"].strip() == "output")


def commands(block: Block) -> list[str]:
    """Return the commands of a shell block without comments; lines that end in a backslash are one."""
    lines = re.sub(r"\\\n\s*", "", block.code).splitlines()
    return [bare for line in lines if (bare := re.sub(r"(^|\s+)# .*$", "", line).strip())]


def run_python(block: Block, names: dict[str, Any]) -> None:
    """Run a block among the names that earlier blocks of its page left.

    The code is moved down to its place in the page, so a traceback names the page's own line.
    """
    exec(compile("\n" * block.line + block.code, str(block.page), "exec"), names)


def run_shell(command: str, directory: Path) -> str:
    """Run one command in a directory and return its standard output.

    Raises:
        AssertionError: it failed; the message has what it wrote.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=directory,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{command}\nended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def served() -> Iterator[Callable[[str, Path], None]]:
    """Yield what starts a page's first server and waits until it is ready; others are not started."""
    processes: list[subprocess.Popen[str]] = []

    def serve(command: str, directory: Path) -> None:
        if processes:
            return
        words = [str(Path(sys.executable).parent / "paritas"), *shlex.split(command)[1:]]
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            processes.append(subprocess.Popen(words, cwd=directory, stderr=nowhere, text=True))
        until = time.monotonic() + 60
        while time.monotonic() < until and processes[0].poll() is None:
            with suppress(OSError), urlopen("http://127.0.0.1:8000/readyz", timeout=5):
                return
            time.sleep(0.1)
        raise AssertionError(f"{command}: was not ready within a minute")

    try:
        yield serve
    finally:
        for process in processes:
            process.terminate()
            assert process.wait(60) == 0
