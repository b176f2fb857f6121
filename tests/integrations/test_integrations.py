"""Each integration against its framework, in an environment of its own.

`make test-integrations` makes the environments that environments.txt lists and names their folder in
PARITAS_INTEGRATIONS. A script of each runs there, and so does its example in docs/integrations.md.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from paritas.integrations import INTEGRATIONS
from tests.docs.blocks import ROOT, blocks
from tests.evaluation.test_quality import data

pytestmark = pytest.mark.integrations

HERE = Path(__file__).parent
SCRIPTS = HERE / "scripts"
ENVIRONMENTS = {
    name: requirements.split()
    for name, _, requirements in (
        line.partition(": ") for line in (HERE / "environments.txt").read_text(encoding="utf-8").splitlines()
    )
    if not name.startswith("#")
}
QUIET = {
    "ANONYMIZED_TELEMETRY": "False",
    "DO_NOT_TRACK": "1",
    "DSPY_CACHEDIR": "cache",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "TOKENIZERS_PARALLELISM": "false",
}


def module_of(environment: str) -> str:
    return re.sub(r"_\d+$", "", environment)


def run(environment: str, script: Path, facts: Path, home: Path, **more: str) -> str:
    """Run a script in an environment, with nothing of the user's settings, and return its output."""
    python = Path(os.environ["PARITAS_INTEGRATIONS"]) / environment / "bin" / "python"
    variables = {"HOME": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", **QUIET}
    done = subprocess.run(
        [python, ROOT / "tests" / "stay_here.py", script, facts],
        cwd=home,
        env={**variables, "PARITAS_HOME": str(facts / "home"), **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,  # SciFact through mteb, on a slow machine
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_integration_gives_the_encoders_vectors(environment: str, facts: Path, tmp_path: Path) -> None:
    print(run(environment, SCRIPTS / f"{module_of(environment)}_checks.py", facts, tmp_path))


def test_mteb_gives_the_known_figures(facts: Path, tmp_path: Path) -> None:
    folder = str(data().resolve())
    print(run("mteb", SCRIPTS / "mteb_figures.py", facts, tmp_path, PARITAS_EVAL_DATA=folder))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_its_example_runs(environment: str, facts: Path, tmp_path: Path) -> None:
    name = f"{module_of(environment)}_example.py"
    (example,) = [one for one in blocks(ROOT / "docs" / "integrations.md") if one.file == name]
    script = tmp_path / name
    script.write_text(example.code, encoding="utf-8")
    print(run(environment, script, facts, tmp_path))


def test_each_integration_has_an_environment() -> None:
    frameworks = {one.module for one in INTEGRATIONS if one.distribution}
    assert {module_of(name) for name in ENVIRONMENTS} == frameworks


@pytest.mark.parametrize("one", [one for one in INTEGRATIONS if one.distribution], ids=lambda one: one.module)
def test_the_tested_release_is_the_one_that_is_named(one: object) -> None:
    named = one.tested.split(", ")
    pins = [
        requirement.partition("==")[2]
        for name, requirements in ENVIRONMENTS.items()
        if module_of(name) == one.module
        for requirement in requirements[:1]
    ]
    assert sorted(named) == sorted(pins)
