"""How a result is told: with the machine it was measured on, as a table, as JSON, against a bound."""

from __future__ import annotations

import datetime
import importlib.util
import json
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from kernels_bench._harness import significant
from paritas.engine.runtime.cpus import available_cpus, cpu_name
from paritas.export.certificate.certify import versions

# Where click's context keeps the version of the code that a benchmark began with.
_BEGUN = "kernels_bench.begun"
RESULTS = Path(__file__).resolve().parent / "results"
_CODE = (
    "src",
    "engine",
    "export",
    "native",
    "setup.py",
    "kernels_bench",
    ":!kernels_bench/results",
    "pyproject.toml",
)


def environment() -> dict[str, Any]:
    """Return what a reader needs to judge a figure; "cpus" are its threads too, where it says no other."""
    return {
        "cpu": cpu_name(),
        "cpus": available_cpus(),
        "versions": versions(),
        "commit": code_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def code_version() -> str:
    """Return the commit of the code, "-dirty" where it was changed since; "unknown" outside a checkout.

    The results and the pages that show them are no code: benchmarks write them one after another.
    """

    def git(*arguments: str) -> str:
        command = ["git", *arguments, "--", *_CODE]
        run = subprocess.run(command, cwd=RESULTS.parents[1], capture_output=True, text=True, check=False)
        return run.stdout.strip()

    commit = git("log", "-1", "--format=%h")
    return f"{commit or 'unknown'}{'-dirty' if git('status', '--porcelain') else ''}"


def cpu_slug(cpu: str) -> str:
    """Return a CPU's name as a part of a file's: "Intel(R) Xeon(R) Processor @ 2.50GHz" is "intel-xeon"."""
    return "-".join(re.sub(r"\(.*?\)|@.*|\bCPU\b|\bProcessor\b", " ", cpu).lower().split())


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with the same keys as a Markdown table; what is None in every row is left out."""
    keys = [key for key in rows[0] if any(row[key] is not None for row in rows)]
    lines = [[heading(key) for key in keys], ["---"] * len(keys)]
    lines += [[cell(key, row[key]) for key in keys] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# How a key ends, and the unit that its head shows instead.
_UNITS = {"_per_s": "/s", "_ms": ", ms", "_us": ", µs", "_s": ", s", "_mb": ", MB", "_gops": ", GOP/s"}


def heading(key: str) -> str:
    """Return a key as the head of a column: "peak_rss_mb" is "peak RSS, MB"."""
    for end, unit in _UNITS.items():
        if key.endswith(end):
            key = key.removesuffix(end) + unit
            break
    return key.replace("_", " ").replace("rss", "RSS").replace("gemm", "GEMM")


def cell(key: str, value: Any) -> str:
    """Return a value as a table shows it: nothing for None, shares in percent, thousands with commas."""
    if value is None:
        return ""
    if key.endswith("share"):
        return f"{value:.0%}"
    if isinstance(value, float) and value.is_integer() and abs(value) >= 100:
        value = int(value)
    return f"{value:,}" if isinstance(value, (int, float)) else str(value).replace("|", "\\|")


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json and --save, which `deliver` obeys."""
    command = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)
    told = "Write result and plot to kernels_bench/results."
    return click.option("--save", "keep", is_flag=True, callback=_can_save, help=told)(command)


def _can_save(context: click.Context, _option: click.Parameter, keep: bool) -> bool:
    """Refuse --save before hours of measuring, not after: no plot could be drawn, or it is no commit."""
    if not keep:
        return False
    if importlib.util.find_spec("matplotlib") is None:
        raise click.UsageError("--save draws a plot; type: pip install matplotlib")
    context.meta[_BEGUN] = code_version()
    if _is_no_commit(context.meta[_BEGUN]):
        raise click.UsageError(
            f"--save keeps figures of a commit, and the code is {context.meta[_BEGUN]}; type: git stash, or "
            "git commit, first"
        )
    return True


def _is_no_commit(version: str) -> bool:
    return version.endswith("-dirty") or version == "unknown"


def _check_same_code(result: Mapping[str, Any]) -> None:
    """Refuse to keep figures of code that was changed while it was measured."""
    context = click.get_current_context(silent=True)
    begun = context.meta.get(_BEGUN) if context is not None else None
    if begun not in (None, result["commit"]):
        raise click.ClickException(
            f"not saved: the code was {begun} when this began, and is {result['commit']} now; measure again"
        )


def deliver(
    name: str,
    result: dict[str, Any],
    *,
    as_json: bool,
    keep: bool,
    draw: Callable[[dict[str, Any], Path], None],
) -> None:
    """Print a result, as JSON or as a table, and with `keep` write it and its plot.

    Args:
        name: of its files, the CPU apart.
        result: with "question" and "rows" at least; "figures" where bounds are asked for.
        as_json: print JSON and nothing else.
        keep: write the files.
        draw: draws the result into the file of the name given.
    """
    if as_json:
        click.echo(json.dumps(result, indent=1))
    else:
        click.echo(f"{result['question']}; {result['cpus']} CPUs of {result['cpu']}\n")
        click.echo(table(result["rows"]))
        for figure in result.get("figures", ()):
            click.echo("\n" + verdict(figure))
    if keep:
        _check_same_code(result)
        path = save(name, result)
        draw(result, path.with_suffix(".svg"))
        click.echo(path, err=True)


def bounded(name: str, value: float, *, floor: float, aim: float) -> dict[str, Any]:
    """Return a figure that is held against bounds: `floor` at least, and `aim` if all goes well.

    An aim below the floor says that less is better: the floor is then the most that will do.
    """
    return {"name": name, "value": significant(value, 3), "floor": floor, "aim": aim}


def less_is_better(figure: Mapping[str, Any]) -> bool:
    """Say whether a figure is the better the smaller it is: its aim is then below its floor."""
    return bool(figure["aim"] < figure["floor"])


def meets(figure: Mapping[str, Any], bound: str) -> bool:
    """Say whether a figure meets its "floor" or its "aim"."""
    value, asked = figure["value"], figure[bound]
    return bool(value <= asked if less_is_better(figure) else value >= asked)


def verdict(figure: Mapping[str, Any]) -> str:
    """Say in a sentence whether a figure meets its floor and its aim, and if not, by how much it misses."""
    value = figure["value"]
    told = (
        f"{figure['name']}: {value:g}, with a floor of {figure['floor']:g} and an aim of {figure['aim']:g}; "
    )
    for bound in ("floor", "aim"):
        if not meets(figure, bound):
            return f"{told}the {bound} is missed by {abs(figure[bound] - value):.3g}."
    return told + "both are met."


def save(name: str, result: dict[str, Any]) -> Path:
    """Write a result, a file for each kind of CPU, where the README looks for it; return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{cpu_slug(result['cpu'])}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path
