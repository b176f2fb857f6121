"""Comparing with other engines: contenders that fail, rows, ratios and patience."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from kernels_bench import peer_recipes, peers
from kernels_bench._harness import Contender, ContenderError
from kernels_bench._stage import Stage
from kernels_bench.bench_peers import (
    REFERENCE,
    Entry,
    cosines,
    figures,
    measure,
    ratio,
    row,
    run_rounds,
)

ROOT = Path(__file__).resolve().parents[2]


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
    run_rounds(stage, entries, 2, 10, 1)
    for entry in entries:
        shown = row(entry, entries, {}, 5)
        assert shown["error"] == "the environment 'onnx' is not installed; type: make peers"
        assert shown["texts_per_s"] is None
    with pytest.raises(ContenderError, match="--peers names no environments"):
        Stage(None, work, work).start(REFERENCE)


def test_paritas_must_agree_with_pytorch_before_its_speed_counts(tmp_path: Path) -> None:
    assert cosines(tmp_path, "paritas fp32") == (None, None)
    exact = np.array([[1, 0], [0.6, 0.8]], np.float32)
    np.save(tmp_path / f"{REFERENCE}.npy", exact)
    np.save(tmp_path / "openvino fp32.npy", 2 * exact)
    assert cosines(tmp_path, "openvino fp32") == (1, 1)  # whatever their length
    for name in ("paritas int8", "paritas fp32"):
        np.save(tmp_path / f"{name}.npy", np.array([[1, 0], [0, 1]], np.float32))
    assert cosines(tmp_path, "paritas int8") == (0.9, 0.8)
    with pytest.raises(click.ClickException, match=r"paritas fp32 and .* disagree: cosine 0\.800000"):
        cosines(tmp_path, "paritas fp32")


def test_a_row_has_medians_over_rounds_and_quantiles_over_all_queries() -> None:
    rounds = [
        {"seconds": seconds, "texts": texts, "latencies": latencies, "start_s": start, "peak_rss_mb": peak}
        for seconds, texts, latencies, start, peak in (
            (1, 10, [0.01, 0.02], 3, 10),
            (0.8, 2, [0.03], 1, 30),
            (2, 10, [0.04], 2, 20),
        )
    ]
    entry = Entry("paritas int8", 2, rounds)
    assert row(entry, [entry], {"paritas int8": (0.999, 0.99)}, 10) == {
        **{"engine": "paritas int8", "threads": "cpus", "timed_texts": 2},
        **{"texts_per_s": 5, "tokens_per_s": 50, "ratio": None, "mean_cosine": 0.999, "min_cosine": 0.99},
        **{"query_p50_ms": 25, "query_p95_ms": 38.5, "start_s": 2, "peak_rss_mb": 30, "error": None},
    }


def test_ratios_are_to_the_reference_with_as_many_threads() -> None:
    def entry(name: str, threads: int | None, seconds: float, error: str | None = None) -> Entry:
        return Entry(name, threads, [{"seconds": seconds, "texts": 10}], error)

    entries = [entry(REFERENCE, None, 8), entry(REFERENCE, 2, 4), entry("a", 2, 2), entry("a", None, 2)]
    assert [ratio(each, entries) for each in entries] == [1, 1, 2, 4]
    entries[1].error = "died in its second round"
    assert ratio(entries[2], entries) is None


@pytest.mark.parametrize(("patience", "texts"), [(100, 17), (99, 3)])
def test_an_engine_that_is_too_slow_is_timed_on_what_it_warms_up_on(patience: float, texts: int) -> None:
    class Slow:
        start_s = 2.0

        def ask(self, word: str) -> dict[str, Any]:
            return {"warm": {"seconds": 300 / 17}, "queries": {"seconds": [0.5]}}[word]

        def round(self) -> dict[str, Any]:
            return {"seconds": 90}

        def finish(self) -> dict[str, Any]:
            return {"peak_rss_mb": 5}

    class SlowStage(Stage):
        def start(self, name: str, threads: int | None = None) -> Any:
            return Slow()

    # Three of 17 paragraphs, each eighth from the first, take 300 / 17 s: all of them 100.
    found = measure(SlowStage(None, Path(), Path()), Entry("slow", None), 17, patience)
    seconds = 90 if texts == 17 else 300 / 17
    assert found == {
        **{"start_s": 2, "texts": texts, "seconds": seconds, "latencies": [0.5], "peak_rss_mb": 5},
    }


@pytest.mark.parametrize("arguments", [[], ["fastembed fp32"], ["no-such-engine", "c", "w"]])
def test_the_peers_scripts_explain_themselves_when_called_wrongly(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"peers\.py ENGINE CHECKPOINT WORK"):
        peers.main(arguments)
    with pytest.raises(SystemExit, match=r"peer_recipes\.py RECIPE CHECKPOINT WORK"):
        peer_recipes.main(arguments)


def test_threads_are_an_engine_s_own_unless_they_are_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []
    monkeypatch.setattr(peers, "serve", lambda name, setup: seen.append((name, setup.threads)))
    peers.main(["fastembed fp32", "c", str(tmp_path)])
    peers.main(["fastembed fp32", "c", str(tmp_path), "3"])
    assert seen == [("fastembed fp32", None), ("fastembed fp32", 3)]


def test_every_engine_has_a_recipe_that_exists_and_an_environment_that_is_installed() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    environments = {recipe.environment for recipe in peer_recipes.RECIPES.values()}
    for engine in peers.ENGINES.values():
        assert engine.recipe is None or engine.recipe in peer_recipes.RECIPES
        environments |= {engine.environment} - {""}
    for environment in environments:
        assert f"-m venv $(VENV)/peers/{environment}\n" in makefile
    assert {recipe.needs for recipe in peer_recipes.RECIPES.values()} - {None} <= set(peer_recipes.RECIPES)


def test_what_is_asked_of_paritas_is_held_against_engines_that_ran() -> None:
    def seen(engine: str, texts_per_s: float, latency: float, threads: str = "own") -> dict[str, Any]:
        found = {"engine": engine, "threads": threads, "texts_per_s": texts_per_s, "error": None}
        return {**found, "query_p50_ms": latency, "peak_rss_mb": 400}

    rows = [
        seen("paritas int8", 30, 6),
        seen("paritas int8", 90, 1, "cpus"),
        seen("sentence-transformers onnx int8", 10, 8),
        {**seen("openvino static int8", 1, 1), "error": "not installed"},
    ]
    assert {each["name"]: each["value"] for each in figures(rows)} == {
        "paritas int8 in bulk, against sentence-transformers onnx int8": 3,
        "paritas int8, one query: median latency over that of the fastest other engine": 0.75,
        "paritas int8 in bulk: peak RSS, MB": 400,
    }
    assert figures(rows[2:]) == []
