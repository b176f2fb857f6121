"""What an encoder runs with: given, tuned, or the defaults."""

from __future__ import annotations

import pytest

from paritas.engine import settings
from paritas.engine.settings import Settings, choose_settings

TUNED = Settings(3, 2, 16, "tuned")


@pytest.fixture(autouse=True)
def three_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "available_cpus", lambda: 3)


@pytest.mark.parametrize(
    ("given", "on_cpu", "expected"),
    [
        ((None, None, None), True, Settings(3, 3, 512, "default")),
        ((None, None, None), False, Settings(3, 1, 16_384, "default")),
        ((2, None, None), True, Settings(2, 2, 512, "given")),
        ((2, None, None), False, Settings(2, 1, 16_384, "given")),
        ((None, 1, None), True, Settings(3, 1, 512, "given")),
        ((None, 8, None), True, Settings(3, 3, 512, "given")),
        ((None, None, 77), True, Settings(3, 3, 77, "given")),
        ((5, 4, 9), False, Settings(5, 4, 9, "given")),
    ],
)
def test_what_is_given_counts_and_the_rest_are_defaults(
    given: tuple[int | None, int | None, int | None], on_cpu: bool, expected: Settings
) -> None:
    assert choose_settings(*given, on_cpu=on_cpu) == expected
    if expected.origin == "given":
        assert choose_settings(*given, on_cpu=on_cpu, tuned=TUNED) == expected


def test_what_was_tuned_holds_where_nothing_is_given() -> None:
    assert choose_settings(None, None, None, on_cpu=True, tuned=TUNED) == TUNED
