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

from tests.clients.running import KEY, TEXTS, Running

pytestmark = pytest.mark.clients

HERE = Path(__file__).parent
SCRIPTS = HERE / "scripts"
_LINES = (HERE / "clients.txt").read_text(encoding="utf-8").splitlines()
CLIENTS = [line.partition(":")[0] for line in _LINES if not line.startswith(("#", "schemathesis:"))]
# What some clients ask other hosts for when they are imported, and whom they report to.
QUIET = {
    "DO_NOT_TRACK": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}


def run(client: str, arguments: list[str | Path], home: Path, **variables: str) -> str:
    """Run a command of a client's environment, with nothing of the user's settings, and return its output."""
    folder = Path(os.environ["PARITAS_CLIENTS"]) / client / "bin"
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


def run_script(client: str, script: str, server: Running, home: Path, cache: Path) -> None:
    """Run a client's script; it may ask the server alone."""
    arguments = ["python", HERE.parent / "stay_here.py", SCRIPTS / script, server.directory]
    print(run(client, arguments, home, TIKTOKEN_CACHE_DIR=str(cache)))


def fuzz(server: Running, home: Path, *options: str) -> None:
    """Send a server what schemathesis makes up; the seed is fixed."""
    command = ["schemathesis", "run", f"{server.url}/docs/openapi.json", "--no-color"]
    settings = {
        "--header": f"Authorization: Bearer {KEY}",
        "--checks": "not_a_server_error",
        "--phases": "examples,coverage,fuzzing",
        "--max-examples": "150",
        "--seed": "20261128",
        "--request-timeout": "30",
    }
    words = [word for setting in settings.items() for word in setting]
    hooks = str(SCRIPTS / "fuzz_hooks.py")
    print(run("schemathesis", [*command, *words, *options], home, SCHEMATHESIS_HOOKS=hooks))


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_gets_the_encoders_vectors(
    client: str, server: Running, tmp_path: Path, tiktoken_cache: Path
) -> None:
    run_script(client, f"{client.replace('-', '_')}_client.py", server, tmp_path, tiktoken_cache)


def test_the_ids_that_langchain_sends_by_default_give_the_vectors_of_their_texts(
    server_of_ids: Running, tmp_path: Path, tiktoken_cache: Path
) -> None:
    run_script("langchain-openai", "langchain_openai_ids.py", server_of_ids, tmp_path, tiktoken_cache)


def test_no_made_up_request_makes_a_server_fail(server: Running, tmp_path: Path) -> None:
    fuzz(server, tmp_path)
    with server.client() as client:
        answer = client.post("/v1/encode", json={"texts": TEXTS, "role": "query", "model": "tiny-bert"})
    expected = np.load(server.directory / "tiny-bert.query.npy")
    assert np.array_equal(np.array(answer.json()["vectors"], np.float32), expected)


def test_no_made_up_ids_make_a_server_fail(server_of_ids: Running, tmp_path: Path) -> None:
    fuzz(server_of_ids, tmp_path, "--include-path", "/v1/embeddings")
