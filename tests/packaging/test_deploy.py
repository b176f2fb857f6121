"""deploy/: what the image's build runs, what it is built from, and what the cluster is told.

Images cannot be built here. So each command of the Dockerfile is run or parsed, and the wheel is built from
what .dockerignore lets through.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from paritas.cli import cli
from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from tests.packaging.conftest import ROOT, output
from tests.unit.serving.running import running

DEPLOY = ROOT / "deploy"


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions: word and the rest."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines if line.strip()]


def of(word: str) -> list[str]:
    return [rest for each, rest in instructions() if each == word]


def test_the_image_is_built_from_what_the_wheel_needs_and_from_nothing_else(
    wheel: Path, tmp_path: Path
) -> None:
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert allowed[0] == "*"
    for name in (line[1:] for line in allowed if line.startswith("!")):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(source, tmp_path / name)
    command = ["-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", tmp_path / "wheels", tmp_path]
    output([sys.executable, *command])
    (built,) = (tmp_path / "wheels").glob("*.whl")
    assert set(zipfile.ZipFile(built).namelist()) == set(zipfile.ZipFile(wheel).namelist())


def test_every_paritas_command_of_the_image_parses() -> None:
    ran = [rest for rest in of("RUN") if rest.startswith("paritas ")]
    ran += re.findall(r"exec (paritas .*?)\"\]", of("CMD")[0].replace('\\"', '"'))
    assert len(ran) == 2
    for command in ran:
        words = shlex.split(command.replace("$MODEL", "all-MiniLM-L6-v2").replace("$PRECISION", "fp32"))
        cli.commands[words[1]].make_context(words[1], words[2:])
    assert of("USER")[-1] == "10001"


def test_graphs_that_the_image_carries_are_used_by_who_may_not_write(
    tmp_path: Path, bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    built, copied = tmp_path / "built", tmp_path / "copied"
    shutil.copytree(bundles["tiny-bert"].directory, built / "bundles" / "tiny-bert")
    (warm,) = (rest for rest in of("RUN") if rest.startswith("python -c "))
    words = [sys.executable, *shlex.split(warm)[1:]]
    model = {"MODEL": str(built / "bundles" / "tiny-bert"), "PRECISION": "fp32"}
    environment = {**os.environ, **model, "PARITAS_HOME": str(built)}
    subprocess.run(words, env=environment, check=True)
    made = {path.name for path in (built / "cache" / "prepared").iterdir() if path.is_dir()}
    assert made
    # An image's files have other inodes, and here nobody may write.
    shutil.copytree(built, copied)
    monkeypatch.setenv("PARITAS_HOME", str(copied))
    optimized: list[object] = []
    monkeypatch.setattr(
        "paritas.engine.runtime.optimized.write_optimized", lambda *args, **_: optimized.append(args)
    )
    before = {path: path.stat().st_mtime_ns for path in (copied / "cache" / "prepared").rglob("model*")}
    assert before
    with Encoder(copied / "bundles" / "tiny-bert") as encoder:
        encoder.encode(["a", "two words"], role="query")
    assert optimized == []
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_health_check_follows_readiness(bert: Encoder, bundles: dict[str, Bundle]) -> None:
    check = re.search(r'CMD \["python", "-c", "(.*)"\]', of("HEALTHCHECK")[0])
    assert check is not None

    def healthy(port: object) -> bool:
        code = check[1].replace(":8000/", f":{port}/")
        return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0

    with running({"bert": bert}) as client:
        port = client.base_url.port
        assert healthy(port)
    assert not healthy(port)


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def test_kubernetes_takes_its_resources() -> None:
    for resource in documents("kubernetes.yaml"):
        kubernetes_validate.validate(resource, "1.31", strict=True)


def test_a_pod_drains_before_it_is_killed_and_has_the_cpus_it_asks_for() -> None:
    pod = documents("kubernetes.yaml")[0]["spec"]["template"]["spec"]
    (compose,) = documents("compose.yaml")
    options = {option.name: option.default for option in cli.commands["serve"].params}
    needed = options["grace"] + options["drain"]
    assert pod["terminationGracePeriodSeconds"] > needed
    assert int(compose["services"]["paritas"]["stop_grace_period"].rstrip("s")) > needed
    resources = pod["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"]
    for probe, path in (("startup", "/readyz"), ("readiness", "/readyz"), ("liveness", "/livez")):
        assert pod["containers"][0][f"{probe}Probe"]["httpGet"]["path"] == path


def test_compose_builds_the_dockerfile_with_arguments_that_it_has() -> None:
    build = documents("compose.yaml")[0]["services"]["paritas"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
    assert set(build["args"]) <= {rest.partition("=")[0] for rest in of("ARG")}
