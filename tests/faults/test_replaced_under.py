"""A bundle replaced while an encoder loads it, or under one that runs: its own vectors, or an error.

Never another model's vectors, and never another model's graph kept under this one's name.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from paritas import Encoder
from paritas.engine import loading
from paritas.engine.bundle import digest_cache
from paritas.engine.bundle.directory import Bundle
from paritas.engine.runtime import optimized
from paritas.errors import BundleError
from paritas.exchange import exchange
from paritas.export.certificate.certify import verify
from paritas.registry import Registry
from tests.faults.conftest import WHOLE
from tests.faults.models import BULK, TEXTS, copied, vectors, write_pair

Pair = tuple[Path, Path]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, tiny_registry: Registry) -> Pair:
    """The bundles of two models. Not to be changed."""
    return write_pair(tmp_path_factory.mktemp("pair"), tiny_registry)


@pytest.fixture(scope="module")
def theirs(pair: Pair) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    one, other = (vectors(bundle, cache=False) for bundle in pair)
    assert not np.allclose(one, other, atol=0.01)
    return one, other


@pytest.fixture(params=[True, False], ids=["settled", "just written"], autouse=True)
def _settled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files whose times show every change, and files that changed within the tick."""
    monkeypatch.setattr(digest_cache, "_TICK_NS", -3_600_000_000_000 if request.param else 3_600_000_000_000)


def by_renames(place: Path, other: Path) -> None:
    new = copied(other, place.with_name("new"))
    place.rename(place.with_name("former"))
    new.rename(place)
    shutil.rmtree(place.with_name("former"))


def by_exchange(place: Path, other: Path) -> None:
    new = copied(other, place.with_name("new"))
    assert exchange(new, place)
    shutil.rmtree(new)


def file_by_file(place: Path, other: Path) -> None:
    for path in other.iterdir():
        shutil.copy2(path, place / "new")
        (place / "new").replace(place / path.name)


def weights_alone(place: Path, other: Path) -> None:
    shutil.copy2(other / "model.fp32.onnx.data", place / "new")
    (place / "new").replace(place / "model.fp32.onnx.data")


def in_place(place: Path, other: Path) -> None:
    time.sleep(0.02)  # a tick of the file system's clock: within one, only the second digest helps
    for path in other.iterdir():
        times = (place / path.name).stat()
        (place / path.name).write_bytes(path.read_bytes())
        os.utime(place / path.name, ns=(times.st_atime_ns, times.st_mtime_ns))


WAYS = [by_renames, by_exchange, file_by_file, weights_alone, in_place] if WHOLE else [by_exchange, in_place]


def keep(_place: Path) -> None:
    """Leave the cache as it is."""


def remove(home: Path) -> None:
    shutil.rmtree(home / "cache", ignore_errors=True)


def spoil(home: Path) -> None:
    for path in (home / "cache" / "prepared").glob("*/*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


def outcome(encode: Callable[[], NDArray[np.float32]], right: NDArray[np.float32]) -> str:
    """Say whether vectors are right, or refused; anything else fails."""
    try:
        found = encode()
    except BundleError as error:
        expected = ("changed since the export", "it was loaded", "written to in place under a loaded encoder")
        assert any(words in str(error) for words in expected), error
        return "refused"
    assert np.array_equal(found, right)
    return "right"


def left(place: Path, way: Callable[[Path, Path], None], right: NDArray[np.float32]) -> None:
    """What lies there now is the other model, or half of it and refused."""
    expected = "refused" if way is weights_alone else "right"
    assert outcome(lambda: vectors(place), right) == expected


@pytest.mark.parametrize("cache", ["off", "gone", "damaged", "there"])
@pytest.mark.parametrize("way", WAYS)
def test_under_a_live_encoder_before_its_second_session(
    pair: Pair,
    theirs: tuple[NDArray[np.float32], NDArray[np.float32]],
    tmp_path: Path,
    home: Path,
    way: Callable[[Path, Path], None],
    cache: str,
) -> None:
    place = copied(pair[0], tmp_path / "bundle")
    with Encoder(place, **BULK, cache=cache != "off") as encoder:
        alone = encoder.encode(TEXTS[:1], role="query")
        way(place, pair[1])
        {"gone": remove, "damaged": spoil}.get(cache, keep)(home)
        outcome(lambda: encoder.encode(TEXTS[:1], role="query"), alone)
        outcome(lambda: encoder.encode(TEXTS, role="query"), theirs[0])
    # Whatever came of it, the store says nothing false of either model.
    assert np.array_equal(vectors(copied(pair[0], tmp_path / "untouched")), theirs[0])
    left(place, way, theirs[1])


def after_a_call(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, act: Callable[[], None]) -> None:
    """Do something once, right after the first call of a function."""
    function, done = getattr(owner, name), []

    def called(*arguments: object, **options: object) -> object:
        result = function(*arguments, **options)
        if not done:
            done.append(True)
            act()
        return result

    monkeypatch.setattr(owner, name, called)


MOMENTS: dict[str, tuple[object, str]] = {
    "after the manifest": (loading, "choose_precision"),
    "after the digests": (loading.Head, "load"),
    "after the tokenizer": (loading, "choose_settings"),
    "while it is loaded": (loading, "Session"),
    "while it is optimized": (optimized, "write_optimized"),
}


@pytest.mark.parametrize("moment", list(MOMENTS)[:-1])
@pytest.mark.parametrize("cache", [True, False], ids=["cache", "no cache"])
@pytest.mark.parametrize("way", WAYS)
def test_between_check_and_load(
    pair: Pair,
    theirs: tuple[NDArray[np.float32], NDArray[np.float32]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: Callable[[Path, Path], None],
    cache: bool,
    moment: str,
) -> None:
    place = copied(pair[0], tmp_path / "bundle")
    if moment == "while it is loaded" and cache:
        moment = "while it is optimized"
    owner, name = MOMENTS[moment]
    after_a_call(monkeypatch, owner, name, lambda: way(place, pair[1]))
    outcome(lambda: vectors(place, cache=cache), theirs[0])
    monkeypatch.undo()
    assert np.array_equal(vectors(copied(pair[0], tmp_path / "untouched")), theirs[0])
    left(place, way, theirs[1])


def both_ways(place: Path, other: Path) -> Iterator[None]:
    """Exchange a bundle for another, and at the next step back: its digests are right before and after."""
    new = copied(other, place.with_name("new"))
    assert exchange(new, place)
    yield
    assert exchange(new, place)


@pytest.mark.parametrize("cache", [True, False], ids=["cache", "no cache"])
def test_exchanged_and_back_while_it_is_loaded(
    pair: Pair,
    theirs: tuple[NDArray[np.float32], NDArray[np.float32]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cache: bool,
) -> None:
    place = copied(pair[0], tmp_path / "bundle")
    steps = both_ways(place, pair[1])
    owner, name = (optimized, "write_optimized") if cache else (loading, "Session")
    function, calls = getattr(owner, name), []

    def exchanged(*arguments: object, **options: object) -> object:
        if calls:
            return function(*arguments, **options)
        calls.append(True)
        next(steps)
        try:
            return function(*arguments, **options)
        finally:
            next(steps, None)

    monkeypatch.setattr(owner, name, exchanged)
    assert outcome(lambda: vectors(place, cache=cache), theirs[0]) == "right"
    assert calls


@pytest.mark.parametrize("cache", [True, False], ids=["cache", "no cache"])
def test_loads_beside_exchanges(
    pair: Pair,
    theirs: tuple[NDArray[np.float32], NDArray[np.float32]],
    tmp_path: Path,
    whole: bool,
    cache: bool,
) -> None:
    """Whatever moment it is, a load is of one of two bundles that change places, or refused."""
    place, other = copied(pair[0], tmp_path / "bundle"), copied(pair[1], tmp_path / "other")
    first, done, found = Bundle(place).fingerprint, threading.Event(), Counter[str]()

    def change_places() -> None:
        while not done.is_set():
            assert exchange(place, other)

    with ThreadPoolExecutor(1) as pool:
        changing = pool.submit(change_places)
        try:
            for _ in range(300 if whole else 8):
                try:
                    with Encoder(place, **BULK, cache=cache) as encoder:
                        mine = theirs[encoder.fingerprint != first]
                        assert np.array_equal(encoder.encode(TEXTS, role="query"), mine)
                    found["loaded"] += 1
                except BundleError:
                    found["refused"] += 1
        finally:
            done.set()
        changing.result()
    print(f"loads beside exchanges: {dict(found)}")


def test_a_bundle_replaced_while_it_is_loaded_is_not_called_damaged(pair: Pair, tmp_path: Path) -> None:
    place = copied(pair[0], tmp_path / "bundle")
    bundle = Bundle(place)
    by_exchange(place, pair[1])
    with pytest.raises(BundleError, match="or only load it again: another bundle took its place meanwhile"):
        Encoder(bundle)


def test_verify_tells_a_bundle_that_is_replaced_under_it(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = copied(pair[0], tmp_path / "bundle")
    bundle = Bundle(place)
    after_a_call(monkeypatch, Bundle, "verify", lambda: by_exchange(place, pair[1]))
    with pytest.raises(BundleError, match="changed since the export"):
        verify(bundle)
