"""The commands in the pages that the tests do not run, and how each is checked instead.

A command is run where it stands, with three exceptions:

- what ONCE lists is run once for all pages, into the store that each page gets a copy of;
- what PARSED lists is parsed by the command line itself, with the reason why it is not run;
- what starts with a key of CHECKS is checked by that function.
"""

from __future__ import annotations

import itertools
import re
import shlex
import tomllib
from collections.abc import Callable

from paritas.cli import cli
from tests.docs.blocks import ROOT

ONCE = (
    "paritas export all-MiniLM-L6-v2",
    "paritas export intfloat/e5-small-v2",
    "paritas export ./my-model --pooling cls",
)
PARSED = {
    "paritas export all-MiniLM-L6-v2 --precision fp32,int8 --calibration my_texts.txt": "half a minute",
    "paritas export all-mpnet-base-v2 --precision fp32,int8": "minutes",
    "paritas export all-mpnet-base-v2 --precision fp32,int8 --calibration my_texts.txt"
    " --judgements ./scifact": "minutes, and SciFact's files",
    "paritas export my-org/my-encoder --frontend optimum": "PyTorch's exporter; tests/parity runs it",
    "paritas export all-MiniLM-L6-v2 --source ./checkpoint": "the model is exported already",
    "paritas export intfloat/e5-small-v2@main": "exported already, by the same commit",
    "paritas --registry my.yaml export my-encoder": "a hub id of the reader's own",
    "paritas --registry my.yaml export my-encoder --source ./checkpoint": "the reader's own checkpoint",
    "paritas encode s3://corpora/wiki/ --model all-MiniLM-L6-v2 --out s3://vectors/wiki": "the reader's own"
    " buckets; tests/unit/bulk runs it with a server of S3's protocol",
    "paritas encode s3://corpora/wiki/ --model all-MiniLM-L6-v2 --out s3://vectors/wiki --ray auto"
    " --ray-cpus 4": "a cluster; tests/unit/bulk runs one of two nodes",
    "paritas tune all-MiniLM-L6-v2 --precision int8": "45 seconds, and an INT8 bundle",
    "paritas verify all-MiniLM-L6-v2 --provider cuda": "a card",
    "paritas verify all-MiniLM-L6-v2 --reference package": "PyTorch; tests/parity compares with it",
}


def parse(command: str) -> None:
    """Let the command line read a command's arguments without running it."""
    words = shlex.split(command)[1:]
    if words[0] == "--registry":
        words = words[2:]
    cli.commands[words[0]].make_context(words[0], words[1:])


def check_pip(command: str) -> None:
    """Check that `pip install` names extras and packages that pyproject.toml has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    known = " ".join(requirement for listed in extras.values() for requirement in listed)
    known += (ROOT / "Makefile").read_text(encoding="utf-8")
    words = [word for word in shlex.split(command)[2:] if not word.startswith("-")]
    assert words, command
    for word in words:
        if found := re.fullmatch(r"(?:\.|paritas|\S+\.whl)(?:\[(?P<extras>[\w,]+)\])?", word):
            assert set((found["extras"] or "cpu").split(",")) <= set(extras), command
        else:
            assert re.split(r"[<>=]", word)[0] in known, command


def check_make(command: str) -> None:
    """Check that the Makefile has each target."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in shlex.split(command)[1:]:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"{command}: no target {target}"


def check_python(command: str) -> None:
    """Check that the files and modules that a developer's command names are there."""
    for word in shlex.split(command)[1:]:
        if "/" in word:
            assert (ROOT / word).exists(), f"{command}: no {word}"
        elif word.startswith(("kernels_bench", "tests.")):
            assert (ROOT / word.replace(".", "/")).with_suffix(".py").exists(), f"{command}: no {word}"


def check_docker(command: str) -> None:
    """Check the form, and that the files it names are there; tests/packaging runs what the files hold."""
    words = shlex.split(command)
    assert words[1] in {"build", "run", "compose", "create", "apply"}, command
    for option, path in itertools.pairwise(words):
        assert option != "-f" or (ROOT / path).is_file(), command


CHECKS: dict[str, Callable[[str], None]] = {
    "pip ": check_pip,
    "make ": check_make,
    "docker ": check_docker,
    "kubectl ": check_docker,
    ".venv/bin/python -m ": check_python,
    ".venv/bin/paritas ": lambda command: parse(command.removeprefix(".venv/bin/")),
}


def check_for(command: str) -> tuple[str, Callable[[str], None]] | None:
    """Return the entry that keeps a command from being run, with its check; None where it is run."""
    if command in ONCE or command in PARSED:
        return command, parse
    return next(((start, check) for start, check in CHECKS.items() if command.startswith(start)), None)
