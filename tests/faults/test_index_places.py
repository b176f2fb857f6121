"""An index that belongs to somebody else, or lies where nothing can be written."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from paritas.engine.encoder import Encoder
from paritas.engine.index import VectorIndex
from paritas.errors import VectorIndexError
from tests.faults.indexes import add, check_whole

NOBODY = 65534

# Does something as a user without privileges. Root becomes one after it has read modules that only root may.
AS_NOBODY = f"""
import os, sys
from paritas.engine.index import VectorIndex
from paritas.errors import VectorIndexError
from tests.faults.indexes import add, check_whole, vectors_of
vectors_of([1])
if os.getuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
try:
    {{work}}
except VectorIndexError as error:
    print(error)
"""
SEARCH = """for mmap in (True, False):
        with VectorIndex.load(sys.argv[1], mmap=mmap) as index:
            print(len(check_whole(index)))"""
SAVE = """with VectorIndex.load(sys.argv[1], mmap=False) as index:
        index.save(sys.argv[2])"""


@pytest.fixture
def index(bert: Encoder, tmp_path: Path) -> Path:
    with VectorIndex(bert) as made:
        add(made, list(range(30)))
        made.save(tmp_path / "index")
    return tmp_path / "index"


def as_nobody(work: str, *arguments: Path) -> str:
    """Run a program, as another user where this one is root, and return what it says."""
    home = arguments[0].parent / "home"
    home.mkdir(exist_ok=True)
    # pytest's folders are closed to others.
    for path in [] if os.getuid() else (arguments[0].parent, *arguments[0].parent.parents[:2]):
        path.chmod(path.stat().st_mode | 0o111)
    run = subprocess.run(
        [sys.executable, "-c", AS_NOBODY.format(work=work), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PARITAS_HOME": str(home)},
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_anothers_index_is_searched_in_place(index: Path) -> None:
    """As root, tests make another user of the child. Elsewhere the next test asks the kernel's question."""
    assert as_nobody(SEARCH, index).split() == ["30", "30"]


def test_no_file_is_opened_in_a_way_that_its_owner_alone_may(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel refuses O_NOATIME to others. What usearch opens by itself, it opens so."""
    import usearch.index

    def by_path(self: object, path: object, *options: object) -> None:
        assert not isinstance(path, str | os.PathLike), "usearch opens this file"

    for name in ("view", "load", "metadata"):
        monkeypatch.setattr(usearch.index.Index, name, recording(getattr(usearch.index.Index, name), by_path))
    for mmap in (True, False):
        with VectorIndex.load(index, mmap=mmap) as loaded:
            assert len(check_whole(loaded)) == 30


def recording(function, look):
    def call(*arguments, **options):
        look(None, arguments[-1])
        return function(*arguments, **options)

    return call


def test_no_permission_is_not_called_damage(index: Path) -> None:
    for path in sorted(index.iterdir()):
        path.chmod(0)
        if os.getuid() == 0:
            said = as_nobody(SEARCH, index)
        else:
            with pytest.raises(VectorIndexError) as refused:
                VectorIndex.load(index)
            said = str(refused.value)
        assert "Permission denied; ask its owner for permission to read it" in said
        assert path.name in said
        assert "index anew" not in said
        path.chmod(0o644)


def test_a_folder_that_cannot_be_written_is_named_before_anything_is(index: Path, tmp_path: Path) -> None:
    target = tmp_path / "read-only"
    target.mkdir(mode=0o555)
    if os.getuid() == 0:
        said = as_nobody(SAVE, index, target / "index")
    else:
        with (
            VectorIndex.load(index, mmap=False) as loaded,
            pytest.raises(VectorIndexError) as refused,
        ):
            loaded.save(target / "index")
        said = str(refused.value)
    assert f"{target}: no permission to write there; choose another place" in said
    assert not list(target.iterdir())


FULL = """
import resource, sys
from paritas.engine.index import VectorIndex
from paritas.errors import VectorIndexError

with VectorIndex.load(sys.argv[1], mmap=False) as index:
    limit = int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        index.save(sys.argv[2])
        print("saved")
    except VectorIndexError as error:
        print(error)
"""


@pytest.mark.parametrize("existing", [True, False])
def test_a_disk_that_is_full_at_any_byte_leaves_the_old_index_or_nothing(
    bert: Encoder, index: Path, tmp_path: Path, existing: bool, whole: bool
) -> None:
    """A limit on the size of files ends writes as a full disk does."""
    target = tmp_path / "target"
    largest = max(path.stat().st_size for path in index.iterdir())
    for step in range(20 if whole else 4):
        if existing:
            with VectorIndex(bert) as other:
                add(other, [7, 8])
                other.save(target)
        limit = largest * step // 20 if whole else largest * step // 4
        run = subprocess.run(
            [sys.executable, "-c", FULL, str(index), str(target), str(limit)],
            check=True,
            capture_output=True,
            text=True,
        )
        assert "the index cannot be written" in run.stdout
        if existing:
            assert len(list(target.iterdir())) == 3
            with VectorIndex.load(target) as loaded:
                assert check_whole(loaded) == {7, 8}
        else:
            assert not target.exists()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_an_index_is_opened_where_there_is_no_home(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered of its files then, and they are digested each time."""

    def nowhere(*_: object, **__: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("PARITAS_HOME")
    monkeypatch.setattr("platformdirs.user_data_path", nowhere)
    with VectorIndex.load(index) as loaded:
        assert len(check_whole(loaded)) == 30
