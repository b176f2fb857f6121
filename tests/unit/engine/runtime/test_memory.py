"""Sizes as people write them, and settings that keep a limit."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.engine.runtime import memory
from paritas.engine.runtime.memory import Needs, fit, parse_size, resident_bytes
from paritas.errors import InputError

MIB = 2**20
NEEDS = Needs(loaded=200 * MIB, session=100 * MIB, text=24 * MIB, longest=384, tokens=30 * MIB)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, 1),
        (536870912, 512 * MIB),
        ("512MiB", 512 * MIB),
        ("512 mib", 512 * MIB),
        ("512Mi", 512 * MIB),
        ("800M", 800_000_000),
        ("1.5GB", 1_500_000_000),
        ("2g", 2_000_000_000),
        ("3 KiB", 3072),
        ("4096", 4096),
    ],
)
def test_a_size_is_read_as_written(size: int | str, expected: int) -> None:
    assert parse_size(size) == expected


@pytest.mark.parametrize(
    "size", ["", "many", "-5MB", -5, 0, "0", "5 TB", "5 MiBs", "512 i", True, "1e9", None]
)
def test_what_is_no_size_is_refused(size: object) -> None:
    with pytest.raises(InputError, match=r'memory_limit is .*; expected bytes or a size such as "512MiB"'):
        parse_size(size)  # type: ignore[arg-type]


def test_resident_memory_grows_with_what_is_held() -> None:
    before = resident_bytes()
    # From the system, not from what the C library kept of what earlier tests freed.
    with mmap.mmap(-1, 64 * MIB) as held:
        held.write(b"x" * (64 * MIB))
        assert resident_bytes() - before > 32 * MIB


def test_a_system_that_does_not_say_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    with pytest.raises(InputError, match="memory_limit needs Linux"):
        resident_bytes()


def test_more_workers_and_larger_batches_need_more() -> None:
    assert NEEDS.bytes(1, 100) == NEEDS.bytes(1, 384) == (200 + 30 + 24 * 1.25) * MIB
    assert NEEDS.bytes(1, 768) == (200 + 30 + 2 * 24 * 1.25) * MIB
    assert NEEDS.bytes(2, 384) == (200 + 30 + 100 + 3 * 24 * 1.25) * MIB


def test_what_fits_is_left_as_it_is() -> None:
    assert fit(NEEDS, 1000 * MIB, workers=4, max_batch_tokens=512) == (4, 512)


def test_batches_shrink_before_workers_go() -> None:
    assert fit(NEEDS, NEEDS.bytes(2, 512), workers=2, max_batch_tokens=2048) == (2, 512)
    assert fit(NEEDS, NEEDS.bytes(2, 384) - 1, workers=2, max_batch_tokens=512) == (1, 512)


def test_the_least_that_is_named_is_enough_and_less_is_not() -> None:
    least = NEEDS.bytes(1, 384)
    assert fit(NEEDS, least, workers=8, max_batch_tokens=4096) == (1, 384)
    with pytest.raises(InputError, match=r'takes 260 MiB here.*give memory_limit="260MiB" or more'):
        fit(NEEDS, least - 1, workers=8, max_batch_tokens=4096)


def test_a_budget_below_the_longest_text_is_kept() -> None:
    assert fit(NEEDS, 1000 * MIB, workers=1, max_batch_tokens=64) == (1, 64)


def test_an_encoder_says_at_load_what_it_cannot_keep(bundles: dict[str, Bundle]) -> None:
    with pytest.raises(InputError, match=r"memory_limit is 1 MiB, and this model takes \d+ MiB here"):
        Encoder(bundles["tiny-bert"].directory, memory_limit="1MiB")
    with pytest.raises(InputError, match="memory_limit is 'lots'"):
        Encoder(bundles["tiny-bert"].directory, memory_limit="lots")


def test_a_limit_changes_no_vector(bundles: dict[str, Bundle], bert: Encoder) -> None:
    texts = [f"the river {number}" for number in range(40)]
    with Encoder(bundles["tiny-bert"].directory, memory_limit="8GiB", max_batch_tokens=4096) as limited:
        assert limited.settings.max_batch_tokens == 4096
        assert (limited.encode(texts, role="query") == bert.encode(texts, role="query")).all()
