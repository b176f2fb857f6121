"""Where checkpoints come from, and what is refused on the way."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from paritas.engine.bundle import Bundle
from paritas.errors import MissingExtraError, SourceError
from paritas.export.checkpoint import open_weights, weight_files
from paritas.export.networks import open_network
from paritas.export.sources import Checkpoint, open_checkpoint, open_same_checkpoint
from paritas.registry import HubSource, Model, PackageSource, Registry, Role, Sources, load_registry
from tests.unit.hub_server import Hub
from tests.unit.tiny import BERT, write_tiny_bert

REPO = "someone/tiny"
NAME = "tiny"
FILES = ("config.json", "tokenizer.json", "model.safetensors")

# The hub's client reads its settings when it is imported, so each fetch is a process of its own.
_FETCH = """
import hashlib, json, sys
from pathlib import Path
import msgspec
from paritas.errors import ParitasError
from paritas.export.sources import open_checkpoint
from paritas.registry import Model

name, model, source = json.loads(sys.argv[1])
try:
    with open_checkpoint(name, msgspec.convert(model, Model), source) as checkpoint:
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


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PARITAS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_bert(tmp_path / "tiny")


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


def model_of(
    *,
    hub: HubSource | None = None,
    package: PackageSource | None = None,
    digests: dict[str, str] | None = None,
) -> Model:
    return Model(
        network="bert",
        dim=16,
        pooling="mean",
        roles={"query": Role(max_length=40)},
        sources=Sources(hub=hub, package=package),
        digests=digests or {},
    )


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def digests_of(directory: Path) -> dict[str, str]:
    return {name: sha256(content) for name, content in contents(directory).items()}


def assert_refused(answer: dict[str, Any], *parts: str) -> None:
    assert answer.get("error") == "SourceError", answer
    for part in parts:
        assert part in answer["message"]


def shard(directory: Path) -> None:
    """Split model.safetensors into two shards and an index."""
    weights = load_file(directory / "model.safetensors")
    names = sorted(weights)
    halves = [names[::2], names[1::2]]
    weight_map = {}
    for number, half in enumerate(halves, 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in half}, directory / file)
        weight_map.update(dict.fromkeys(half, file))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (directory / "model.safetensors").unlink()


# The hub.


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
        "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
        "tokenizer_config.json": b"{}",
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
    del expected["model.safetensors.index.json"]
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
    pooling = {"1_Pooling/config.json": b"{}"}
    hub.commit(REPO, contents(tiny) | pooling)
    assert set(fetch(model)["files"]) == {*FILES, *pooling}


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


# An installed package.


def opened(model: Model, source: str | None, name: str = NAME) -> Checkpoint:
    with open_checkpoint(name, model, source) as checkpoint:
        return checkpoint


def refusal(model: Model, source: str | None) -> str:
    with pytest.raises(SourceError) as caught:
        opened(model, source)
    return str(caught.value)


def install(site: Path, name: str, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay out a distribution as pip leaves it, and make it importable."""
    information = f"{name.replace('-', '_')}-1.0.dist-info"
    written = {
        **files,
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
    }
    for file, content in written.items():
        path = site / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    record = [*written, f"{information}/RECORD"]
    (site / information / "RECORD").write_text("".join(f"{file},,\n" for file in record))
    monkeypatch.syspath_prepend(str(site))


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def install_zip(
    site: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch, *, cuts: tuple[int, ...] = ()
) -> PackageSource:
    """Install an archive as one distribution per part, cut at the given places."""
    ends = [*cuts, len(archive)]
    parts = [archive[start:end] for start, end in zip([0, *cuts], ends, strict=True)]
    names = [f"paritas-test-part-{number}" for number in range(len(parts))]
    files = [f"{name.replace('-', '_')}/tiny.zip.{number}" for number, name in enumerate(names)]
    for name, file, part in zip(names, files, parts, strict=True):
        install(site, name, {file: part}, monkeypatch)
    return PackageSource(names, "tiny", files)


def test_package_is_found_among_the_installed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = write_tiny_bert(tmp_path / "site" / "paritas_test" / "model")
    install(tmp_path / "site", "paritas-test", {}, monkeypatch)
    model = model_of(package=PackageSource(["paritas-test"], "paritas_test/model"), digests=digests_of(tiny))
    with open_checkpoint(NAME, model, "package") as checkpoint:
        assert (checkpoint.kind, checkpoint.location, checkpoint.revision) == (
            "package",
            "paritas-test",
            "1.0",
        )
        assert checkpoint.directory.samefile(tiny)
        assert checkpoint.digests == digests_of(tiny)


def test_installed_package_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_bert(tmp_path / "site" / "paritas_test")
    install(tmp_path / "site", "paritas-test", {}, monkeypatch)
    model = model_of(hub=HubSource(REPO, "main"), package=PackageSource(["paritas-test"], "paritas_test"))
    assert opened(model, None).kind == "package"


def test_package_all_minilm_is_the_registrys() -> None:
    model = load_registry()["all-MiniLM-L6-v2"]
    package = model.sources.package
    assert package is not None
    try:
        version = metadata.version(package.distributions[0])
    except metadata.PackageNotFoundError:
        pytest.skip(f"{package.distributions[0]} is not installed")
    with open_checkpoint("all-MiniLM-L6-v2", model, "package") as checkpoint:
        assert checkpoint.revision == version
        assert checkpoint.digests["model.safetensors"] == model.digests["model.safetensors"]
        network, _ = open_network(checkpoint.directory)
    assert (network.kind, network.layers, network.dim) == ("bert", 6, model.dim)


def test_package_that_is_not_installed_says_what_to_type() -> None:
    package = PackageSource(["paritas-no-such-a", "paritas-no-such-b"], "model")
    message = refusal(model_of(package=package), "package")
    assert "pip install --no-deps paritas-no-such-a paritas-no-such-b" in message


def test_package_file_that_is_not_the_registrys_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = write_tiny_bert(tmp_path / "site" / "paritas_test")
    install(tmp_path / "site", "paritas-test", {}, monkeypatch)
    package = PackageSource(["paritas-test"], "paritas_test")
    message = refusal(model_of(package=package, digests={"config.json": "0" * 64}), "package")
    for part in ("config.json", "0" * 64, digests_of(tiny)["config.json"]):
        assert part in message


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_package_zip_in_parts_unpacks_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path, compression: int
) -> None:
    archive = zipped({f"tiny/{name}": content for name, content in contents(tiny).items()}, compression)
    cuts = (len(archive) // 3, len(archive) // 2, len(archive) - 1)
    package = install_zip(tmp_path / "site", archive, monkeypatch, cuts=cuts)
    with open_checkpoint(NAME, model_of(package=package), "package") as checkpoint:
        assert contents(checkpoint.directory) == contents(tiny)
        assert checkpoint.digests == digests_of(tiny)
        assert checkpoint.location == ", ".join(package.distributions)
    assert not checkpoint.directory.exists()


def test_package_zip_may_be_cut_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A cut inside one of the archive's own records must not be taken for its end.
    files = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"weights"}
    archive = zipped({f"tiny/{name}": content for name, content in files.items()}, zipfile.ZIP_STORED)
    package = install_zip(tmp_path / "site", archive, monkeypatch, cuts=(1, 2))
    parts = [tmp_path / "site" / part for part in package.archive]
    for cut in range(1, len(archive) - 1):
        for part, content in zip(
            parts, (archive[:cut], archive[cut : cut + 1], archive[cut + 1 :]), strict=True
        ):
            part.write_bytes(content)
        with open_checkpoint(NAME, model_of(package=package), "package") as checkpoint:
            assert contents(checkpoint.directory) == files


def test_package_without_one_of_the_parts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    archive = zipped({f"tiny/{name}": content for name, content in contents(tiny).items()})
    package = install_zip(tmp_path / "site", archive, monkeypatch, cuts=(1000,))
    (tmp_path / "site" / package.archive[1]).unlink()
    assert "tiny.zip.1: not among the files of" in refusal(model_of(package=package), "package")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("damage", ["flipped", "cut short", "parts swapped", "empty"])
def test_package_damaged_zip_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path, compression: int, damage: str
) -> None:
    archive = zipped({f"tiny/{name}": content for name, content in contents(tiny).items()}, compression)
    half = len(archive) // 2
    damaged = {
        "flipped": archive[:half]
        + bytes(255 - byte for byte in archive[half : half + 64])
        + archive[half + 64 :],
        "cut short": archive[:half],
        "parts swapped": archive[half:] + archive[:half],
        "empty": b"",
    }[damage]
    package = install_zip(tmp_path / "site", damaged, monkeypatch, cuts=(len(damaged) // 4,))
    assert "tiny.zip.0" in refusal(model_of(package=package), "package")


def test_package_zip_with_any_byte_wrong_is_refused_or_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"config.json": b"{}" * 20, "tokenizer.json": b"{}", "model.safetensors": b"weights" * 9}
    archive = zipped({f"tiny/{name}": content for name, content in files.items()})
    package = install_zip(tmp_path / "site", archive, monkeypatch)
    digests = {name: sha256(content) for name, content in files.items()}
    model = model_of(package=package, digests=digests)
    refused = 0
    for place in range(len(archive)):
        wrong = bytes([archive[place] ^ 0xFF])
        (tmp_path / "site" / package.archive[0]).write_bytes(archive[:place] + wrong + archive[place + 1 :])
        try:
            assert opened(model, "package").digests == digests
        except SourceError:
            refused += 1
    assert refused > len(archive) // 2


def test_package_zip_member_cannot_leave_the_scratch_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    scratch = tmp_path / "scratch" / "folder"
    scratch.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    outside = str(tmp_path / "absolute")
    climbing = {"../evil": b"x", "tiny/../../../evil": b"x", "../../evil": b"x", outside: b"x"}
    files = {f"tiny/{name}": content for name, content in contents(tiny).items()} | climbing
    package = install_zip(tmp_path / "site", zipped(files), monkeypatch)
    with open_checkpoint(NAME, model_of(package=package), "package") as checkpoint:
        assert checkpoint.digests == digests_of(tiny)
        assert checkpoint.directory.is_relative_to(scratch)
        assert [path.name for path in scratch.iterdir()] == [checkpoint.directory.parent.name]
    assert list((tmp_path / "scratch").iterdir()) == [scratch]
    assert list(scratch.iterdir()) == []
    assert not Path(outside).exists()
    assert not (tmp_path / "evil").exists()


# A directory.


def test_directory_is_used_where_it_lies(tiny: Path, home: Path) -> None:
    with open_checkpoint(NAME, model_of(), str(tiny)) as checkpoint:
        assert checkpoint.directory == tiny
        assert (checkpoint.kind, checkpoint.location, checkpoint.revision) == ("directory", "tiny", None)
        assert checkpoint.digests == digests_of(tiny)
    assert contents(tiny).keys() == set(FILES)


def test_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    message = refusal(model_of(), str(tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere") in message
    assert "expected hub, package or a directory" in message


@pytest.mark.parametrize("file", FILES)
def test_directory_without_a_file_names_it(tiny: Path, file: str) -> None:
    (tiny / file).unlink()
    message = refusal(model_of(), str(tiny))
    assert file in message
    assert str(tiny) in message


def test_directory_without_a_shard_names_it(tiny: Path) -> None:
    shard(tiny)
    (tiny / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors missing" in refusal(model_of(), str(tiny))


def test_directory_file_that_cannot_be_read_is_a_source_error(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("paritas.export.sources.digest", denied)
    message = refusal(model_of(), str(tiny))
    assert "Permission denied" in message


def test_directory_file_that_is_not_the_registrys_is_refused(tiny: Path) -> None:
    message = refusal(model_of(digests={"model.safetensors": "0" * 64}), str(tiny))
    for part in (
        str(tiny / "model.safetensors"),
        "0" * 64,
        digests_of(tiny)["model.safetensors"],
        "--registry",
    ):
        assert part in message


def test_every_digest_of_the_registry_is_checked(tiny: Path) -> None:
    (tiny / "1_Pooling").mkdir()
    (tiny / "1_Pooling" / "config.json").write_bytes(b"{}")
    digests = digests_of(tiny) | {"1_Pooling/config.json": sha256(b"{}")}
    assert opened(model_of(digests=digests), str(tiny)).digests == digests
    for file in digests:
        message = refusal(model_of(digests=digests | {file: "0" * 64}), str(tiny))
        assert f"{tiny / file}: sha256 {digests[file]}" in message
        assert "0" * 64 in message


def test_weights_in_another_file_than_the_registrys_are_refused(tiny: Path) -> None:
    # The configuration's digest is right; it must not vouch for weights that nobody vouches for.
    digests = {"model.safetensors": digests_of(tiny)["model.safetensors"]}
    config = {"config.json": digests_of(tiny)["config.json"]}
    shard(tiny)
    for known in (digests, digests | config):
        message = refusal(model_of(digests=known), str(tiny))
        assert "model.safetensors" in message
        assert "model-00001-of-00002.safetensors" in message
    assert opened(model_of(digests=config), str(tiny)).kind == "directory"


def test_sharded_weights_read_as_whole_ones(tiny: Path) -> None:
    whole = load_file(tiny / "model.safetensors")
    shard(tiny)
    weights = open_weights(tiny)
    assert weights.shapes() == {name: value.shape for name, value in whole.items()}
    for name, value in whole.items():
        np.testing.assert_array_equal(weights[name], value)
    assert len(weight_files(tiny)) == 2
    assert set(opened(model_of(), str(tiny)).digests) == {
        "config.json",
        "tokenizer.json",
        *weight_files(tiny),
    }


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/b", "..", "."])
def test_shard_name_that_climbs_is_refused(tiny: Path, name: str) -> None:
    (tiny.parent / "evil").write_bytes((tiny / "model.safetensors").read_bytes())
    (tiny / "model.safetensors").unlink()
    (tiny / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    assert name in refusal(model_of(), str(tiny))


@pytest.mark.parametrize("index", ["[]", "{", '{"weight_map": {}}', '{"weight_map": ["a"]}'])
def test_shard_index_that_is_none_is_refused(tiny: Path, index: str) -> None:
    (tiny / "model.safetensors").unlink()
    (tiny / "model.safetensors.index.json").write_text(index)
    assert "model.safetensors.index.json" in refusal(model_of(), str(tiny))


def test_damaged_safetensors_are_refused(tiny: Path) -> None:
    (tiny / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes()[:-5])
    with pytest.raises(SourceError, match=r"model\.safetensors: not a readable safetensors file"):
        open_weights(tiny)


def write_safetensors(path: Path, dtype: str, values: dict[str, tuple[tuple[int, ...], bytes]]) -> None:
    """Write the format by hand, so that reading is tested against its definition and not its library."""
    header: dict[str, Any] = {}
    data = b""
    for name, (shape, content) in values.items():
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def half(value: NDArray[np.float32]) -> tuple[bytes, NDArray[np.float32]]:
    rounded = value.astype("<f2")
    return rounded.tobytes(), rounded.astype(np.float32)


def brain(value: NDArray[np.float32]) -> tuple[bytes, NDArray[np.float32]]:
    upper = value.view(np.uint32) >> 16
    return upper.astype("<u2").tobytes(), (upper << 16).view(np.float32)


def double(value: NDArray[np.float32]) -> tuple[bytes, NDArray[np.float32]]:
    return value.astype("<f8").tobytes(), value


@pytest.mark.parametrize(("dtype", "stored"), [("F16", half), ("BF16", brain), ("F64", double)])
def test_other_floats_read_as_float32(
    tiny: Path, dtype: str, stored: Callable[[NDArray[np.float32]], tuple[bytes, NDArray[np.float32]]]
) -> None:
    whole = load_file(tiny / "model.safetensors")
    values = {name: (value.shape, stored(value)[0]) for name, value in whole.items()}
    write_safetensors(tiny / "model.safetensors", dtype, values)
    weights = open_weights(tiny)
    for name, value in whole.items():
        assert weights[name].dtype == np.float32
        np.testing.assert_array_equal(weights[name], stored(value)[1])


def test_bfloat16_reads_where_nothing_else_has_taught_numpy_the_type(tiny: Path) -> None:
    write_safetensors(tiny / "model.safetensors", "BF16", {"x": ((2,), b"\x80\x3f\x00\xc0")})
    code = (
        "import sys; from pathlib import Path; from paritas.export.checkpoint import open_weights; "
        "assert 'ml_dtypes' not in sys.modules; print(open_weights(Path(sys.argv[1]))['x'].tolist())"
    )
    command = [sys.executable, "-P", "-c", code, str(tiny)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[1.0, -2.0]\n"


def test_weights_that_are_no_floats_are_refused(tiny: Path) -> None:
    write_safetensors(tiny / "model.safetensors", "I32", {"x": ((1,), b"\0\0\0\0")})
    with pytest.raises(SourceError, match="'x' has dtype I32"):
        open_weights(tiny)["x"]


# Pickles.


class _Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def pickled_by_torch(value: object, path: Path) -> None:
    pytest.importorskip("torch").save(value, path)


def pickled_plainly(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=2))


def test_pickle_reads_as_the_safetensors(tiny: Path) -> None:
    torch = pytest.importorskip("torch")
    whole = load_file(tiny / "model.safetensors")
    torch.save({name: torch.from_numpy(value) for name, value in whole.items()}, tiny / "pytorch_model.bin")
    (tiny / "model.safetensors").unlink()
    weights = open_weights(tiny)
    assert weights.shapes() == {name: value.shape for name, value in whole.items()}
    for name, value in whole.items():
        np.testing.assert_array_equal(weights[name], value)
    assert set(opened(model_of(), str(tiny)).digests) == {
        "config.json",
        "tokenizer.json",
        "pytorch_model.bin",
    }


@pytest.mark.parametrize("write", [pickled_by_torch, pickled_plainly])
def test_malicious_pickle_is_refused_and_does_nothing(
    tiny: Path, tmp_path: Path, write: Callable[[object, Path], None]
) -> None:
    pytest.importorskip("torch")
    (tiny / "model.safetensors").unlink()
    write({"embeddings.word_embeddings.weight": _Trap(tmp_path / "sprung")}, tiny / "pytorch_model.bin")
    with pytest.raises(SourceError, match=r"pytorch_model\.bin: torch refused it"):
        open_network(tiny)
    with open_checkpoint(NAME, model_of(), str(tiny)):
        pass
    assert not (tmp_path / "sprung").exists()
    # The trap itself works: a reader that trusts pickles would have made the folder.
    pickle.loads(pickle.dumps(_Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


def test_pickle_without_torch_names_what_to_install(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (tiny / "model.safetensors").unlink()
    (tiny / "pytorch_model.bin").write_bytes(b"whatever")
    with pytest.raises(MissingExtraError, match="pip install torch"):
        open_weights(tiny)


# The pins.


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model whose package is installed and whose digests nobody knows yet."""
    write_tiny_bert(tmp_path / "site" / "paritas_test")
    install(tmp_path / "site", "paritas-test", {}, monkeypatch)
    return model_of(package=PackageSource(["paritas-test"], "paritas_test"))


def test_pins_record_the_first_export_and_hold_the_next_to_it(
    packaged: Model, tmp_path: Path, home: Path
) -> None:
    tiny = tmp_path / "site" / "paritas_test"
    first = digests_of(tiny)
    opened(packaged, "package")
    opened(packaged, "package", "another")
    pins = {"tiny@1.0": first, "another@1.0": first}
    assert json.loads((home / "pins.json").read_text()) == pins
    assert [path.name for path in home.iterdir()] == ["pins.json"]
    write_tiny_bert(tiny, seed=1)
    message = refusal(packaged, "package")
    for part in ("model.safetensors", first["model.safetensors"], digests_of(tiny)["model.safetensors"]):
        assert part in message
    assert json.loads((home / "pins.json").read_text()) == pins


@pytest.mark.parametrize(
    "text", ["{", "", "[]", "null", '{"tiny@1.0": 3}', '{"tiny@1.0": {"config.json": ', "\ufeff{}"]
)
def test_damaged_pins_are_refused_and_kept(packaged: Model, home: Path, text: str) -> None:
    home.mkdir()
    (home / "pins.json").write_text(text, encoding="utf-8")
    message = refusal(packaged, "package")
    assert str(home / "pins.json") in message
    assert "restore or delete it" in message
    assert (home / "pins.json").read_text(encoding="utf-8") == text


def test_pins_that_cannot_be_written_are_a_source_error(packaged: Model, home: Path) -> None:
    home.write_text("a file where the folder should be")
    assert "pins.json" in refusal(packaged, "package")


def test_directories_record_no_pins(tiny: Path, home: Path) -> None:
    opened(model_of(), str(tiny))
    write_tiny_bert(tiny, seed=1)
    opened(model_of(), str(tiny))
    assert not home.exists()


def test_tiny_checkpoints_differ_by_their_seed_alone(tiny: Path, tmp_path: Path) -> None:
    same, other = write_tiny_bert(tmp_path / "same"), write_tiny_bert(tmp_path / "other", seed=1)
    assert digests_of(same) == digests_of(tiny)
    assert {file for file in FILES if digests_of(other)[file] != digests_of(tiny)[file]} == {
        "model.safetensors"
    }
    assert open_network(tiny)[0].vocab_size == BERT["vocab_size"]


def test_a_pickle_of_more_than_tensors_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"epoch": 3, "state_dict": {"w": torch.ones(2)}}, tmp_path / "pytorch_model.bin")
    with pytest.raises(SourceError, match="expected a state dict of tensors"):
        open_weights(tmp_path)


def test_the_checkpoint_a_bundle_was_made_from_is_found_again(
    bundles: dict[str, Bundle], checkpoints: dict[str, Path], tiny_registry: Registry, tmp_path: Path
) -> None:
    bundle, directory = bundles["tiny-bert"], checkpoints["tiny-bert"]
    with open_same_checkpoint(bundle, tiny_registry, str(directory)) as found:
        assert found == directory
    other = tmp_path / "other"
    write_tiny_bert(other, seed=1)
    with (
        pytest.raises(SourceError, match="the bundle was made from"),
        open_same_checkpoint(bundle, tiny_registry, str(other)),
    ):
        pass
    with pytest.raises(SourceError, match="missing"), open_same_checkpoint(bundle, tiny_registry, "nowhere"):
        pass
