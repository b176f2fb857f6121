"""tune and doctor: what this machine does best, and what is wrong on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from paritas.cli.options import (
    GIVEN,
    Models,
    as_json,
    complete_model,
    note,
    precision_option,
    print_json,
)
from paritas.cli.tables import table
from paritas.engine.bundle.directory import Bundle
from paritas.registry import Precision

if TYPE_CHECKING:  # the runtime is loaded by the commands that run something
    from paritas.doctor import Findings
    from paritas.doctor.machine import Cpu
    from paritas.doctor.store import BundledGraph, BundleState
    from paritas.engine.tuned import Measured


@click.command()
@click.argument("model", type=GIVEN, shell_complete=complete_model)
@precision_option
@click.option(
    "--seconds",
    type=float,
    default=45.0,
    show_default=True,
    help="Time to spend on encoding.",
)
@click.option("--forget", is_flag=True, help="Remove what was found before: back to the defaults.")
@as_json
@click.pass_obj
def tune(
    models: Models,
    model: str,
    precision: Precision | Literal["auto"],
    seconds: float,
    forget: bool,
    as_json: bool,
) -> None:
    """Measure with how many workers and how large batches MODEL is fastest on this machine, and keep it.

    Encoders of that bundle and precision use what was found, unless they are given threads, workers or a
    batch size, as long as they see as many CPUs. Vectors do not depend on it. Best run while the machine
    has nothing else to do.

    \b
    paritas tune all-MiniLM-L6-v2
    paritas tune all-mpnet-base-v2 --precision int8 --seconds 120
    paritas tune all-mpnet-base-v2 --precision int8 --forget
    """
    from paritas.engine import tuning
    from paritas.engine.runtime.precision import choose_precision
    from paritas.engine.tuned import forget_tuned, keep_tuned

    bundle = Bundle(models.find(model))
    chosen, _ = choose_precision(bundle, precision, on_cpu=True)
    place = {"bundle": str(bundle.directory), "precision": chosen}
    if forget:
        gone = forget_tuned(bundle, chosen)
        if as_json:
            print_json({**place, "forgotten": gone and str(gone)})
        else:
            click.echo(f"forgotten: {gone}" if gone else f"nothing was tuned for {model} in {chosen}")
        return
    tuned = tuning.tune(bundle, chosen, seconds=seconds, report=note)
    record = keep_tuned(bundle, tuned)
    if as_json:
        print_json({**place, "record": str(record), "tuned": tuned})
        return
    for race in tuned.races:
        click.echo(_figures(race) + "\n")
    click.echo(
        f"{model} in {chosen} now runs with {tuned.cpus} threads, {tuned.workers} workers and "
        f"{tuned.max_batch_tokens} tokens a batch: {_won(tuned.gain)}\nkept: {record}"
    )


def _won(gain: float) -> str:
    return f"{gain:.2f} times as fast as the defaults" if gain > 1 else "nothing beat the defaults"


def _figures(race: list[Measured]) -> str:
    """One race; ratios are to its first row, within rounds."""
    rows = [
        [one.workers, one.max_batch_tokens, round(one.tokens_per_s), f"{one.ratio:.2f}", one.rounds]
        for one in race
    ]
    return table(["workers", "batch tokens", "tokens/s", "ratio", "rounds"], rows)


@click.command()
@as_json
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Say what this machine, its packages and the bundles in the store are like, and what to mend.

    Nothing is encoded. The exit code is 2 where something found makes encoding impossible, else 0, warnings
    included.

    \b
    paritas doctor
    paritas doctor --json
    """
    from paritas.doctor import examine

    findings = examine()
    if as_json:
        print_json(findings)
    else:
        advice = [_advice(bundle, findings.cpu) for bundle in findings.bundles]
        parts = [
            _machine(findings),
            _bundles(findings.bundles),
            "\n".join(filter(None, advice)),
            _problems(findings),
        ]
        click.echo("\n\n".join(filter(None, parts)))
    context.exit(0 if findings.ok else 2)


def _machine(findings: Findings) -> str:
    cpu, memory, runtime, store = findings.cpu, findings.memory, findings.onnxruntime, findings.store
    limiting = "quota" if cpu.available < cpu.affinity else "affinity" if cpu.affinity < cpu.present else ""
    quota = "no quota" if cpu.quota is None else f"a quota of {cpu.quota:g}"
    limit = "no cgroup limit" if memory.limit_bytes is None else f"limited to {_mb(memory.limit_bytes)} MB"
    installed = ", ".join(f"{name} {version}" for name, version in runtime.distributions.items())
    facts = {
        "CPU": cpu.name,
        "INT8": f"{'' if cpu.int8 else 'no '}faster than FP32; with static inputs "
        + (f"fast, by {cpu.dot_product}" if cpu.dot_product else "exact, without fast byte products"),
        "kernels": f"{cpu.kernels}: {cpu.kernels_reason}",
        "CPUs": f"{cpu.available} of {cpu.present}: affinity to {cpu.affinity}, {quota}"
        + (f"; the {limiting} limits" if limiting else ""),
        "memory": f"{_mb(memory.total_bytes)} MB, {limit}",
        "versions": ", ".join(f"{name} {version}" for name, version in findings.versions.items()),
        "runtime": f"{installed or 'none'}: {', '.join(runtime.providers) or 'does not load'}",
        "store": f"{store.path or 'none'}, {'writable' if store.writable else 'not writable'}; cache "
        f"{_mb(store.cache_bytes)} MB, of it optimized graphs {_mb(store.prepared_bytes)}",
    }
    return "\n".join(f"{name:<10}{fact}" for name, fact in facts.items())


def _bundles(bundles: list[BundleState]) -> str:
    if not bundles:
        return "no bundles; type: paritas export all-MiniLM-L6-v2"
    header = ["bundle", "state", "precision", "MB", "certified with", "on", "optimized"]
    header += ["threads/workers/tokens", "by"]
    rows = [
        [bundle.model, _state(bundle), precision, *_graph(graph)]
        for bundle in bundles
        for precision, graph in bundle.graphs.items()
    ]
    rows += [[bundle.model, _state(bundle), *["-"] * 7] for bundle in bundles if not bundle.graphs]
    return table(header, rows)


def _state(bundle: BundleState) -> str:
    if bundle.error is not None:
        return "damaged"
    return "not all read" if bundle.unread_bytes else "whole"


def _graph(graph: BundledGraph) -> list[object]:
    made = [_mb(graph.size_bytes), " ".join(graph.certified) or "-", graph.date]
    runs = graph.settings
    if runs is None:
        return [*made, "-", "-", "-"]
    prepared = "damaged" if graph.damage else "yes" if graph.prepared else "no"
    return [*made, prepared, f"{runs.threads}/{runs.workers}/{runs.max_batch_tokens}", runs.origin]


def _advice(bundle: BundleState, cpu: Cpu) -> str:
    """What to load a bundle with, and why."""
    if bundle.error is not None or bundle.precision is None:
        return ""
    name, graph = bundle.model, bundle.graphs[bundle.precision]
    lines = [f"{name}: take precision={bundle.precision!r}: {bundle.reason}"]
    if cpu.dot_product and "int8" not in bundle.graphs:
        wanted = ",".join([*bundle.graphs, "int8"])
        lines.append(f"  INT8 would be fast here; type: paritas export {name} --precision {wanted}")
    if (runs := graph.settings) is not None:
        values = f"  {runs.threads} threads, {runs.workers} workers, {runs.max_batch_tokens} tokens a batch"
        if graph.gain is None:
            mend = f"paritas tune {name} --precision {bundle.precision}"
            lines.append(f"{values}: the defaults, not measured here; type: {mend}")
        else:
            lines.append(f"{values}: tuned, {_won(graph.gain)}")
    return "\n".join(lines)


def _problems(findings: Findings) -> str:
    problems = [f"{one.severity}: {one.what}\n  type: {one.mend}" for one in findings.problems]
    return "\n".join(problems) or "no problems"


def _mb(size_bytes: int | None) -> int | str:
    return "?" if size_bytes is None else round(size_bytes / 1e6)
