"""What benchmarks share: turns, statistics, tables, pages, and contenders that fail."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from paritas.kernels_bench import _harness, pages, peers
from paritas.kernels_bench._harness import Contender, ContenderError
from paritas.kernels_bench._stage import Stage
from paritas.kernels_bench.bench_peers import REFERENCE, Entry, ratio, row, run_rounds

# Turns and statistics.


def test_everyone_has_a_turn_in_each_round_and_nobody_always_follows_the_same() -> None:
    found = list(_harness.turns(["a", "b", "c"], 4))
    assert [found[start : start + 3] for start in range(0, 12, 3)] == [
        ["a", "b", "c"],
        ["a", "c", "b"],
        ["c", "a", "b"],
        ["c", "b", "a"],
    ]


def test_the_ratio_is_the_median_over_rounds_and_not_that_of_the_medians() -> None:
    # The machine was ten times slower in the last two rounds; within each round the ratio is 2, 2 and 4.
    assert _harness.speed_ratio([1, 10, 10], [2, 20, 40]) == 2
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        _harness.speed_ratio([1, 1], [1])


def test_the_spread_is_in_order_and_scaled() -> None:
    assert _harness.spread([0.5, 0.1, 0.2, 0.3, 0.4, 0.0], scale=1000) == {"p20": 100, "p50": 250, "p80": 400}


def test_calls_are_timed_once_a_round_and_a_slow_one_is_not_repeated() -> None:
    called = []
    seen = _harness.time_calls({"quick": lambda: None, "slow": lambda: called.append(sum(range(10**6)))}, 3)
    assert {name: len(seconds) for name, seconds in seen.items()} == {"quick": 3, "slow": 3}
    assert len(called) == 2 + 3  # warm-up apart
    assert all(second > 0 for seconds in seen.values() for second in seconds)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.5, "the floor is missed by 0.05."),
        (0.55, "the aim is missed by 0.24."),
        (0.79, "both are met."),
    ],
)
def test_a_verdict_says_what_is_missed_and_by_how_much(value: float, told: str) -> None:
    figure = _harness.bounded("share", value, floor=0.55, aim=0.79)
    assert _harness.verdict(figure) == f"share: {value:g}, with a floor of 0.55 and an aim of 0.79; {told}"


# Tables and pages.


def test_a_table_has_units_in_its_head_and_no_column_of_nothing() -> None:
    rows = [
        {"engine": "a", "tokens_per_s": 12345, "peak_rss_mb": 1e3, "gemm_share": 0.5, "error": None},
        {"engine": "b", "tokens_per_s": None, "peak_rss_mb": 0.5, "gemm_share": None, "error": None},
    ]
    assert _harness.table(rows).splitlines() == [
        "| engine | tokens/s | peak RSS, MB | GEMM share |",
        "| --- | --- | --- | --- |",
        "| a | 12,345 | 1,000 | 50% |",
        "| b |  | 0.5 |  |",
    ]


PAGE = (
    "Before.\n<!-- begin one -->\nold\n<!-- end -->\nBetween.\n<!-- begin two k=v -->\n<!-- end -->\nAfter.\n"
)


def test_a_page_is_filled_between_its_comments_and_nowhere_else() -> None:
    filled, missing = pages.fill(PAGE, lambda words: f"[{words}]")
    assert filled == (
        "Before.\n<!-- begin one -->\n[one]\n<!-- end -->\nBetween.\n"
        "<!-- begin two k=v -->\n[two k=v]\n<!-- end -->\nAfter.\n"
    )
    assert missing == []
    assert pages.fill(filled, lambda words: f"[{words}]")[0] == filled


def test_what_was_not_measured_stays_and_is_named() -> None:
    filled, missing = pages.fill(PAGE, {"one": "new"}.get)
    assert filled == PAGE.replace("old", "new")
    assert missing == ["two k=v"]


@pytest.mark.parametrize(
    "page", ["<!-- begin one -->\n", "<!-- begin one -->\n<!-- begin two -->\n<!-- end -->\n<!-- end -->\n"]
)
def test_a_place_without_its_end_is_an_error(page: str) -> None:
    with pytest.raises(ValueError, match="a place begins that does not end"):
        pages.fill(page, lambda _words: "")


RESULT = {
    "question": "who is fast",
    "rows": [{"engine": "a", "threads": "own", "ms": 1}, {"engine": "a", "threads": "2", "ms": 2}],
    "figure": _harness.bounded("share", 0.6, floor=0.5, aim=0.7),
    "cpu": "some CPU",
    "cpus": 2,
    "versions": {"numpy": "2.0"},
    "commit": "abc",
    "date": "2026-01-01",
}


def test_a_section_shows_the_rows_asked_for_the_verdict_and_the_machine() -> None:
    found = pages.section(RESULT, "threads", "2")
    assert "| a | 2 |" in found
    assert "| a | 1 |" not in found
    assert "threads" not in found
    assert "the aim is missed by 0.1." in found
    assert "2 CPUs of some CPU; numpy 2.0; 2026-01-01, abc" in found
    with pytest.raises(ValueError, match="no row of 'who is fast' has threads=3"):
        pages.section(RESULT, "threads", "3")


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: str(page.relative_to(pages.ROOT)))
def test_pages_show_the_saved_results_of_one_machine(page: Path) -> None:
    machines = {
        json.loads(path.read_text(encoding="utf-8"))["cpu"] for path in _harness.RESULTS.glob("*.json")
    }
    text = page.read_text(encoding="utf-8")
    assert text in [pages.filled(page, _harness.cpu_slug(cpu))[0] for cpu in machines]


# Contenders and peers.


def test_a_contender_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(ContenderError, match="no-such-python: No such file or directory"):
        Contender("x", [], python=[str(tmp_path / "no-such-python")])
    with pytest.raises(ContenderError, match="the process ended with 3"):
        Contender("raise SystemExit(3)", [], python=[sys.executable, "-c"])
    with pytest.raises(ContenderError, match=r"^out of luck$"):
        Contender('print(\'{"error": "out of luck"}\')', [], python=[sys.executable, "-c"])


@pytest.fixture
def work(tmp_path: Path) -> Path:
    texts = {"quality": ["a"], "speed": ["a", "b"], "warm": ["a"], "queries": ["a"]}
    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    return tmp_path


def test_an_engine_that_cannot_load_answers_with_its_reason(work: Path) -> None:
    with pytest.raises(ContenderError, match=r"^BundleError: .*bundle"):
        Stage(None, work, work).start("paritas fp32")


def test_a_peer_without_an_environment_is_reported_and_ends_nothing(work: Path) -> None:
    stage = Stage(work / "peers", work, work)
    entries = [Entry(name, None) for name in ("fastembed fp32", REFERENCE)]
    run_rounds(stage, entries, 2)
    for entry in entries:
        shown = row(entry, entries, work, 2, 10)
        assert "No such file or directory" in shown["error"]
        assert shown["texts_per_s"] is None
    with pytest.raises(ContenderError, match="--peers names no environments"):
        Stage(None, work, work).start(REFERENCE)


def test_ratios_are_to_the_reference_with_as_many_threads() -> None:
    def entry(name: str, threads: int | None, seconds: float, error: str | None = None) -> Entry:
        return Entry(name, threads, [{"seconds": seconds}], error)

    entries = [entry(REFERENCE, None, 8), entry(REFERENCE, 2, 4), entry("a", 2, 2), entry("a", None, 2)]
    assert [ratio(each, entries) for each in entries] == [1, 1, 2, 4]
    entries[1].error = "died in its second round"
    assert ratio(entries[2], entries) is None


@pytest.mark.parametrize(
    "arguments", [[], ["serve", "no-such-engine", "c", "w"], ["prepare", "no-such-recipe", "c", "w"], ["go"]]
)
def test_the_peers_script_explains_itself_when_called_wrongly(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"peers\.py serve ENGINE CHECKPOINT WORK"):
        peers.main(arguments)


def test_every_engine_has_a_recipe_that_exists_and_an_environment_that_is_installed() -> None:
    makefile = (pages.ROOT / "Makefile").read_text(encoding="utf-8")
    environments = {recipe.environment for recipe in peers.RECIPES.values()}
    for engine in peers.ENGINES.values():
        assert engine.recipe is None or engine.recipe in peers.RECIPES
        environments |= {engine.environment} - {""}
    for environment in environments:
        assert f"-m venv $(VENV)/peers/{environment}\n" in makefile
    assert {recipe.needs for recipe in peers.RECIPES.values()} - {None} <= set(peers.RECIPES)
