"""Clients that others wrote, each in an environment of its own, against a server's process.

`make test-clients` makes the environments that clients.txt lists and names their folder in PARITAS_CLIENTS.
A script of each client runs there. It is given the encoder's vectors, and checks what the client returns.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.clients.conftest import KEY, TEXTS, Running

pytestmark = pytest.mark.clients

HERE = Path(__file__).parent
_LINES = (HERE / "clients.txt").read_text(encoding="utf-8").splitlines()
NAMES = [line.partition(":")[0] for line in _LINES if not line.startswith("#")]
# What some clients ask other hosts for when they are imported, and whom they report to.
QUIET = {
    "DO_NOT_TRACK": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}


def run(name: str, arguments: list[str | Path], home: Path, **variables: str) -> str:
    """Run a command of a client's environment, with nothing of the user's settings, and return its output."""
    folder = Path(os.environ["PARITAS_CLIENTS"]) / name / "bin"
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", **QUIET, **variables}
    done = subprocess.run(
        [folder / arguments[0], *arguments[1:]],
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


@pytest.mark.parametrize("name", [name for name in NAMES if name != "schemathesis"])
def test_a_client_gets_the_encoders_vectors(name: str, server: Running, tmp_path: Path) -> None:
    script = HERE / "scripts" / f"{name.replace('-', '_')}_client.py"
    print(run(name, ["python", script, server.directory], tmp_path))


def test_no_made_up_request_makes_the_server_fail(server: Running, tmp_path: Path) -> None:
    command = ["schemathesis", "run", f"{server.url}/docs/openapi.json"]
    options = {
        "--header": f"Authorization: Bearer {KEY}",
        "--checks": "not_a_server_error",
        "--phases": "examples,coverage,fuzzing",
        "--max-examples": "200",
        "--seed": "20261128",
        "--request-timeout": "30",
    }
    words = [word for option in options.items() for word in option]
    hooks = str(HERE / "scripts" / "fuzz_hooks.py")
    print(run("schemathesis", [*command, *words, "--no-color"], tmp_path, SCHEMATHESIS_HOOKS=hooks))
    with server.client() as client:
        answer = client.post("/v1/encode", json={"texts": TEXTS, "role": "query", "model": "tiny-bert"})
    expected = np.load(server.directory / "tiny-bert.query.npy")
    assert np.array_equal(np.array(answer.json()["vectors"], np.float32), expected)
