"""What benchmarks share: turns, statistics, tables, pages, and contenders that fail."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from paritas import Encoder
from paritas.engine.bundle import Bundle
from paritas.engine.runtime import Session
from paritas.kernels_bench import (
    _harness,
    _report,
    bench_first_token,
    bench_int8,
    bench_linear,
    bench_memory,
    bench_plan,
    bench_roofline,
    bench_shapes,
    pages,
    peer_recipes,
    peers,
)
from paritas.kernels_bench._harness import Contender, ContenderError
from paritas.kernels_bench._stage import Stage
from paritas.kernels_bench.bench_peers import (
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


def test_a_short_call_is_repeated_and_a_long_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    calls = {"short": 0, "long": 0}

    def call(name: str, seconds: float) -> None:
        nonlocal now
        now += seconds
        calls[name] += 1

    monkeypatch.setattr("paritas.kernels_bench._harness.time.perf_counter", lambda: now)
    forms = {"short": partial(call, "short", 0.0005), "long": partial(call, "long", 0.5)}
    seen = _harness.time_calls(forms, 3)
    assert seen == {"short": pytest.approx([0.0005] * 3), "long": pytest.approx([0.5] * 3)}
    assert calls == {"short": 2 + 3 * 4, "long": 2 + 3}  # two to warm up; a sample is 2 ms at least


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.5, "the floor is missed by 0.05."),
        (0.55, "the aim is missed by 0.24."),
        (0.79, "both are met."),
    ],
)
def test_a_verdict_says_what_is_missed_and_by_how_much(value: float, told: str) -> None:
    figure = _report.bounded("share", value, floor=0.55, aim=0.79)
    assert _report.verdict(figure) == f"share: {value:g}, with a floor of 0.55 and an aim of 0.79; {told}"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.51, "the floor is missed by 0.01."),
        (0.5, "the aim is missed by 0.25."),
        (0.25, "both are met."),
    ],
)
def test_where_less_is_better_the_floor_is_the_most_that_will_do(value: float, told: str) -> None:
    assert _report.verdict(_report.bounded("start", value, floor=0.5, aim=0.25)).endswith(told)


def test_benchmarks_need_no_plotting_to_run_and_say_so_before_they_measure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"paritas.kernels_bench.{path.stem}" for path in (ROOT / "kernels_bench").glob("[!_]*.py")]
    code = (
        "import importlib, sys\n"
        f"for name in {names}: importlib.import_module(name)\n"
        "sys.exit(str([name for name in ('matplotlib', 'psutil', 'torch') if name in sys.modules]))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.strip() == "[]"
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(click.UsageError, match="type: pip install matplotlib"):
        bench_linear.main.main(["--save"], standalone_mode=False)


# Tables and pages.


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
        "| share | 0.5 | 0.7 | 0.6 | `bench_peers` |",
        "| start, s | 0.5 | 0.25 | 0.6: missed | `bench_start` |",
    ]
    assert pages.aims({}) is None


def test_a_place_shows_the_cpu_it_names_or_the_one_asked_for_or_the_newest_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_report, "RESULTS", tmp_path)
    for cpu, date in (("old", "2026-01-01"), ("new", "2026-01-03"), ("middle", "2026-01-02")):
        _report.save("speed", RESULT | {"cpu": cpu, "date": date})
    page = tmp_path / "page.md"

    def shown(words: str, cpu: str) -> str:
        page.write_text(f"<!-- begin {words} -->\n<!-- end -->\n", encoding="utf-8")
        text, missing = pages.filled(page, cpu)
        cpus = re.findall(r"CPUs of (\w+)", text)
        assert missing == ([] if cpus else [words])
        return f"{''.join(cpus)}, {text.count('| a |')} rows"

    assert shown("speed", "old") == "old, 2 rows"
    assert shown("speed", "another") == "new, 2 rows"
    assert shown("speed cpu=middle", "old") == "middle, 2 rows"
    assert shown("speed cpu=middle threads=own", "old") == "middle, 1 rows"
    assert shown("speed cpu=another", "old") == ", 0 rows"


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: str(page.relative_to(pages.ROOT)))
def test_pages_show_the_saved_results_of_one_machine(page: Path) -> None:
    machines = {
        json.loads(path.read_text(encoding="utf-8"))["cpu"] for path in _report.RESULTS.glob("*.json")
    }
    text = page.read_text(encoding="utf-8")
    assert text in [pages.filled(page, _report.cpu_slug(cpu))[0] for cpu in machines]


# What single benchmarks compute besides times.


def test_padding_is_counted_and_every_text_is_in_one_batch() -> None:
    lengths = np.array([5, 1, 5, 3] * 20)
    found = bench_plan.groupings(lengths)
    for batches in found.values():
        rows = np.concatenate([batch.rows for batch in batches])
        np.testing.assert_array_equal(np.sort(rows), np.arange(80))
    ours, by_length, as_given = (sum(batch.cells for batch in batches) for batches in found.values())
    assert ours == lengths.sum() == 280
    assert as_given == 80 * 5
    assert by_length == 32 * 5 + 32 * 5 + 16 * 1  # 40 of 5 tokens, 20 of 3, 20 of 1


def test_operations_are_those_of_every_matrix_and_of_attention() -> None:
    # One token of all-MiniLM-L6-v2: 6 layers of four 384 x 384 and two 384 x 1536, and of itself.
    linear = 2 * 6 * (4 * 384**2 + 2 * 384 * 1536)
    assert bench_roofline.operations("all-MiniLM-L6-v2", [1]) == linear + 6 * 4 * 384
    together = bench_roofline.operations("all-MiniLM-L6-v2", [7, 9])
    apart = sum(bench_roofline.operations("all-MiniLM-L6-v2", [length]) for length in (7, 9))
    assert together == apart < bench_roofline.operations("all-MiniLM-L6-v2", [16])


def test_memory_figures_keep_every_peak() -> None:
    samples = [(0.0, 10.0, "load"), (0.1, 90.0, "bulk"), (0.2, 20.0, "bulk"), (0.3, 30.0, "rest")]
    samples += [(0.4, 25.0, "rest"), (0.5, 26.0, "calls")]
    assert bench_memory.summary(samples) == {"load_mb": 10, "bulk_mb": 90, "rest_mb": 25, "calls_mb": 26}
    assert bench_memory.thinned(samples, 2) == [(0.1, 90.0, "bulk"), (0.3, 30.0, "rest")]
    assert bench_memory.thinned(samples, 100) == samples


def test_a_bundle_read_with_longer_texts_is_the_same_bundle(
    bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    bundle = bundles["tiny-bert"].directory
    longer = bench_shapes.with_length(bundle, 30, tmp_path / "longer")
    vectors, tokens = [], []
    for directory in (bundle, longer):
        with Encoder(directory) as encoder:
            vectors.append(encoder.encode(["the"], role="query"))
            encoder.encode(bench_shapes.texts_of(40, 1), role="query")
            assert encoder.last_stats is not None
            tokens.append(encoder.last_stats.tokens)
    np.testing.assert_array_equal(*vectors)
    assert tokens == [12, 30]


def test_last_layers_are_timed_only_if_they_give_the_same_vectors(bundles: dict[str, Bundle]) -> None:
    with Encoder(bundles["tiny-bert"]) as one, Encoder(bundles["tiny-bert"]) as other:
        forms = {bench_first_token.EVERY: one, bench_first_token.FIRST: other}
        rows = bench_first_token.measure(forms, {"a kind": ("query", [["the"], ["the of"]])}, 2)
        assert [(row["last_layer"], row["texts"]) for row in rows] == [(name, "a kind") for name in forms]
        assert rows[0]["gain"] == 1
    with Encoder(bundles["tiny-bert"]) as one, Encoder(bundles["tiny-mpnet"]) as other:
        forms = {bench_first_token.EVERY: one, bench_first_token.FIRST: other}
        with pytest.raises(click.ClickException, match=r"vectors differ by .*, a kind"):
            bench_first_token.measure(forms, {"a kind": ("query", [["the"]])}, 2)


def test_graphs_with_onnxruntimes_own_attention_have_a_dynamic_form(
    bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    exact, dynamic = (
        bundles["tiny-bert"].directory / "model.fp32.equal_length.onnx",
        tmp_path / "dynamic.onnx",
    )
    assert b"MultiHeadAttention" in exact.read_bytes()
    bench_int8.quantize_dynamic(exact, dynamic)
    assert b"MatMulInteger" in dynamic.read_bytes()
    ids = np.arange(8, dtype=np.int64).reshape(2, 4)
    one, other = (
        Session(graph, provider="cpu", threads=1).run(ids, np.ones_like(ids), np.zeros_like(ids))
        for graph in (exact, dynamic)
    )
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    assert ((one * other).sum(-1) / norms).min() > 0.99


def test_texts_of_one_length_have_it_and_are_not_encoded_once(bundles: dict[str, Bundle]) -> None:
    texts = bench_shapes.texts_of(6, 100)
    with Encoder(bundles["tiny-mpnet"]) as encoder:
        encoder.encode(texts, role="query")
        assert encoder.last_stats is not None
        assert encoder.last_stats.tokens == 600
    assert len(set(texts)) == 100


@pytest.mark.parametrize(("inputs", "outputs"), bench_linear.SIZES[::2])
def test_columns_come_nearer_to_fp32_than_one_scale(inputs: int, outputs: int) -> None:
    layer = bench_linear.Layer.random(8, inputs, outputs)
    exact = layer.x.astype(np.float64) @ layer.weights + layer.bias
    errors = {
        name: bench_linear.relative_error(form(layer).output(), exact.astype(np.float32))
        for name, form in bench_linear.FORMS.items()
    }
    assert errors["fp32"] < 1e-6
    assert errors["columns"] < errors["static"] / 3
    assert errors["columns"] < errors["dynamic"] / 3


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
