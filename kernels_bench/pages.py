"""Fill the pages' tables from the saved results, so that they show no figure that a benchmark did not.

    python -m paritas.kernels_bench.pages [--cpu intel-xeon]

A page has a place for a result between two comments, and prose of its own around it:

    <!-- begin peers-all-mpnet-base-v2 threads=own -->
    <!-- end -->

The first word names the result's file, the kind of CPU apart. With "key=value" only those rows are shown.
"aims" is the one place for all figures that are held against bounds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from paritas.engine.cpus import cpu_name
from paritas.kernels_bench import _report

ROOT = Path(__file__).resolve().parents[1]
AIMED = (
    *("peers-all-mpnet-base-v2", "roofline-all-mpnet-base-v2", "start-all-mpnet-base-v2"),
    *("shapes-all-mpnet-base-v2", "first_token"),
)
"""The results whose figures are asked for."""
PAGES = (ROOT / "README.md", ROOT / "docs" / "int8.md", _report.RESULTS / "README.md")

_PLACE = re.compile(r"(<!-- begin (\S+)(?: (\w+)=(\S+))? -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_OPEN = re.compile(r"<!-- begin\b")


def fill(text: str, find: Callable[[str], str | None]) -> tuple[str, list[str]]:
    """Return a page with its places filled, and the names of those for which there is no result.

    Args:
        text: the page; a place without a result stays as it is.
        find: the section to put into a place, by the place's words; None where nothing was measured.

    Raises:
        ValueError: a place has no end, or begins inside another.
    """
    places = _PLACE.findall(text)
    if len(places) != len(_OPEN.findall(text)) or any(_OPEN.search(place[4]) for place in places):
        raise ValueError("a place begins that does not end; expected <!-- end --> after every <!-- begin -->")
    missing = []

    def replaced(place: re.Match[str]) -> str:
        words = " ".join(filter(None, (place[2], f"{place[3]}={place[4]}" if place[3] else "")))
        section = find(words)
        if section is None:
            missing.append(words)
            return place[0]
        return f"{place[1]}{section}\n{place[6]}"

    return _PLACE.sub(replaced, text), missing


def section(result: dict[str, Any], key: str | None = None, value: str | None = None) -> str | None:
    """Return a result as Markdown: question, table, verdicts, and what it was measured with.

    Args:
        result: as a benchmark saves it.
        key, value: show only the rows where this key has this value, without that column and the verdicts.

    Returns:
        The Markdown; None where no row has that value.
    """
    rows = result["rows"]
    if key is not None:
        rows = [{k: v for k, v in row.items() if k != key} for row in rows if str(row.get(key)) == value]
    if not rows:
        return None
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    source = f"{result['cpus']} CPUs of {result['cpu']}; {versions}; {result['date']}, {result['commit']}"
    parts = [f"*{result['question']}*", _report.table(rows)]
    if key is None:
        parts += [f"**{_report.verdict(figure)}**" for figure in result.get("figures", ())]
    return "\n\n".join([*parts, f"<sub>{source}</sub>"])


def aims(results: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the figures of some results, by the results' names, as a table; None where there are none."""
    rows = [
        {
            "asked": figure["name"],
            "at_least": f"{figure['floor']:g}",
            "aim": f"{figure['aim']:g}",
            "reached": f"{figure['value']:g}{'' if _report.meets(figure, 'floor') else ': missed'}",
            "by": f"`bench_{name.partition('-')[0]}`",
        }
        for name, result in results.items()
        for figure in result["figures"]
    ]
    return _report.table(rows) if rows else None


def filled(page: Path, cpu: str) -> tuple[str, list[str]]:
    """Return a page's text with the results of a kind of CPU, and the places for which there are none."""

    shown: set[Path] = set()

    def find(words: str) -> str | None:
        name, _, condition = words.partition(" ")
        if name == "aims":
            saved = {each: _report.RESULTS / f"{each}-{cpu}.json" for each in AIMED}
            return aims({each: _read(path) for each, path in saved.items() if path.exists()})
        path = _report.RESULTS / f"{name}-{cpu}.json"
        if not path.exists():
            return None
        key, _, value = condition.partition("=")
        found = section(_read(path), key or None, value)
        plot = path.with_suffix(".svg")
        # Once, and on the page beside them alone.
        if found and plot.exists() and plot.parent == page.parent and plot not in shown:
            shown.add(plot)
            found += f"\n\n![{name}]({plot.name})"
        return found

    return fill(page.read_text(encoding="utf-8"), find)


def _read(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


@click.command()
@click.option("--cpu", help="Whose results to show, as their files end. Default: this machine's.")
def main(cpu: str | None) -> None:
    """Fill the tables of README.md, docs/int8.md and kernels_bench/results/README.md."""
    slug = cpu or _report.cpu_slug(cpu_name())
    for page in PAGES:
        text, missing = filled(page, slug)
        page.write_text(text, encoding="utf-8")
        for words in missing:
            click.echo(f"{page.relative_to(ROOT)}: {words} was not measured on {slug}", err=True)


if __name__ == "__main__":
    main()
