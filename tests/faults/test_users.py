"""Other users, no home, locks that others hold, and files that are none: it loads, or says what to type."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import platformdirs
import pytest

from paritas import Encoder, files
from paritas.doctor import examine
from paritas.engine.bundle.directory import Bundle
from paritas.engine.runtime import optimized
from paritas.errors import BundleError, RegistryError, StoreError
from paritas.registry import load_registry
from tests.faults.models import copied, vectors

# As another user, if this one may become one: what the interpreter loads is loaded before.
AS_ANOTHER = """
import json, logging, os, sys
import platformdirs
from paritas import Encoder
from paritas.errors import ParitasError
from paritas.registry import load_registry
load_registry()
bundle, model, user = sys.argv[1:]
Encoder(bundle, cache=False).encode(["the river"], role="query")
for name in ("HOME", "XDG_DATA_HOME"):
    os.environ.pop(name, None)
if int(user):
    os.setgroups([])
    os.setgid(int(user))
    os.setuid(int(user))
try:
    vectors = Encoder(bundle).encode(["the river"], role="query")
    print(json.dumps(vectors.tolist()))
    Encoder(model)
except ParitasError as error:
    print(type(error).__name__, error)
"""
# In no passwd.
NOBODY = 54_321
ROOT = os.geteuid() == 0


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(prefix="paritas-faults-"))
    folder.chmod(0o755)
    yield folder
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def ours(bundles: dict[str, Bundle], shared: Path) -> Path:
    return copied(bundles["tiny-bert"].directory, shared / "bundle")


def as_another(bundle: Path, model: str = "owner/name", **environment: str) -> tuple[str, str]:
    """Load as a user without rights to the store or a home; return what was printed and logged."""
    words = [bundle, model, NOBODY if ROOT else 0]
    inherited = {name: value for name, value in os.environ.items() if name != "PARITAS_HOME"}
    done = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER, *map(str, words)],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=True,
        cwd=bundle,
    )
    return done.stdout, done.stderr


def right(bundle: Path) -> str:
    with Encoder(bundle, cache=False) as encoder:
        return json.dumps(encoder.encode(["the river"], role="query").tolist())


def closed(folder: Path) -> None:
    """Let nobody but root write to a folder."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_an_optimized_graph_has_the_modes_that_the_umask_allows(ours: Path, home: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        vectors(ours)
    finally:
        os.umask(before)
    paths = [path for path in home.rglob("*") if "prepared" in str(path)]
    assert len(paths) > 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_dir()} == {0o777 & ~umask}
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o044 == 0o044 & ~umask for path in paths)


def test_what_root_optimized_serves_another_user(
    ours: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an image. Who is not root is the other user, and the store is closed to writing."""
    store = shared / "home"
    monkeypatch.setenv("PARITAS_HOME", str(store))
    vectors(ours)
    closed(store)
    (graph,) = (store / "cache" / "prepared").glob("*/model.onnx")
    printed, logged = as_another(ours, PARITAS_HOME=str(store))
    assert printed.splitlines()[0] == right(ours)
    assert logged == ""
    assert graph.exists()


def test_a_store_that_cannot_be_written_costs_speed_alone(ours: Path, shared: Path) -> None:
    (shared / "home").mkdir(mode=0o555)
    printed, logged = as_another(ours, PARITAS_HOME=str(shared / "home"))
    assert printed.splitlines()[0] == right(ours)
    assert "no optimized graph can be kept" in logged
    assert list((shared / "home").iterdir()) == []


@pytest.mark.skipif(
    not ROOT, reason="only root can become a user without a home; the next test stands in for it"
)
@pytest.mark.parametrize("model", ["all-MiniLM-L6-v2", "owner/name"])
def test_a_user_without_a_home_loads_by_path(ours: Path, model: str) -> None:
    printed, logged = as_another(ours, model)
    vector, error = printed.splitlines()
    assert vector == right(ours)
    assert "no optimized graph can be kept" in logged
    assert error.startswith("StoreError this user has no home directory")
    assert "type: export PARITAS_HOME=DIR" in error


@pytest.fixture(params=["raised", "relative"])
def homeless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def raised(*_: object, **__: object) -> Path:
        if request.param == "relative":
            return Path("~/.local/share/paritas")
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("PARITAS_HOME")
    monkeypatch.setattr(platformdirs, "user_data_path", raised)


def test_without_a_home_what_needs_a_store_says_so(
    homeless: None, ours: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(ours.parent)
    assert np.array_equal(vectors(ours), vectors(Path(ours.name)))
    assert "no optimized graph can be kept" in caplog.text
    for model in ("all-MiniLM-L6-v2", "owner/name"):
        with pytest.raises(StoreError, match=r"no home directory.*; type: export PARITAS_HOME=DIR"):
            Encoder(model)
    found = examine()
    assert found.store.path == ""
    assert found.bundles == []
    assert [problem.mend.partition("=")[0] for problem in found.problems] == ["export PARITAS_HOME"]
    assert list(ours.parent.iterdir()) == [ours]


# Locks.


def test_a_lock_on_the_cache_costs_a_while_and_then_speed_alone(
    ours: Path, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(optimized, "_PATIENCE_S", 0.1)
    monkeypatch.setattr(files, "_SILENT_S", 0.0)
    (home / "cache" / "prepared").mkdir(parents=True)
    with files.locked(home / "cache" / "prepared"):
        found = vectors(ours)
    assert "prepared: locked by another process; waiting for it" in caplog.text
    assert "no optimized graph can be kept" in caplog.text
    assert np.array_equal(vectors(ours), found)


def test_who_waits_for_a_lock_says_so_and_has_it_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files, "_SILENT_S", 0.0)
    holder = os.open(tmp_path, os.O_RDONLY)
    files.lock(holder, tmp_path)
    monkeypatch.setattr(files.time, "sleep", lambda _seconds: os.close(holder))
    with caplog.at_level(logging.WARNING, "paritas"), files.locked(tmp_path):
        assert caplog.text.count("locked by another process; waiting for it") == 1


# Files that are none.


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        os.chdir(path.parent)  # an address is short
        made.bind(path.name)


KINDS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a directory": Path.mkdir,
    "a socket": a_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a terminal": lambda path: path.symlink_to("/dev/tty"),
    "itself": lambda path: path.symlink_to(path),
}
NAMES = ["manifest.json", "tokenizer.json", "model.fp32.equal_length.onnx", "model.fp32.onnx.data"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_file_is_refused_at_once(
    ours: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    monkeypatch.chdir(ours)
    (ours / name).unlink()
    KINDS[kind](ours / name)
    with pytest.raises(BundleError, match=name):
        Encoder(ours)
    with pytest.raises(BundleError, match=name):
        Bundle(ours).verify()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_in_the_cache_is_made_again_or_passed_over(
    ours: Path, home: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    expected = vectors(ours)
    for name in ("prepared/*/made.json", "prepared/*/model.onnx", "checked/*.json"):
        for path in list((home / "cache").glob(name)):
            path.unlink()
            monkeypatch.chdir(path.parent)
            KINDS[kind](path)
        assert np.array_equal(vectors(ours), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_no_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    KINDS[kind](tmp_path / "mine.yaml")
    with pytest.raises(RegistryError, match=r"mine\.yaml: cannot be read"):
        load_registry(tmp_path / "mine.yaml")
