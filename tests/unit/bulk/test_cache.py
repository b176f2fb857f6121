"""The cache of vectors: what is kept comes back bit by bit, within a bound, and for many at once."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest

from paritas.bulk.cache import Entry, VectorCache, text_key
from paritas.errors import InputError

DIM = 8


def entry(number: int) -> Entry:
    vector = np.random.default_rng(number).standard_normal(DIM).astype(np.float32)
    return Entry(vector, number, bool(number % 2))


def same(one: Entry, other: Entry) -> bool:
    return np.array_equal(one.vector, other.vector) and one[1:] == other[1:]


def opened(path: Path | None, **options: object) -> VectorCache:
    return VectorCache(path, **{"namespace": "model role", "dim": DIM} | options)  # type: ignore[arg-type]


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    cache = opened(tmp_path / "c.sqlite")
    kept = {text_key(f"text {number}"): entry(number) for number in range(100)}
    cache.put(kept.items())
    cache.close()
    cache = opened(tmp_path / "c.sqlite")
    found = cache.get([*kept, text_key("another")])
    assert found.keys() == kept.keys()
    assert all(same(found[key], kept[key]) for key in kept)
    assert (cache.found, cache.missed) == (100, 1)
    assert opened(tmp_path / "c.sqlite", namespace="model other-role").get(list(kept)) == {}


def test_texts_and_pairs_have_keys_of_their_own() -> None:
    texts = ["ab", ("a", "b"), ("ab", ""), ("", "ab"), "2:ab", "", ("", ""), "a\0b"]
    assert len({text_key(text) for text in texts}) == len(texts)


def test_the_file_stays_within_its_bound(tmp_path: Path) -> None:
    cache = opened(tmp_path / "c.sqlite", dim=256, most_bytes=400_000)
    for begin in range(0, 2000, 100):
        vectors = np.zeros((100, 256), np.float32)
        cache.put((text_key(f"{begin + n}"), Entry(vectors[n], 1, False)) for n in range(100))
    cache.close()
    assert (tmp_path / "c.sqlite").stat().st_size < 700_000  # and what is put at a time
    kept = opened(tmp_path / "c.sqlite", dim=256, most_bytes=100_000)
    kept.put([(text_key("x"), Entry(np.zeros(256, np.float32), 1, False))])
    kept.close()
    assert (tmp_path / "c.sqlite").stat().st_size < 150_000
    left = opened(tmp_path / "c.sqlite", dim=256)
    assert 0 < len(left.get([text_key(f"{n}") for n in range(2000)])) < 100
    left.close()


def test_many_threads_and_files_of_one_name(tmp_path: Path) -> None:
    faults: list[BaseException] = []

    def work(begin: int) -> None:
        try:
            cache = opened(tmp_path / "c.sqlite")
            for number in range(begin, begin + 200, 10):
                cache.put((text_key(f"{n}"), entry(n)) for n in range(number, number + 10))
                found = cache.get([text_key(f"{n}") for n in range(300)])
                assert all(same(found[text_key(f"{n}")], entry(n)) for n in range(number, number + 10))
            cache.close()
        except BaseException as error:  # noqa: BLE001
            faults.append(error)

    threads = [threading.Thread(target=work, args=(begin,)) for begin in (0, 50, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(opened(tmp_path / "c.sqlite").get([text_key(f"{n}") for n in range(300)])) == 300


def test_many_open_a_new_file_at_one_moment(tmp_path: Path) -> None:
    together = threading.Barrier(6)
    faults: list[BaseException] = []

    def work(number: int) -> None:
        for round_number in range(30):
            together.wait()
            try:
                cache = opened(tmp_path / f"{round_number}.sqlite")
                cache.put([(text_key(f"{number}"), entry(number))])
                cache.close()
            except BaseException as error:  # noqa: BLE001
                faults.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(together.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    for round_number in range(30):
        cache = opened(tmp_path / f"{round_number}.sqlite")
        assert len(cache.get([text_key(f"{n}") for n in range(10)])) == together.parties
        cache.close()


def test_what_is_no_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, but a text that is long enough to be read as one")
    with pytest.raises(InputError, match="cannot be used as a cache: file is not a database"):
        opened(tmp_path / "text")
    with sqlite3.connect(tmp_path / "other.sqlite") as other:
        other.execute("CREATE TABLE t (a)")
    with pytest.raises(InputError, match="is another database"):
        opened(tmp_path / "other.sqlite")
    for place in (tmp_path / "nowhere" / "c.sqlite", tmp_path):
        with pytest.raises(
            InputError, match="unable to open database file; expected a file, in a folder that"
        ):
            opened(place)


def test_a_cache_without_a_name_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    cache = opened(None)
    cache.put([(text_key("a"), entry(1))])
    assert same(cache.get([text_key("a")])[text_key("a")], entry(1))
    cache.close()
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_vector_is_computed_anew(tmp_path: Path) -> None:
    opened(tmp_path / "c.sqlite").put([(text_key(f"{n}"), entry(n)) for n in range(3)])
    with sqlite3.connect(tmp_path / "c.sqlite") as damaged:
        damaged.execute("UPDATE vectors SET value = CAST(x'00' || substr(value, 2) AS BLOB) WHERE number = 2")
    damaged.close()
    cache = opened(tmp_path / "c.sqlite")
    assert cache.get([text_key(f"{n}") for n in range(3)]).keys() == {text_key("0"), text_key("2")}
    cache.put([(text_key("1"), entry(1))])
    assert same(opened(tmp_path / "c.sqlite").get([text_key("1")])[text_key("1")], entry(1))
