"""Which files need no second digest, and which do."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from paritas.engine.bundle import digest_cache, digests
from paritas.engine.bundle.directory import Bundle
from paritas.errors import BundleError
from tests.unit.files import change_byte

NAMES = ["tokenizer.json", "model.fp32.onnx", "model.fp32.onnx.data"]


@pytest.fixture
def copy(bundles: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle whose files count as settled at once."""
    monkeypatch.setattr(digest_cache, "_TICK_NS", -1_000_000_000)
    return Path(shutil.copytree(bundles["tiny-bert"].directory, tmp_path / "bundle"))


@pytest.fixture
def digested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read for their digests, as it happens."""
    names: list[str] = []
    digest = digests.digest
    monkeypatch.setattr(digests, "digest", lambda path: (names.append(path.name), digest(path))[1])
    return names


def test_a_file_found_whole_is_not_read_again(copy: Path, digested: list[str]) -> None:
    Bundle(copy).check(NAMES)
    assert digested == NAMES
    again = Bundle(copy)
    again.check(NAMES)
    assert digested == NAMES
    assert again.verified == set(NAMES)


def test_verify_reads_all_of_them_again(copy: Path, digested: list[str]) -> None:
    Bundle(copy).check(NAMES)
    digested.clear()
    Bundle(copy).verify(NAMES)
    Bundle(copy).check(NAMES, use_cache=False)
    assert digested == NAMES * 2


def restore_times(path: Path) -> None:
    """A byte changed, size and modification time as before: the time of change gives it away."""
    status = path.stat()
    change_byte(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path: Path) -> None:
    """Another file by a rename that keeps the times of modification."""
    other = path.with_name("other")
    shutil.copy2(path, other)
    restore_times(other)
    other.replace(path)


@pytest.mark.parametrize("change", [change_byte, restore_times, replace])
def test_a_changed_file_is_read_and_refused(copy: Path, change) -> None:
    Bundle(copy).check(NAMES)
    time.sleep(0.02)  # a tick of the file system's clock
    change(copy / "model.fp32.onnx.data")
    with pytest.raises(BundleError, match=r"model\.fp32\.onnx\.data: changed since the export"):
        Bundle(copy).check(NAMES)


def test_a_missing_file_is_named(copy: Path) -> None:
    Bundle(copy).check(NAMES)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"tokenizer\.json: missing"):
        Bundle(copy).check(NAMES)


def test_a_file_changed_this_moment_is_not_trusted_later(
    copy: Path, digested: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second change within the clock's tick would leave its times as they are."""
    monkeypatch.setattr(digest_cache, "_TICK_NS", 3_600_000_000_000)
    Bundle(copy).check(NAMES)
    Bundle(copy).check(NAMES)
    assert digested == NAMES * 2


def test_a_new_export_in_the_same_place_is_read(copy: Path, bundles: dict[str, Bundle]) -> None:
    Bundle(copy).check(NAMES)
    shutil.rmtree(copy)
    shutil.copytree(bundles["tiny-mpnet"].directory, copy)
    Bundle(copy).check(NAMES)
    assert Bundle(copy).manifest.model == "tiny-mpnet"


@pytest.mark.parametrize("content", [b"[", b'{"\xff": []}', b""])
def test_a_damaged_record_is_as_good_as_none(
    copy: Path, home: Path, digested: list[str], content: bytes
) -> None:
    Bundle(copy).check(NAMES)
    (record,) = (home / "cache" / "checked").iterdir()
    record.write_bytes(content)
    Bundle(copy).check(NAMES)
    Bundle(copy).check(NAMES)
    assert digested == NAMES * 2


def test_two_processes_note_what_they_found_and_files_that_went_are_forgotten(copy: Path) -> None:
    sha256 = {name: digests.digest(copy / name) for name in NAMES}
    first, second = digest_cache.DigestCache(copy), digest_cache.DigestCache(copy)
    for noting, name in ((first, NAMES[0]), (second, NAMES[1])):
        noting.digest(name)
        noting.keep({name: sha256[name]})
    both = digest_cache.DigestCache(copy)
    assert [both.digest(name) for name in NAMES[:2]] == [sha256[name] for name in NAMES[:2]]
    (copy / NAMES[0]).unlink()
    both.digest(NAMES[2])
    both.keep({NAMES[2]: sha256[NAMES[2]]})
    assert set(digest_cache.DigestCache(copy)._records) == set(NAMES[1:])
