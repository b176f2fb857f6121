"""What is printed where: terminals that lack characters, names that are not UTF-8, failures as documents."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from paritas.cli import cli
from tests.unit.cli.runs import Result, Run, answer, command, refused
from tests.unit.files import contents

BAD = os.fsdecode(b"d\xff")


@pytest.fixture
def raw(folder: Path, environment: dict[str, str]) -> Any:
    """Runs a command whose answers may be no UTF-8."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*command(), *arguments],
            cwd=folder,
            env={**environment, **variables},
            capture_output=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252", "koi8-r"])
def test_a_terminal_that_lacks_a_character_shows_another(raw: Any, encoding: str) -> None:
    found = raw("search", "corpus.index", "the train 🚆", PYTHONIOENCODING=encoding)
    assert (found.returncode, found.stderr) == (0, b"")
    assert found.stdout.splitlines()[0].startswith(b"the train ")
    assert b"to Z" in found.stdout


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_json_loses_no_character_on_any_terminal(raw: Any, encoding: str) -> None:
    found = raw("search", "corpus.index", "the train 🚆", "--json", PYTHONIOENCODING=encoding)
    assert found.returncode == 0
    (only,) = json.loads(found.stdout.decode(encoding))
    assert only["query"] == "the train 🚆"
    assert "the train to Zürich — 日本の川 🚆" in [hit["text"] for hit in only["hits"]]


def test_documents_of_a_name_that_is_not_utf8_are_read(folder: Path, run: Run) -> None:
    (folder / BAD).mkdir()
    corpus = f"{BAD}/corpus.jsonl"
    shutil.copy(folder / "corpus.jsonl", folder / corpus)
    made = answer(run("index", corpus, *shlex.split("--model mpnet.bundle --out new --json")))
    measured = answer(run("recall", "corpus.index", "--queries", corpus, "--json"))
    assert (made["documents"], measured["queries"]) == (4, 4)


NOT_UTF8 = {
    "an index to be made": ["index", "bad.jsonl", "--model", "mpnet.bundle", "--out", BAD],
    "an index": ["search", f"{BAD}/corpus.index", "sky"],
    "an index to be measured": ["recall", f"{BAD}/corpus.index"],
    "an index to be shown": ["demo", "--out", BAD],
    "a model": ["index", "corpus.jsonl", "--model", f"{BAD}/bert.bundle", "--out", "new"],
    "a bundle": ["verify", f"{BAD}/bert.bundle"],
    "a bundle to be tuned": ["tune", f"{BAD}/bert.bundle"],
    "a checkpoint": ["--registry", "tiny.yaml", "export", "tiny-bert", "--source", f"{BAD}/bert.checkpoint"],
    "a checkpoint as a model": ["export", f"{BAD}/bert.checkpoint"],
    "a bundle to be made": [
        *shlex.split("--registry tiny.yaml export tiny-bert --source bert.checkpoint --out"),
        f"{BAD}/new",
    ],
    "judgements": ["verify", "bert.bundle", "--judgements", f"{BAD}/scifact"],
    "calibration": [
        *shlex.split("--registry tiny.yaml export tiny-bert --source bert.checkpoint --precision int8"),
        *["--calibration", f"{BAD}/corpus.jsonl"],
    ],
}


@pytest.mark.parametrize("what", NOT_UTF8)
def test_what_cannot_have_such_a_name_is_refused_before_any_work(folder: Path, run: Run, what: str) -> None:
    (folder / BAD).mkdir()
    for name in ("bert.bundle", "bert.checkpoint", "corpus.index"):
        shutil.copytree(folder / name, folder / BAD / name)
    shutil.copy(folder / "corpus.jsonl", folder / BAD)
    (folder / "bad.jsonl").write_text("{", encoding="utf-8")
    before = set(contents(folder))
    refused(run(*NOT_UTF8[what]), "is not UTF-8; rename it or take another")
    assert {name for name in contents(folder) if not name.startswith("home")} == before


@pytest.mark.parametrize("line", ["doctor", "models", "verify bert.bundle", "verify all-MiniLM-L6-v2"])
def test_a_store_of_such_a_name_is_named(
    folder: Path, run: Run, environment: dict[str, str], line: str
) -> None:
    environment["PARITAS_HOME"] = f"./{BAD}/home"
    result = run(*shlex.split(line))
    if line == "doctor":
        assert "is not UTF-8" in result.stdout
        assert "type: export PARITAS_HOME=DIR" in result.stdout
    elif line != "verify bert.bundle":
        refused(result, "type: export PARITAS_HOME=DIR")


def documented(result: Result, kind: str, message: str, code: int = 2) -> None:
    """A failure: one document on standard output, what it says on standard error too."""
    (error,) = json.loads(result.stdout).values()
    assert (error["type"], error["exit_code"], result.returncode) == (kind, code, code)
    assert message in error["message"]
    assert "\n" not in error["message"]
    assert message in result.stderr


FAILURES = {
    "models": ("--registry none.yaml models --json", "RegistryError", "none.yaml: cannot be read"),
    "export": ("export tiny-brt --json", "RegistryError", "unknown model 'tiny-brt'"),
    "verify": ("verify ./none --json", "BundleError", "none: no such bundle directory"),
    "encode": (
        "encode none.txt --model mpnet.bundle --out new --json",
        "InputError",
        "none.txt: no such file",
    ),
    "compare": (
        "compare none.npy --texts corpus.jsonl --model mpnet.bundle --json",
        "InputError",
        "none.npy: cannot be read as .npy",
    ),
    "job": ("job none --json", "JobError", "none: holds no job"),
    "index": ("index none.txt --model mpnet.bundle --out new --json", "InputError", "none.txt: no such file"),
    "search": ("search none.index sky --json", "VectorIndexError", "none.index: no index there"),
    "recall": ("recall none.index --json", "VectorIndexError", "none.index: no index there"),
    "demo": ("demo --out tiny.yaml --json", "VectorIndexError", "tiny.yaml: is a file"),
    "tune": ("tune bert.bundle --seconds 0 --json", "InputError", "seconds is 0.0"),
    "an unknown option": (
        "search a.index sky --topk 3 --json",
        "UsageError",
        "No such option '--topk'",
    ),
    "a missing argument": ("search --json", "UsageError", "Missing argument 'INDEX'"),
    "a bad value": ("search corpus.index sky -k 0 --json", "UsageError", "0 is not in the range"),
    "an unknown command": ("serach --json", "UsageError", "No such command 'serach'"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_a_failure_is_a_document_where_json_was_asked_for(folder: Path, run: Run, what: str) -> None:
    line, kind, message = FAILURES[what]
    result = run(*shlex.split(line))
    documented(result, kind, message)
    refused(run(*shlex.split(line.replace(" --json", ""))), message)


def test_every_command_with_json_is_tried() -> None:
    with_json = {name for name, one in cli.commands.items() if "as_json" in {p.name for p in one.params}}
    assert with_json - {"doctor"} <= set(FAILURES)  # whose answer is what is wrong


def test_a_query_that_looks_like_the_option_asks_for_no_document(folder: Path, run: Run) -> None:
    refused(run("search", "none.index", "--", "--json"), "none.index: no index there")


def test_a_fault_of_ours_is_a_document_too(folder: Path, environment: dict[str, str]) -> None:
    fault = (
        "import sys; from paritas import models; from paritas.cli import main\n"
        "def find(model): raise RuntimeError('a wheel came off')\n"
        "models.find = find\n"
        "sys.argv = ['paritas', 'verify', 'bert.bundle', '--json']\n"
        "main()\n"
    )
    arguments = [command()[0], "-c", fault]
    result = subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    documented(result, "RuntimeError", "a wheel came off", code=1)
    assert result.stderr.startswith("Traceback")


def test_one_document_is_printed_and_no_second_one() -> None:
    script = (
        "import sys; sys.argv = ['paritas', 'models', '--json']\n"
        "from paritas.cli.options import print_json, show_error\n"
        "print_json([1]); show_error('Interrupted', 'late', 130, quiet=True)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == [1]
