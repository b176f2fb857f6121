"""How commands are run, and what is read from their answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Sets a limit or a signal, then becomes the command: preexec_fn is not safe beside the threads of a session.
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"
BECOME = "; import os, sys; os.execv(sys.executable, [sys.executable, '-m', 'paritas', *sys.argv[1:]])"


Result = subprocess.CompletedProcess[str]
Run = Callable[..., Result]


def command(before: str | None = None) -> list[str]:
    return [sys.executable, "-m", "paritas"] if before is None else [sys.executable, "-c", before + BECOME]


def write_jsonl(path: Path, documents: list[dict[str, Any]]) -> None:
    lines = [json.dumps(document, ensure_ascii=False) + "\n" for document in documents]
    path.write_text("".join(lines), encoding="utf-8")


def answer(result: Result) -> Any:
    """The one JSON document a successful command printed."""
    assert (result.returncode, result.stderr.count("Traceback")) == (0, 0), result.stderr
    return json.loads(result.stdout)


def said(result: Result) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout


def refused(result: Result, message: str) -> None:
    """A command that failed for what the user can mend: 2, and one line that says it."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    *progress, last = result.stderr.splitlines()
    assert last.startswith(("paritas: error: ", "Error: ")), result.stderr
    assert not [line for line in progress if "error" in line.lower()], result.stderr
    assert message in last
    assert result.stdout == ""
