"""What benchmarks share: turns, statistics and bounds; and what single ones compute besides times."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import numpy as np
import pytest

from kernels_bench import (
    _harness,
    _report,
    bench_first_token,
    bench_int8,
    bench_linear,
    bench_memory,
    bench_operators,
    bench_plan,
    bench_roofline,
    bench_shapes,
)
from paritas import Encoder
from paritas.engine.bundle.directory import Bundle
from paritas.engine.runtime.kernels import available_kernels
from paritas.engine.runtime.session import Session

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

    monkeypatch.setattr("kernels_bench._harness.time.perf_counter", lambda: now)
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
    names = [f"kernels_bench.{path.stem}" for path in (ROOT / "kernels_bench").glob("[!_]*.py")]
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


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where results are saved; the machine can draw."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())
    monkeypatch.setattr(_report, "RESULTS", tmp_path)
    return tmp_path


def benchmark(measure: Callable[[], None]) -> click.Command:
    @click.command()
    @_report.output_options
    def main(as_json: bool, keep: bool) -> None:
        measure()
        result = {"question": "?", "cpus": 2, "cpu": "Fast", "rows": [{"a": 1}]}
        result["commit"] = _report.code_version()
        _report.deliver("it", result, as_json=as_json, keep=keep, draw=lambda _result, _path: None)

    return main


@pytest.mark.parametrize("version", ["1a2b3c4-dirty", "unknown", "unknown-dirty"])
def test_figures_of_no_commit_are_not_saved_and_that_is_said_before_they_are_measured(
    saved: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    measured: list[int] = []
    monkeypatch.setattr(_report, "code_version", lambda: version)
    main = benchmark(lambda: measured.append(1))
    with pytest.raises(click.UsageError, match=f"the code is {version}; type: git stash"):
        main.main(["--save"], standalone_mode=False)
    assert (measured, list(saved.iterdir())) == ([], [])
    main.main(["--json"], standalone_mode=False)
    assert measured == [1]


def test_figures_of_code_that_was_changed_meanwhile_are_not_saved(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_report, "code_version", lambda: "1a2b3c4")
    change = partial(monkeypatch.setattr, _report, "code_version", lambda: "1a2b3c4-dirty")
    with pytest.raises(click.ClickException, match="not saved: the code was 1a2b3c4 when this began"):
        benchmark(change).main(["--save"], standalone_mode=False)
    assert list(saved.iterdir()) == []
    monkeypatch.setattr(_report, "code_version", lambda: "1a2b3c4")
    benchmark(lambda: None).main(["--save"], standalone_mode=False)
    assert [path.name for path in saved.iterdir()] == ["it-fast.json"]


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


# Operators of our own.


@pytest.mark.skipif(not available_kernels().own, reason=f"none run here: {available_kernels().reason}")
@pytest.mark.parametrize(("op_type", "inputs", "outputs"), bench_operators.LINEAR[1:])
def test_the_forms_of_a_linear_layer_compute_the_same(op_type: str, inputs: int, outputs: int) -> None:
    forms = {
        name: graph.output()
        for name, graph in bench_operators.linear_forms(op_type, 5, inputs, outputs).items()
    }
    for found in forms.values():
        np.testing.assert_allclose(found, forms["fp32"], atol=0.15)
    assert np.abs(forms["ours"] - forms["fp32"]).max() < np.abs(forms["static"] - forms["fp32"]).max()


@pytest.mark.skipif(not available_kernels().own, reason=f"none run here: {available_kernels().reason}")
@pytest.mark.parametrize("op_type", ["Attention", "RelativeAttention"])
def test_the_forms_of_attention_compute_the_same(op_type: str) -> None:
    forms = bench_operators.attention_forms(op_type, 21)
    np.testing.assert_allclose(forms["ours"].output(), forms["fp32"].output(), atol=1e-3)
