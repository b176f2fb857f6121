"""Plots in one look: SVG, the same bytes for the same figures. matplotlib is imported only to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Ours and what it is compared with, told apart without red against green (Okabe and Ito's palette).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999999")


def panels(title: str, count: int = 1, *, height: float = 4.2) -> tuple[Any, list[Any]]:
    """Return a figure with so many axes side by side."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "paritas"  # else every id in the file is random
    mpl.rcParams["axes.prop_cycle"] = mpl.cycler(color=COLOURS)
    mpl.rcParams["axes.spines.top"] = mpl.rcParams["axes.spines.right"] = False
    from matplotlib import pyplot

    drawing, axes = pyplot.subplots(
        1, count, figsize=(max(8.0, 3.9 * count), height), layout="constrained", squeeze=False
    )
    drawing.suptitle(title)
    return drawing, list(axes[0])


def lines(
    axes: Any,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x: str,
    y: str,
    log: str = "",
    marker: str = "o",
) -> None:
    """Draw a line for each series of x and y values.

    Args:
        axes: where.
        series: by the name that the legend shows.
        x, y: the axes' names, with their units.
        log: which of the two axes are logarithmic, as in "xy"; powers of two along x.
        marker: matplotlib's, at every point; "" for dense lines.
    """
    for name, (across, up) in series.items():
        axes.plot(across, up, label=name, marker=marker, markersize=4)
    if "x" in log:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.locator_params(axis="x", integer=True)
    if "y" in log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True, which="major", alpha=0.25)


def bars(axes: Any, values: Mapping[str, float], *, x: str, named: bool = True) -> None:
    """Draw a bar for each value, its figure beside it, paritas's in a colour of their own.

    `named` says whether the bars' names stand on the left.
    """
    names = list(values)[::-1]
    drawn = axes.barh(
        names,
        [values[name] for name in names],
        color=[COLOURS[0] if name.startswith("paritas") else COLOURS[7] for name in names],
    )
    axes.bar_label(drawn, fmt="{:,.4g}", padding=3)
    axes.margins(x=0.2)
    axes.tick_params(labelleft=named)
    axes.set_xlabel(x)


def legend(drawing: Any, axes: Any) -> None:
    """Put one legend, of the series of `axes`, below all panels."""
    drawing.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5)


def write(drawing: Any, path: Path) -> None:
    """Write the figure; no date goes into the file."""
    from matplotlib import pyplot

    drawing.savefig(path, metadata={"Date": None})
    pyplot.close(drawing)
