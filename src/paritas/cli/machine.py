"""tune: what this machine does best, measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from paritas.cli.options import (
    Settings,
    as_json,
    complete_model,
    note,
    precision_option,
    print_json,
    table,
)
from paritas.engine.bundle import Bundle
from paritas.registry import Precision

if TYPE_CHECKING:  # the runtime is loaded by the commands that run something
    from paritas.engine.settings import Measured


@click.command()
@click.argument("model", shell_complete=complete_model)
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
    settings: Settings,
    model: str,
    precision: Precision | Literal["auto"],
    seconds: float,
    forget: bool,
    as_json: bool,
) -> None:
    """Measure with how many workers and how large batches MODEL is fastest on this machine, and keep it.

    Encoders of that bundle and precision use what was found, unless they are given threads, workers or a
    token budget, as long as they see as many CPUs. Vectors do not depend on it. Best run while the machine
    has nothing else to do.

    \b
    paritas tune all-MiniLM-L6-v2
    paritas tune all-mpnet-base-v2 --precision int8 --seconds 120
    paritas tune all-mpnet-base-v2 --precision int8 --forget
    """
    from paritas.engine import tuning
    from paritas.engine.precision import choose_precision
    from paritas.engine.settings import forget_tuned, keep_tuned

    bundle = Bundle(settings.find(model))
    chosen, _ = choose_precision(bundle, precision, on_cpu=True)
    place = {"bundle": str(bundle.directory), "precision": chosen}
    if forget:
        gone = forget_tuned(bundle, chosen)
        if as_json:
            print_json({**place, "forgotten": gone and str(gone)})
        else:
            click.echo(f"forgotten: {gone}" if gone else f"nothing was tuned for {model} in {chosen}")
        return
    found = tuning.tune(bundle, chosen, seconds=seconds, report=note)
    record = keep_tuned(bundle, found)
    if as_json:
        print_json({**place, "record": str(record), "tuned": found})
        return
    for race in found.races:
        click.echo(_figures(race) + "\n")
    click.echo(
        f"{model} in {chosen} now runs with {found.cpus} threads, {found.workers} workers and batches of up "
        f"to {found.token_budget} tokens, {found.gain:.2f} times as fast as by default\nkept: {record}"
    )


def _figures(race: list[Measured]) -> str:
    """One race; ratios are to its first row, within rounds."""
    rows = [
        [one.workers, one.token_budget, round(one.tokens_per_s), f"{one.ratio:.2f}", one.rounds]
        for one in race
    ]
    return table(["workers", "token budget", "tokens/s", "ratio", "rounds"], rows)
