"""Fill the pages' tables from the saved results, so that they show no figure that a benchmark did not.

    python -m kernels_bench.pages [--cpu intel-xeon]

A page has a place for a result between two comments, and prose of its own around it:

    <!-- begin peers-all-mpnet-base-v2 cpu=amd-epyc threads=own -->
    <!-- end -->

The first word names the result's file, the kind of CPU apart, which "cpu=" names. Without it the place shows
that of the CPU asked for, or, where nothing was measured there, the newest of another: every table says whose
it is. Any other "key=value" leaves only those rows. "aims" is the figures of `AIMED`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from kernels_bench import _report
from paritas.engine.runtime.cpus import cpu_name

ROOT = Path(__file__).resolve().parents[1]
AIMED = (
    *("peers-all-mpnet-base-v2", "roofline-all-mpnet-base-v2", "start-all-mpnet-base-v2"),
    *("shapes-all-mpnet-base-v2", "first_token"),
)
"""The results whose figures are asked for."""
_DOCS = (ROOT / "docs" / "int8.md", ROOT / "docs" / "indexes.md", ROOT / "docs" / "kernels.md")
PAGES = (ROOT / "README.md", *_DOCS, *sorted(_report.RESULTS.glob("*.md")))

_PLACE = re.compile(r"(<!-- begin (\S+(?: \w+=\S+)*) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
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
    if len(places) != len(_OPEN.findall(text)) or any(_OPEN.search(place[2]) for place in places):
        raise ValueError("a place begins that does not end; expected <!-- end --> after every <!-- begin -->")
    missing = []

    def replaced(place: re.Match[str]) -> str:
        section = find(place[2])
        if section is None:
            missing.append(place[2])
            return place[0]
        return f"{place[1]}{section}\n{place[4]}"

    return _PLACE.sub(replaced, text), missing


def section(result: dict[str, Any], where: Mapping[str, str] = MappingProxyType({})) -> str | None:
    """Return a result as Markdown: question, table, verdicts, and what it was measured with.

    Args:
        result: as a benchmark saves it.
        where: show only the rows where these keys have these values, without their columns and the verdicts.

    Returns:
        The Markdown; None where no row has those values.
    """
    rows = [
        {key: cell for key, cell in row.items() if key not in where}
        for row in result["rows"]
        if all(str(row.get(key)) == value for key, value in where.items())
    ]
    if not rows:
        return None
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    source = f"{result['cpus']} CPUs of {result['cpu']}; {versions}; {result['date']}, {result['commit']}"
    parts = [f"*{result['question']}*", _report.table(rows)]
    if not where:
        parts += [f"**{_report.verdict(figure)}**" for figure in result.get("figures", ())]
    return "\n\n".join([*parts, f"<sub>{source}</sub>"])


def aims(results: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the figures of some results, by the results' names, as a table; None where there are none."""
    rows = [
        {
            "asked": figure["name"],
            "must": f"{'at most' if _report.less_is_better(figure) else 'at least'} {figure['floor']:g}",
            "aim": f"{figure['aim']:g}",
            "reached": f"{figure['value']:g}{'' if _report.meets(figure, 'floor') else ': missed'}",
            "by": f"`bench_{name.partition('-')[0]}`",
        }
        for name, result in results.items()
        for figure in result["figures"]
    ]
    return _report.table(rows) if rows else None


def filled(page: Path, cpu: str) -> tuple[str, list[str]]:
    """Return a page's text with the results of a kind of CPU, and the places for which it has none."""

    shown: set[Path] = set()
    borrowed: list[str] = []

    def find(words: str) -> str | None:
        name, *conditions = words.split()
        where = dict(condition.split("=", 1) for condition in conditions)
        named = where.pop("cpu", None)
        if name == "aims":
            saved = {each: _saved(each, named or cpu) for each in AIMED}
            return aims({each: _read(path) for each, path in saved.items() if path})
        path = _saved(name, named or cpu)
        if path is None and not named:
            path = _newest(name)
            borrowed.extend([words] if path else [])
        if path is None:
            return None
        shown_section = section(_read(path), where)
        plot = path.with_suffix(".svg")
        # Once, and on the page beside them alone.
        if shown_section and plot.exists() and plot.parent == page.parent and plot not in shown:
            shown.add(plot)
            shown_section += f"\n\n![{name}]({plot.name})"
        return shown_section

    text, missing = fill(page.read_text(encoding="utf-8"), find)
    return text, missing + borrowed


def _saved(name: str, cpu: str) -> Path | None:
    path = _report.RESULTS / f"{name}-{cpu}.json"
    return path if path.exists() else None


def _newest(name: str) -> Path | None:
    results = _report.RESULTS.glob(f"{name}-*.json")
    return max(results, key=lambda path: _read(path)["date"], default=None)


def _read(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


@click.command()
@click.option("--cpu", help="Whose results to show, as their files end. Default: this machine's.")
def main(cpu: str | None) -> None:
    """Fill the tables of README.md, two pages of docs, and those in kernels_bench/results."""
    slug = cpu or _report.cpu_slug(cpu_name())
    for page in PAGES:
        text, missing = filled(page, slug)
        page.write_text(text, encoding="utf-8")
        for words in missing:
            click.echo(f"{page.relative_to(ROOT)}: {words} was not measured on {slug}", err=True)


if __name__ == "__main__":
    main()
