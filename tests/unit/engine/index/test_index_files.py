"""The index on disk: whole files, whatever happens while they are written, and damage that is named."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from paritas import files
from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.engine.index import INDEX, VectorIndex, check_target, generations
from paritas.errors import VectorIndexError
from tests.unit.vectors import filled, unit_vectors


def test_saving_again_leaves_one_generation(bert: Encoder, tmp_path: Path) -> None:
    directory = tmp_path / "index"
    filled(bert, 5).save(directory)
    reader = VectorIndex.load(directory)
    filled(bert, 9).save(directory)
    assert len(list(directory.iterdir())) == 3
    assert len(VectorIndex.load(directory)) == 9
    # Who opened the former generation keeps reading it.
    assert len(reader.search(unit_vectors(1), 10)[0]) == 5


@pytest.mark.parametrize("dies_at", ["vectors", "texts", "sync", "replace"])
def test_a_crash_while_saving_leaves_the_old_index_whole(
    bundles: dict[str, Bundle], bert: Encoder, tmp_path: Path, dies_at: str
) -> None:
    directory = tmp_path / "index"
    filled(bert, 5).save(directory)
    script = textwrap.dedent(
        """
        import os, sys
        from pathlib import Path
        import numpy as np
        from paritas import Encoder, VectorIndex, files
        from paritas.engine.index.document_table import DocumentTable
        from paritas.engine.index.hnsw import HnswGraph

        def die(*args, **kwargs):
            os._exit(9)

        index = VectorIndex(Encoder(sys.argv[1]))
        index.add([str(i) for i in range(9)], np.eye(9, 16, dtype=np.float32))
        point = sys.argv[3]
        if point == "vectors":
            HnswGraph.save = die
        elif point == "texts":
            DocumentTable.save = die
        elif point == "sync":
            files.sync = die
        else:
            Path.replace = die
        index.save(sys.argv[2])
        """
    )
    arguments = [str(bundles["tiny-bert"].directory), str(directory), dies_at]
    run = subprocess.run([sys.executable, "-c", script, *arguments], check=False)
    assert run.returncode == 9
    with VectorIndex.load(directory) as index:
        assert len(index) == 5
        assert index.search(unit_vectors(5), 1)[4][0].id == "doc-4"
    filled(bert, 7).save(directory)
    assert len(list(directory.iterdir())) == 3, "what the crash left is cleared away"


@pytest.mark.parametrize("existing", [True, False])
def test_a_full_disk_leaves_the_old_index_or_nothing(
    bundles: dict[str, Bundle], bert: Encoder, tmp_path: Path, existing: bool
) -> None:
    directory = tmp_path / "index"
    if existing:
        filled(bert, 5).save(directory)
    script = textwrap.dedent(
        """
        import resource, sys
        import numpy as np
        from paritas import Encoder, VectorIndex
        from paritas.errors import VectorIndexError

        index = VectorIndex(Encoder(sys.argv[1]))
        index.add([str(i) for i in range(4000)], np.random.rand(4000, 16).astype(np.float32))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            index.save(sys.argv[2])
        except VectorIndexError as error:
            print(error)
        """
    )
    arguments = [str(bundles["tiny-bert"].directory), str(directory)]
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    assert "the index cannot be written" in run.stdout
    if existing:
        assert len(list(directory.iterdir())) == 3
        assert len(VectorIndex.load(directory)) == 5
    else:
        assert not directory.exists()


SAVE_AND_FAIL = """
import errno, json, os, sys
from pathlib import Path
import numpy as np
from paritas import Encoder, VectorIndex, files
from paritas.errors import VectorIndexError

directory, fault = Path(sys.argv[2]), sys.argv[3]
index = VectorIndex(Encoder(sys.argv[1]))
index.add([str(i) for i in range(9)], np.eye(9, 16, dtype=np.float32))
if fault == "newer":
    info = json.loads((directory / "index.json").read_text())
    (directory / "index.json").write_text(json.dumps(info | {"format": 3}))
if fault == "published":
    sync = files.sync
    def fail(path):
        if path == directory:  # the last step, when index.json names the new generation already
            raise OSError(errno.EIO, "no")
        sync(path)
    files.sync = fail
else:
    def fail(*args, **kwargs):
        if fault == "unreadable":
            read = Path.read_bytes
            Path.read_bytes = lambda path: (_ for _ in ()).throw(OSError(errno.EMFILE, "too many"))
        raise OSError(errno.ENOSPC, "full")
    files.replace = fail
try:
    index.save(directory)
except VectorIndexError as error:
    print(error)
"""


@pytest.mark.parametrize(("fault", "kept"), [("full", 5), ("newer", 5), ("unreadable", 5), ("published", 9)])
def test_a_save_that_fails_removes_no_generation_but_its_own(
    bundles: dict[str, Bundle], bert: Encoder, tmp_path: Path, fault: str, kept: int
) -> None:
    directory = tmp_path / "index"
    filled(bert, 5).save(directory)
    arguments = [str(bundles["tiny-bert"].directory), str(directory), fault]
    run = subprocess.run(
        [sys.executable, "-c", SAVE_AND_FAIL, *arguments], capture_output=True, text=True, check=True
    )
    told = (
        "index.json: format 3, this paritas reads up to 2"
        if fault == "newer"
        else "the index cannot be written"
    )
    assert told in run.stdout
    if fault == "newer":
        info = json.loads((directory / INDEX).read_text(encoding="utf-8"))
        (directory / INDEX).write_text(json.dumps(info | {"format": 2}), encoding="utf-8")
    with VectorIndex.load(directory) as index:
        assert len(index) == kept
    if fault in ("full", "newer"):
        assert len(list(directory.iterdir())) == 3, "nothing half-written stays"


def test_a_load_looks_again_where_a_save_came_between(
    bert: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "index"
    filled(bert, 5).save(directory)
    open_part, saves = generations._open_part, [filled(bert, 6), filled(bert, 7)]

    def saved_just_before(path: Path) -> Any:
        if saves:
            saves.pop(0).save(directory)
        return open_part(path)

    monkeypatch.setattr(generations, "_open_part", saved_just_before)
    with VectorIndex.load(directory) as index:
        assert len(index) == 7


def test_a_foreign_directory_is_not_written_into(bert: Encoder, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with filled(bert, 3) as index, pytest.raises(VectorIndexError, match="holds other files and no index"):
        index.save(tmp_path)
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_damage_is_named(bert: Encoder, tmp_path: Path) -> None:
    with pytest.raises(VectorIndexError, match="no index there"):
        VectorIndex.load(tmp_path / "nowhere")
    directory = tmp_path / "index"
    filled(bert, 50).save(directory)
    vectors = next(directory.glob("vectors-*"))
    whole = vectors.read_bytes()
    vectors.write_bytes(whole[:-10])
    with pytest.raises(VectorIndexError, match=rf"{vectors.name}: .* bytes, expected"):
        VectorIndex.load(directory)
    vectors.write_bytes(b"\0" * len(whole))
    with pytest.raises(VectorIndexError, match=vectors.name):
        VectorIndex.load(directory)
    vectors.unlink()
    with pytest.raises(VectorIndexError, match=f"{vectors.name}: missing"):
        VectorIndex.load(directory)
    vectors.write_bytes(whole)
    texts = next(directory.glob("texts-*"))
    texts.write_bytes(b"x" * texts.stat().st_size)
    with pytest.raises(VectorIndexError, match=texts.name):
        VectorIndex.load(directory)
    (directory / INDEX).write_text("{")
    with pytest.raises(VectorIndexError, match=INDEX):
        VectorIndex.load(directory)


def test_an_index_json_that_points_elsewhere_is_refused(bert: Encoder, tmp_path: Path) -> None:
    directory = tmp_path / "index"
    filled(bert, 3).save(directory)
    path = directory / INDEX
    path.write_text(path.read_text().replace('"generation": "', '"generation": "../'))
    with pytest.raises(VectorIndexError, match="is no generation"):
        VectorIndex.load(directory)


def test_savers_to_one_directory_take_turns(bert: Encoder, tmp_path: Path) -> None:
    directory = tmp_path / "index"
    indexes = [filled(bert, count) for count in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda index: index.save(directory), indexes * 3))
    assert len(list(directory.iterdir())) == 3
    with VectorIndex.load(directory) as loaded:
        assert 1 <= len(loaded) <= 8


def test_a_first_save_that_ends_meanwhile_is_no_foreign_index(bert: Encoder, tmp_path: Path) -> None:
    with filled(bert, 3) as index, ThreadPoolExecutor(1) as pool:
        for attempt in range(100):
            directory = tmp_path / str(attempt)
            saving = pool.submit(index.save, directory)
            while not saving.done():
                check_target(directory)
            saving.result()


FOREIGN = [b"{}", b"[]", b"not json", b"", b'{"format": 1}', b'{"name": "site", "version": 3}', b"\xff\xfe"]


@pytest.mark.parametrize("content", FOREIGN)
def test_a_foreign_index_json_is_left_alone(bert: Encoder, tmp_path: Path, content: bytes) -> None:
    """Many programs call a file index.json."""
    (tmp_path / INDEX).write_bytes(content)
    (tmp_path / f"{INDEX}.bak").write_text("mine")
    with filled(bert, 3) as index:
        for refused in (lambda: index.save(tmp_path), lambda: check_target(tmp_path)):
            with pytest.raises(VectorIndexError, match=r"is no index's; choose another directory"):
                refused()
    assert (tmp_path / INDEX).read_bytes() == content
    assert len(os.listdir(tmp_path)) == 2


def test_only_names_that_a_save_made_are_removed(bert: Encoder, tmp_path: Path) -> None:
    directory = tmp_path / "index"
    filled(bert, 3).save(directory)
    mine = [
        "notes.txt",
        f"{INDEX}.bak",
        f"{INDEX}.0123456789abcdef",
        "vectors-of-mine.usearch",
        "texts-2024.sqlite",
        "texts-0123456789ab.sqlite.bak",
    ]
    for name in mine:
        (directory / name).write_text("mine")
    left = ["vectors-0123456789ab.usearch", "texts-0123456789ab.sqlite-journal", f"{INDEX}.0123456789ab"]
    for name in left:
        (directory / name).write_text("a crashed save's")
    filled(bert, 4).save(directory)
    assert set(mine) < set(os.listdir(directory))
    assert not set(left) & set(os.listdir(directory))
    assert len(os.listdir(directory)) == len(mine) + 3


def test_a_damaged_index_may_be_replaced(bert: Encoder, tmp_path: Path) -> None:
    """Its index.json is no index's any more; the names of the other files are."""
    directory = tmp_path / "index"
    filled(bert, 3).save(directory)
    (directory / INDEX).write_bytes(b"\0" * 100)
    with pytest.raises(VectorIndexError, match="index anew"):
        VectorIndex.load(directory)
    filled(bert, 4).save(directory)
    assert len(VectorIndex.load(directory)) == 4


def test_an_index_is_saved_over_itself_while_it_is_mapped(bert: Encoder, tmp_path: Path) -> None:
    directory = tmp_path / "index"
    filled(bert, 30).save(directory)
    with VectorIndex.load(directory) as first, VectorIndex.load(directory) as second:
        expected = first.search(unit_vectors(3), 5)
        first.save(directory)
        first.save(directory)
        assert first.search(unit_vectors(3), 5) == second.search(unit_vectors(3), 5) == expected
    with VectorIndex.load(directory) as index:
        assert index.search(unit_vectors(3), 5) == expected


def test_a_copied_folder_and_a_link_are_the_same_index(bert: Encoder, tmp_path: Path) -> None:
    filled(bert, 30).save(tmp_path / "index")
    shutil.copytree(tmp_path / "index", tmp_path / "copy")
    (tmp_path / "link").symlink_to(tmp_path / "copy")
    filled(bert, 31).save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert [len(VectorIndex.load(tmp_path / name)) for name in ("index", "copy", "link")] == [30, 31, 31]


@pytest.mark.parametrize("name", ["C:\\index", "a?b#c%20", "ü 🚀", "-", "x" * 200])
def test_a_directory_may_have_any_name(bert: Encoder, tmp_path: Path, name: str) -> None:
    filled(bert, 3).save(tmp_path / name)
    with VectorIndex.load(tmp_path / name) as index:
        assert len(index.search(unit_vectors(1), 9)[0]) == 3
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_names_that_are_no_utf8_are_taken(
    bert: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / os.fsdecode(b"b\xfcndel")
    monkeypatch.setattr(bert.bundle, "directory", odd)
    with filled(bert, 3) as index:
        index.save(odd / "index")
    with VectorIndex.load(odd / "index") as loaded:
        assert len(loaded.search(unit_vectors(1), 9)[0]) == 3
        assert loaded.info.bundle == str(tmp_path / "b\ufffdndel")


def test_files_are_digested_again_only_when_they_change(
    bert: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`DigestCache` trusts what has been at rest for two seconds; here it does at once."""
    monkeypatch.setattr("paritas.engine.bundle.digest_cache._TICK_NS", -(10**12))
    filled(bert, 3).save(tmp_path / "index")
    read: list[object] = []
    digest = hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, name: read.append(file.name) or digest(file, name)
    )
    VectorIndex.load(tmp_path / "index").close()
    assert len(read) == 2
    VectorIndex.load(tmp_path / "index", mmap=False).close()
    assert len(read) == 2
    (path,) = (tmp_path / "index").glob("texts-*")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(VectorIndexError, match="changed since it was saved"):
        VectorIndex.load(tmp_path / "index")


def test_a_fork_during_a_save_keeps_no_lock(bert: Encoder, tmp_path: Path) -> None:
    with filled(bert, 5) as index:
        index.save(tmp_path / "index")
        with files.locked(tmp_path / "index"):
            child = os.fork()
            if child == 0:
                signal.pause()
        try:
            with files.locked(tmp_path / "index", patience_s=0):  # the child has a copy of what held it
                pass
            index.save(tmp_path / "index")
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_an_index_json_of_a_newer_format_is_not_replaced(bert: Encoder, tmp_path: Path) -> None:
    content = '{"format": 99, "generation": "spring"}'
    (tmp_path / INDEX).write_text(content, encoding="utf-8")
    with filled(bert, 5) as index, pytest.raises(VectorIndexError, match=r"index\.json: format 99"):
        index.save(tmp_path)
    assert (tmp_path / INDEX).read_text(encoding="utf-8") == content


def test_an_index_json_of_absurd_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / INDEX).touch()
    os.truncate(tmp_path / INDEX, 2**37)
    with pytest.raises(VectorIndexError, match="expected 1073741824 at most"):
        VectorIndex.load(tmp_path)


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index").symlink_to(tmp_path / "gone")
    with pytest.raises(VectorIndexError, match="index: is a link to nothing; choose another place"):
        check_target(tmp_path / "index")


def test_vectors_that_cannot_be_written_tell_what_room_there_is(
    bert: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("Failed to serialize")

    monkeypatch.setattr("usearch.index.Index.save", fails)
    with (
        VectorIndex(bert) as index,
        pytest.raises(VectorIndexError, match=r"Failed to serialize; [\d,.]+ MB of the disk are free"),
    ):
        index.save(tmp_path / "index")
    assert not (tmp_path / "index").exists()
