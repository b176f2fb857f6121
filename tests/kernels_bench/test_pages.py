"""Results as Markdown: tables, places in pages, and the commit they were measured with."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from kernels_bench import _report, pages


def test_a_table_has_units_in_its_head_and_no_column_of_nothing() -> None:
    rows = [
        {"engine": "a", "tokens_per_s": 12345, "peak_rss_mb": 1e3, "gemm_share": 0.5, "error": None},
        {"engine": "b", "tokens_per_s": None, "peak_rss_mb": 0.5, "gemm_share": None, "error": None},
    ]
    assert _report.table(rows).splitlines() == [
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


def test_results_name_the_commit_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, results = tmp_path / "engine" / "one.py", tmp_path / "kernels_bench" / "results"
    monkeypatch.setattr(_report, "RESULTS", results)
    for path in (code, results / "saved.json"):
        path.parent.mkdir(parents=True)
        path.write_text("1", encoding="utf-8")
    assert _report.code_version() == "unknown"

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        run = subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return run.stdout.strip()

    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    commit = git("log", "--format=%h")
    (results / "saved.json").write_text("2", encoding="utf-8")
    (results / "another.json").write_text("2", encoding="utf-8")
    assert _report.code_version() == commit
    code.write_text("2", encoding="utf-8")
    assert _report.code_version() == f"{commit}-dirty"


@pytest.mark.parametrize(
    "page", ["<!-- begin one -->\n", "<!-- begin one -->\n<!-- begin two -->\n<!-- end -->\n<!-- end -->\n"]
)
def test_a_place_without_its_end_is_an_error(page: str) -> None:
    with pytest.raises(ValueError, match="a place begins that does not end"):
        pages.fill(page, lambda _words: "")


RESULT = {
    "question": "who is fast",
    "rows": [{"engine": "a", "threads": "own", "ms": 1}, {"engine": "a", "threads": "2", "ms": 2}],
    "figures": [_report.bounded("share", 0.6, floor=0.5, aim=0.7)],
    "cpu": "some CPU",
    "cpus": 2,
    "versions": {"numpy": "2.0"},
    "commit": "abc",
    "date": "2026-01-01",
}


def test_a_section_shows_rows_verdicts_and_the_machine() -> None:
    found = pages.section(RESULT) or ""
    assert "| a | own | 1 |\n| a | 2 | 2 |" in found
    assert "the aim is missed by 0.1." in found
    assert "2 CPUs of some CPU; numpy 2.0; 2026-01-01, abc" in found


def test_a_section_of_some_rows_shows_those_alone() -> None:
    found = pages.section(RESULT, {"threads": "2"}) or ""
    assert "| a | 2 |" in found
    assert "| a | 1 |" not in found
    assert "threads" not in found
    assert "missed" not in found
    assert pages.section(RESULT, {"threads": "3"}) is None


def test_all_that_is_asked_for_stands_in_one_table() -> None:
    less = {"figures": [_report.bounded("start, s", 0.6, floor=0.5, aim=0.25)]}
    assert (pages.aims({"peers-model": RESULT, "start-model": less}) or "").splitlines()[2:] == [
        "| share | at least 0.5 | 0.7 | 0.6 | `bench_peers` |",
        "| start, s | at most 0.5 | 0.25 | 0.6: missed | `bench_start` |",
    ]
    assert pages.aims({}) is None


def test_a_place_shows_the_cpu_it_names_or_the_one_asked_for_or_the_newest_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_report, "RESULTS", tmp_path)
    for cpu, date in (("old", "2026-01-01"), ("new", "2026-01-03"), ("middle", "2026-01-02")):
        _report.save("speed", RESULT | {"cpu": cpu, "date": date})
    page = tmp_path / "page.md"

    def shown(words: str, cpu: str) -> tuple[list[str], int, list[str]]:
        page.write_text(f"<!-- begin {words} -->\n<!-- end -->\n", encoding="utf-8")
        text, missing = pages.filled(page, cpu)
        return re.findall(r"CPUs of (\w+)", text), text.count("| a |"), missing

    assert shown("speed", "old") == (["old"], 2, [])
    assert shown("speed", "another") == (["new"], 2, ["speed"]), "and it is said"
    assert shown("speed cpu=middle", "old") == (["middle"], 2, [])
    assert shown("speed cpu=middle threads=own", "old") == (["middle"], 1, [])
    assert shown("speed cpu=another", "old") == ([], 0, ["speed cpu=another"])


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: str(page.relative_to(pages.ROOT)))
def test_pages_show_the_saved_results_of_one_machine(page: Path) -> None:
    machines = {
        json.loads(path.read_text(encoding="utf-8"))["cpu"] for path in _report.RESULTS.glob("*.json")
    }
    text = page.read_text(encoding="utf-8")
    assert text in [pages.filled(page, _report.cpu_slug(cpu))[0] for cpu in machines]
