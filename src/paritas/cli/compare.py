"""compare: may vectors that a user has lie beside ours?"""

from __future__ import annotations

from typing import Any, Literal

import click

from paritas.cli.encode import check_extra
from paritas.cli.options import GIVEN, Models, as_json, encoding_model, precision_option, print_json
from paritas.registry import Precision


@click.command()
@click.argument("vectors", type=GIVEN, metavar="VECTORS")
@click.option(
    "--texts", "inputs", type=GIVEN, multiple=True, metavar="INPUT", help="Of what; an index may keep them."
)
@encoding_model
@precision_option
@click.option("--role", type=GIVEN, default="passage", show_default=True, help="The texts' role.")
@click.option("--vector", type=GIVEN, metavar="COLUMN", help="Default: vector or embedding.")
@click.option("--id", "id_", type=GIVEN, metavar="COLUMN", help="Of texts and vectors. Default: _id or id.")
@click.option("--title", type=GIVEN, metavar="COLUMN", help="Of the texts. Default: title.")
@click.option("--text", type=GIVEN, metavar="COLUMN", help="Of the texts. Default: text.")
@click.option(
    "--sample", type=click.IntRange(min=2), default=1000, show_default=True, help="So many of the texts."
)
@as_json
@click.pass_obj
def compare(
    models: Models,
    /,
    vectors: str,
    inputs: tuple[str, ...],
    model: str,
    precision: Precision | Literal["auto"],
    role: str,
    **options: Any,
) -> None:
    """Compare VECTORS that you have with those of a model: may the two be mixed in one index?

    VECTORS is Parquet (a file, a folder or a pattern), a .npy file in the order of the texts, or an index.

    \b
    paritas compare old.parquet --texts corpus.jsonl --model all-MiniLM-L6-v2
    paritas compare embeddings.npy --texts corpus.csv --text body --model all-MiniLM-L6-v2 --precision int8
    """
    check_extra()
    from paritas.bulk.compare import compare as compared
    from paritas.bulk.readers import Reading
    from paritas.bulk.records import Columns
    from paritas.bulk.vectors import pairs_of
    from paritas.engine.encoder import Encoder

    reading = Reading(columns=Columns(options["id_"], options["title"], options["text"]))
    pairs = pairs_of(vectors, inputs, reading, column=options["vector"], sample=options["sample"])
    with Encoder(models.find_or_export(model, precision), precision=precision) as encoder:
        result = compared(encoder, pairs, role=role)
    if options["as_json"]:
        print_json(result)
    else:
        click.echo(result)
