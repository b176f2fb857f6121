"""The hub, by its real client against a server of ours: pins, faults, broken transfers, offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from paritas.errors import MissingExtraError
from paritas.export.checkpoint.sources import open_checkpoint
from paritas.registry import (
    HubSource,
    Model,
    PackageSource,
)
from tests.unit.export.checkpoint.checkpoints import FILES, NAME, model_of, refusal, shard
from tests.unit.export.checkpoint.hub_server import Hub
from tests.unit.files import contents, digests_of, sha256
from tests.unit.tiny import write_tiny_bert

REPO = "someone/tiny"


# The hub's client reads its settings when it is imported, so each fetch is a process of its own.
_FETCH = """
import hashlib, json, sys
from pathlib import Path
import msgspec
from paritas.errors import ParitasError
from paritas.export.checkpoint.sources import open_checkpoint, pin
from paritas.registry import Model

name, model, source = json.loads(sys.argv[1])
try:
    with open_checkpoint(name, msgspec.convert(model, Model), source) as checkpoint:
        pin(name, checkpoint)  # as an export does
        answer = msgspec.to_builtins({
            "kind": checkpoint.kind,
            "location": checkpoint.location,
            "revision": checkpoint.revision,
            "digests": checkpoint.digests,
            "files": {
                str(path.relative_to(checkpoint.directory)): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(checkpoint.directory.rglob("*")) if path.is_file()
            },
        })
except ParitasError as error:
    answer = {"error": type(error).__name__, "message": str(error)}
print(json.dumps(answer))
"""


Fetch = Callable[..., dict[str, Any]]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        yield server


@pytest.fixture
def fetch(hub: Hub, tmp_path: Path, home: Path) -> Fetch:
    """Fetch from the hub in a new process; the answer is what it found, or the error it ended with."""

    def run(
        model: Model, *, cache: str = "cache", source: str | None = "hub", **variables: str
    ) -> dict[str, Any]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
            and not name.lower().endswith("_proxy")
        }
        environment = {
            **inherited,
            "PARITAS_HOME": str(home),
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / cache),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **variables,
        }
        request = json.dumps([NAME, msgspec.to_builtins(model), source])
        # -P: the working directory's engine/ and export/ are no packages of that name.
        done = subprocess.run(
            [sys.executable, "-P", "-W", "error::ResourceWarning", "-c", _FETCH, request],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def assert_refused(answer: dict[str, Any], *parts: str) -> None:
    assert answer.get("error") == "SourceError", answer
    for part in parts:
        assert part in answer["message"]


def test_hub_pins_the_revision(hub: Hub, fetch: Fetch, tiny: Path, tmp_path: Path) -> None:
    pinned = hub.commit(REPO, contents(tiny))
    hub.commit(REPO, contents(write_tiny_bert(tmp_path / "newer", seed=1)))
    answer = fetch(model_of(hub=HubSource(REPO, pinned)))
    assert (answer["kind"], answer["location"], answer["revision"]) == ("hub", REPO, pinned)
    assert answer["digests"] == digests_of(tiny)
    resolved = [request.path for request in hub.requests if "/resolve/" in request.path]
    assert resolved
    assert all(f"/resolve/{pinned}/" in path for path in resolved)


def test_hub_files_arrive_whole_with_the_optional_ones(hub: Hub, fetch: Fetch, tiny: Path) -> None:
    files = contents(tiny) | {
        "modules.json": json.dumps(
            [
                {"name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                {"name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                {"name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
            ]
        ).encode(),
        "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
        "2_Dense/config.json": b"{}",
        "2_Dense/model.safetensors": (tiny / "model.safetensors").read_bytes(),
        "config_sentence_transformers.json": b"{}",
        "sentence_bert_config.json": b"{}",
        "tokenizer_config.json": b"{}",
        "special_tokens_map.json": b"{}",
        "added_tokens.json": b"{}",
        "README.md": b"not needed",
    }
    answer = fetch(model_of(hub=HubSource(REPO, hub.commit(REPO, files))))
    del files["README.md"]
    assert answer["files"] == {name: sha256(content) for name, content in files.items()}


def test_hub_shards_arrive(hub: Hub, fetch: Fetch, tiny: Path) -> None:
    shard(tiny)
    answer = fetch(model_of(hub=HubSource(REPO, hub.commit(REPO, contents(tiny)))))
    expected = digests_of(tiny)
    assert answer["files"] == expected
    assert answer["digests"] == expected


def test_hub_pickle_is_fetched_only_where_there_are_no_safetensors(
    hub: Hub, fetch: Fetch, tiny: Path
) -> None:
    files = contents(tiny) | {"pytorch_model.bin": b"a pickle"}
    answer = fetch(model_of(hub=HubSource(REPO, hub.commit(REPO, files))))
    assert "pytorch_model.bin" not in answer["files"]
    del files["model.safetensors"]
    answer = fetch(model_of(hub=HubSource(REPO, hub.commit(REPO, files))))
    assert answer["digests"]["pytorch_model.bin"] == sha256(b"a pickle")


def test_hub_file_that_is_not_the_registrys_is_refused(hub: Hub, fetch: Fetch, tiny: Path) -> None:
    commit = hub.commit(REPO, contents(tiny))
    expected = digests_of(tiny) | {"model.safetensors": "0" * 64}
    answer = fetch(model_of(hub=HubSource(REPO, commit), digests=expected))
    assert_refused(answer, "model.safetensors", "0" * 64, digests_of(tiny)["model.safetensors"], NAME)


def test_hub_file_that_changed_since_the_first_export_is_refused(
    hub: Hub, fetch: Fetch, tiny: Path, home: Path
) -> None:
    commit = hub.commit(REPO, contents(tiny))
    model = model_of(hub=HubSource(REPO, commit))
    assert fetch(model, cache="first")["digests"] == digests_of(tiny)
    assert json.loads((home / "pins.json").read_text()) == {f"{NAME}@{commit}": digests_of(tiny)}
    assert fetch(model, cache="second")["digests"] == digests_of(tiny)
    hub.change(REPO, commit, "tokenizer.json", b"{}")
    before = (home / "pins.json").read_bytes()
    answer = fetch(model, cache="third")
    assert_refused(answer, "tokenizer.json", sha256(b"{}"), digests_of(tiny)["tokenizer.json"], "pins.json")
    assert (home / "pins.json").read_bytes() == before


def test_hub_file_changed_in_the_cache_is_refused(hub: Hub, fetch: Fetch, tiny: Path, tmp_path: Path) -> None:
    model = model_of(hub=HubSource(REPO, hub.commit(REPO, contents(tiny))))
    fetch(model)
    (cached,) = (tmp_path / "cache").rglob("snapshots/*/config.json")
    cached.write_bytes(b"{ }")
    assert_refused(fetch(model), "config.json", sha256(b"{ }"), digests_of(tiny)["config.json"])


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_hub_missing_file_is_named(hub: Hub, fetch: Fetch, tiny: Path, file: str) -> None:
    files = contents(tiny)
    del files[file]
    commit = hub.commit(REPO, files)
    assert_refused(fetch(model_of(hub=HubSource(REPO, commit))), f"{REPO}@{commit}", file, "404")


def test_hub_missing_weights_are_named(hub: Hub, fetch: Fetch, tiny: Path) -> None:
    files = contents(tiny)
    del files["model.safetensors"]
    answer = fetch(model_of(hub=HubSource(REPO, hub.commit(REPO, files))))
    assert_refused(answer, REPO, "model.safetensors", "pytorch_model.bin")


def test_hub_missing_revision_is_named(hub: Hub, fetch: Fetch, tiny: Path) -> None:
    hub.commit(REPO, contents(tiny))
    assert_refused(fetch(model_of(hub=HubSource(REPO, "f" * 40))), REPO, f"revision {'f' * 40}", "404")


def test_hub_missing_repository_is_named(fetch: Fetch) -> None:
    assert_refused(fetch(model_of(hub=HubSource("no/body", "f" * 40))), "no/body", "no such repository")


def test_hub_private_repository_says_to_log_in(hub: Hub, fetch: Fetch, tiny: Path) -> None:
    commit = hub.commit(REPO, contents(tiny), access="private")
    assert_refused(fetch(model_of(hub=HubSource(REPO, commit))), REPO, "private", "401", "hf auth login")


def test_hub_gated_repository_says_to_accept_its_terms(hub: Hub, fetch: Fetch, tiny: Path) -> None:
    commit = hub.commit(REPO, contents(tiny), access="gated")
    assert_refused(fetch(model_of(hub=HubSource(REPO, commit))), REPO, "gated", "terms", "hf auth login")


def test_hub_broken_transfer_is_resumed(hub: Hub, fetch: Fetch, tmp_path: Path) -> None:
    # The client keeps what arrived in pieces of 10 MiB, so the file must be larger and break later.
    directory = write_tiny_bert(tmp_path / "large", vocab_size=200_000)
    commit = hub.commit(REPO, contents(directory))
    hub.break_once("model.safetensors", after=11 << 20)
    answer = fetch(model_of(hub=HubSource(REPO, commit)))
    assert answer["files"] == digests_of(directory)
    ranges = [request.range for request in hub.asked("model.safetensors")]
    assert ranges == [None, f"bytes={10 << 20}-"]


def test_hub_refusing_one_file_is_not_taken_for_its_absence(hub: Hub, fetch: Fetch, tiny: Path) -> None:
    # Else an outage would quietly turn to the pickle, or skip the check of the pooling.
    commit = hub.commit(REPO, contents(tiny) | {"pytorch_model.bin": b"a pickle"})
    hub.fail("model.safetensors", 403)
    assert_refused(fetch(model_of(hub=HubSource(REPO, commit))), "model.safetensors", "403")
    assert not hub.asked("pytorch_model.bin", "HEAD")


def test_hub_address_that_is_none_is_a_source_error(fetch: Fetch) -> None:
    answer = fetch(model_of(hub=HubSource(REPO, "f" * 40)), HF_ENDPOINT="nonsense://127.0.0.1")
    assert_refused(answer, f"{REPO}@{'f' * 40}", "config.json")


def test_hub_name_that_is_none_is_a_source_error(fetch: Fetch) -> None:
    assert_refused(fetch(model_of(hub=HubSource("a/b/c", "main"))), "a/b/c")


def test_hub_cache_serves_offline(hub: Hub, fetch: Fetch, tiny: Path) -> None:
    model = model_of(hub=HubSource(REPO, hub.commit(REPO, contents(tiny))))
    first = fetch(model)
    hub.requests.clear()
    assert fetch(model, HF_HUB_OFFLINE="1") == first
    assert hub.requests == []


def test_hub_cache_serves_a_pinned_commit_without_asking(hub: Hub, fetch: Fetch, tiny: Path) -> None:
    # Each question to a hub that is down costs the client half a minute of retries.
    model = model_of(hub=HubSource(REPO, hub.commit(REPO, contents(tiny))))
    first = fetch(model)
    hub.requests.clear()
    assert fetch(model) == first
    assert [request for request in hub.requests if "/resolve/" in request.path] == []


def test_hub_cache_of_a_branch_serves_offline(hub: Hub, fetch: Fetch, tiny: Path) -> None:
    hub.commit(REPO, contents(tiny))
    model = model_of(hub=HubSource(REPO, "main"))
    first = fetch(model)
    assert fetch(model, HF_HUB_OFFLINE="1") == first


def test_hub_branch_gains_a_file(hub: Hub, fetch: Fetch, tiny: Path) -> None:
    hub.commit(REPO, contents(tiny))
    model = model_of(hub=HubSource(REPO, "main"))
    assert set(fetch(model)["files"]) == set(FILES)
    more = {"tokenizer_config.json": b"{}"}
    commit = hub.commit(REPO, contents(tiny) | more)
    answer = fetch(model)
    assert set(answer["files"]) == {*FILES, *more}
    assert answer["revision"] == commit


def test_hub_cold_cache_offline_is_a_source_error(hub: Hub, fetch: Fetch, tiny: Path) -> None:
    commit = hub.commit(REPO, contents(tiny))
    answer = fetch(model_of(hub=HubSource(REPO, commit)), HF_HUB_OFFLINE="1")
    assert_refused(answer, f"{REPO}@{commit}", "config.json", "local cache", "offline")
    assert hub.requests == []


def test_hub_without_its_client_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with (
        pytest.raises(MissingExtraError, match=r"pip install 'paritas\[export\]'"),
        open_checkpoint(NAME, model_of(hub=HubSource(REPO, "main")), "hub"),
    ):
        pass


def test_model_without_a_hub_source_says_what_there_is() -> None:
    package = PackageSource(["no-such-package"], "model")
    message = refusal(model_of(package=package), "hub")
    assert "no hub source" in message
    assert "--source package or DIR" in message
