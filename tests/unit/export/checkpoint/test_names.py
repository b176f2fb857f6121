"""A model by its name: registry id, hub id (through the hub's real client, a server of ours) or directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paritas import store
from paritas.engine.bundle.directory import Bundle
from paritas.engine.bundle.lookup import find
from paritas.engine.encoder import Encoder
from paritas.errors import BundleError, NotExportedError, RegistryError, SourceError
from paritas.export import export_model
from paritas.export.checkpoint.sources import open_same_checkpoint, resolve
from paritas.registry import Registry, load_registry
from tests.parity.fact_edits import control
from tests.unit.export.checkpoint.hub_server import Hub
from tests.unit.files import contents
from tests.unit.tiny import tiny_weights

REPO = "someone/tiny"
TEXTS = ["the ferry leaves in the morning", "why is the sky blue"]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        yield server


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    """A checkpoint that says all of itself."""
    return control(tmp_path / "checkpoint")


# Most users have neither it nor torch, whose import takes seconds.
_WITHOUT_TRANSFORMERS = """
import sys
if "--reference" not in sys.argv:
    sys.modules["transformers"] = None
from paritas.cli import main
main()
"""


class Shell:
    """The command line with a hub, a store and a hub cache of its own."""

    def __init__(self, hub: Hub, folder: Path, home: Path) -> None:
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))},
            "PARITAS_HOME": str(home),
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(folder / "hub-cache"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def run(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _WITHOUT_TRANSFORMERS, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr


@pytest.fixture
def shell(hub: Hub, tmp_path: Path, home: Path) -> Shell:
    return Shell(hub, tmp_path, home)


def files_of(directory: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(directory).items() if content is not None}


def newer(sentences: Path) -> dict[str, bytes]:
    """The files of a checkpoint of other weights."""
    from safetensors.numpy import save

    config = json.loads((sentences / "config.json").read_text(encoding="utf-8"))
    return files_of(sentences) | {"model.safetensors": save(tiny_weights(config, seed=9), {"format": "pt"})}


def test_a_hub_id_is_exported_found_verified_indexed_and_searched(
    hub: Hub, shell: Shell, sentences: Path, home: Path
) -> None:
    commit = hub.commit(REPO, files_of(sentences))
    exported = json.loads(shell.run("export", REPO, "--json"))
    assert Path(exported["bundle"]) == home / "bundles" / "someone--tiny"
    source = exported["manifest"]["source"]
    assert (source["kind"], source["location"], source["revision"]) == ("hub", REPO, commit)
    assert exported["manifest"]["model"] == REPO
    assert "verified" in shell.run("verify", REPO)
    assert "verified" in shell.run("verify", REPO, "--reference", "hub")
    (shell.folder / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    shell.run("index", "texts.txt", "--model", REPO, "--out", "x.index")
    assert TEXTS[1] in shell.run("search", "x.index", TEXTS[1], "-k", "1")
    vectors = Encoder(REPO, cache=False).encode(TEXTS, role="query")
    np.testing.assert_array_equal(
        vectors, Encoder(home / "bundles" / "someone--tiny").encode(TEXTS, role="query")
    )
    rows = {row["model"]: row for row in json.loads(shell.run("models", "--json"))}
    assert rows[REPO]["precisions"] == ["fp32"]
    assert rows[REPO]["pooling"] == "mean"


def test_a_hub_id_stays_at_the_commit_that_it_was_first_exported_from(
    hub: Hub, shell: Shell, sentences: Path
) -> None:
    first = hub.commit(REPO, files_of(sentences))
    shell.run("export", REPO)
    second = hub.commit(REPO, newer(sentences))

    def commit_of(name: str) -> str:
        return json.loads(shell.run("export", name, "--json"))["manifest"]["source"]["revision"]

    assert commit_of(REPO) == first
    assert commit_of(f"{REPO}@main") == second
    assert commit_of(f"{REPO}@{first}") == first
    assert commit_of(REPO) == first
    assert Encoder(f"{REPO}@main").fingerprint != Encoder(REPO).fingerprint
    assert Encoder(f"{REPO}@{first}").fingerprint == Encoder(REPO).fingerprint


def test_files_of_two_commits_are_never_mixed(hub: Hub, shell: Shell, sentences: Path) -> None:
    """The branch moves while the first file arrives: the rest comes from the commit of that one."""
    hub.commit(REPO, files_of(sentences))
    shell.run("export", REPO)
    resolved = [request.path for request in hub.requests if "/resolve/" in request.path]
    by_branch = [path for path in resolved if "/resolve/main/" in path]
    assert [path.rpartition("/")[2] for path in dict.fromkeys(by_branch)] == ["config.json"]


def test_a_model_that_was_not_exported_is_exported_by_index(hub: Hub, shell: Shell, sentences: Path) -> None:
    hub.commit(REPO, files_of(sentences))
    (shell.folder / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    assert "2 documents" in shell.run("index", "texts.txt", "--model", REPO, "--out", "x.index")
    short = ("--truncate-dim", "8")
    assert "2 documents" in shell.run(
        "index", "texts.txt", "--model", "./checkpoint", "--out", "y.index", *short
    )
    assert json.loads((shell.folder / "y.index" / "index.json").read_text(encoding="utf-8"))["dim"] == 8
    assert TEXTS[1] in shell.run("search", "y.index", TEXTS[1], "-k", "1")
    assert "truncate_dim is 17; expected 1 to 16" in shell.run(
        "index", "texts.txt", "--model", "./checkpoint", "--out", "z.index", "--truncate-dim", "17", code=2
    )


def test_a_repository_that_does_not_exist_is_one_line(shell: Shell, home: Path) -> None:
    message = shell.run("export", "nobody/nothing", code=2)
    assert message.strip().splitlines()[-1].startswith("paritas: error: nobody/nothing: no such repository")
    assert not (home / "bundles").exists() or list((home / "bundles").iterdir()) == []


def test_a_checkpoints_directory_is_exported_found_and_tuned(
    hub: Hub, shell: Shell, sentences: Path, home: Path
) -> None:
    bundle = Path(json.loads(shell.run("export", "checkpoint", "--json"))["bundle"])
    assert bundle.parent == home / "bundles"
    assert bundle.name.startswith("checkpoint-")
    for name in (sentences, str(sentences), f"{sentences}/", f"{sentences}/../checkpoint"):
        assert find(name) == bundle
    assert Encoder(sentences).encode(TEXTS, role="query").shape == (2, 16)
    assert "verified" in shell.run("verify", "./checkpoint", "--reference", "./checkpoint")
    assert json.loads(shell.run("tune", "./checkpoint", "--seconds", "3", "--json"))


def test_a_checkpoint_that_changed_since_is_refused(tmp_path: Path, sentences: Path) -> None:
    export_model(sentences)
    Encoder(sentences).close()
    path = sentences / "1_Pooling" / "config.json"
    path.write_text('{"pooling_mode": "cls"}', encoding="utf-8")
    with pytest.raises(
        BundleError, match=r"1_Pooling/config\.json: changed since the bundle was made from it; type:"
    ):
        Encoder(sentences)
    path.unlink()
    with pytest.raises(BundleError, match=r"1_Pooling/config\.json: missing since"):
        Encoder(sentences)


@pytest.mark.parametrize("name", ["adapter_config.json", "added_tokens.json", "special_tokens_map.json"])
def test_a_file_added_since_is_noticed(sentences: Path, name: str) -> None:
    export_model(sentences)
    (sentences / name).write_text("{}", encoding="utf-8")
    with pytest.raises(
        BundleError, match=rf"{name}: added since the bundle was made without it; type: paritas exp"
    ):
        Encoder(sentences)


def test_a_reference_with_a_file_more_is_refused(sentences: Path) -> None:
    bundle = export_model(sentences)
    (sentences / "added_tokens.json").write_text("{}", encoding="utf-8")
    with (
        pytest.raises(
            SourceError, match=r"added_tokens\.json: the bundle was made from a checkpoint without it"
        ),
        open_same_checkpoint(bundle, load_registry(), str(sentences)),
    ):
        pass


def test_two_directories_of_one_name_have_a_bundle_each(tmp_path: Path) -> None:
    first, second = control(tmp_path / "a" / "model"), control(tmp_path / "b" / "model")
    assert export_model(first).directory != export_model(second).directory
    assert find(first) != find(second)


def test_a_directory_comes_before_a_hub_id_and_an_id_before_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    control(Path("someone/tiny"))
    assert resolve(REPO, load_registry()).kind == "directory"
    assert resolve("someone/other", load_registry()).kind == "hub"
    control(Path("all-MiniLM-L6-v2"))
    assert resolve("all-MiniLM-L6-v2", load_registry()).kind == "registry"
    assert resolve("./all-MiniLM-L6-v2", load_registry()).kind == "directory"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "./nowhere",
            SourceError,
            "./nowhere: no such directory; expected one with config.json, or a hub id",
        ),
        ("a/b/c", SourceError, "a/b/c: no such directory"),
        ("a--b/c", SourceError, "a--b/c: no such directory"),
        ("", RegistryError, "the model's name is empty"),
        ("all-minilm-l6-v2", RegistryError, "did you mean 'all-MiniLM-L6-v2'"),
    ],
)
def test_a_name_that_is_none_says_what_there_is(
    name: str, error: Any, message: str, registry: Registry
) -> None:
    with pytest.raises(error) as caught:
        resolve(name, registry)
    assert message in str(caught.value)


@pytest.fixture
def registry() -> Registry:
    return load_registry()


def test_a_directory_without_a_checkpoint_is_refused(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(
        SourceError, match=r"no config\.json and no modules\.json; expected a checkpoint's directory"
    ):
        resolve(tmp_path, registry)


def test_a_source_beside_a_directory_is_refused(sentences: Path) -> None:
    with pytest.raises(SourceError, match="is a directory already; leave the option out"):
        export_model(sentences, source="hub")


@pytest.mark.parametrize("name", [REPO, f"{REPO}@main"])
def test_what_was_not_exported_says_what_to_type(name: str, sentences: Path) -> None:
    with pytest.raises(NotExportedError, match=f"; type: paritas export {name}"):
        Encoder(name)
    with pytest.raises(NotExportedError, match=r"checkpoint was not exported yet; type: paritas export /"):
        Encoder(sentences)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        ("intfloat/e5-small-v2", "intfloat--e5-small-v2"),
        ("intfloat/e5-small-v2@refs/pr/1", "intfloat--e5-small-v2@refs--pr--1"),
    ],
)
def test_a_bundle_lies_under_its_models_name(name: str, folder: str) -> None:
    assert store.bundle_path(name) == store.home() / "bundles" / folder


def test_a_missing_precision_says_how_the_bundle_was_made(sentences: Path, tmp_path: Path) -> None:
    for name in ("modules.json", "sentence_bert_config.json"):
        (sentences / name).unlink()
    shutil.rmtree(sentences / "1_Pooling")
    bundle = export_model(sentences, pooling="cls", out=tmp_path / "b")
    with pytest.raises(BundleError) as caught:
        Bundle(bundle.directory).variant("int8")
    expected = "paritas export DIR (its checkpoint) --precision fp32,int8 --pooling cls --frontend native"
    assert f"type: {expected} --out " in str(caught.value)
