"""encode and job: a corpus of any size into files, and how that goes."""

from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING, Any, Literal

import click

from paritas.cli.options import (
    GIVEN,
    Models,
    as_json,
    encoding_model,
    is_terminal,
    note,
    precision_option,
    print_json,
)
from paritas.cli.watch import Bar, Signals
from paritas.errors import InputError, JobError, MissingExtraError, ParitasError
from paritas.registry import Precision

if TYPE_CHECKING:  # the runtime is loaded by the commands that run something
    from paritas.bulk import Request, Summary
    from paritas.engine.bundle.directory import Bundle
    from paritas.engine.encoder import Encoder

# Shards that are encoded side by side.
_AT_ONCE = 2
# Done, but records were left out.
REJECTED = 3


@click.command()
@click.argument("inputs", type=GIVEN, nargs=-1, required=True, metavar="INPUT...")
@encoding_model
@click.option("--out", type=GIVEN, required=True, help="A directory, or a URL such as s3://bucket/folder.")
@precision_option
@click.option("--role", type=GIVEN, default="passage", show_default=True, help="The texts' role.")
@click.option(
    "--to",
    "output",
    type=click.Choice(["parquet", "npy", "safetensors", "index"]),
    default="parquet",
    show_default=True,
    help="Shards of Parquet, one file of all vectors with their ids beside it, or an index to search.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "int8"]),
    default="float32",
    show_default=True,
    help="Of the vectors in the files, or in the index.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["jsonl", "csv", "tsv", "text", "parquet", "arrow"]),
    help="Of all inputs. Default: what each name says.",
)
@click.option("--id", "id_", type=GIVEN, metavar="COLUMN", help="Default: _id or id; else file and number.")
@click.option("--title", type=GIVEN, metavar="COLUMN", help="Default: title, where there is one.")
@click.option(
    "--text", type=GIVEN, metavar="COLUMN", help="Default: text. A number, where there is no header."
)
@click.option("--delimiter", default=",", show_default=True, help="Between the values of CSV files.")
@click.option(
    "--on-duplicate-id",
    type=click.Choice(["error", "first", "last", "keep"]),
    default="error",
    show_default=True,
    help="Where an id comes twice: stop, take one of its rows, or keep them all.",
)
@click.option("--strict", is_flag=True, help="Stop at the first record that cannot be read.")
@click.option(
    "--shard-rows",
    type=click.IntRange(1, 2**24),
    default=16_384,
    show_default=True,
    help="Rows of a file of the output.",
)
@click.option("--cache", type=GIVEN, metavar="FILE", help="Keep vectors for other jobs in this SQLite file.")
@click.option("--cache-size", type=GIVEN, metavar="SIZE", help='How large it may grow, such as "20GiB".')
@click.option("--memory-limit", type=GIVEN, metavar="SIZE", help='Most memory, such as "2GiB".')
@click.option(
    "--truncate-dim",
    type=click.IntRange(min=1),
    metavar="N",
    help="Keep the first N channels of each vector, for models trained for it (Matryoshka).",
)
@click.option("--ray", type=GIVEN, metavar="ADDRESS", help='Run on this Ray cluster, such as "auto".')
@click.option(
    "--ray-cpus", type=click.IntRange(min=1), default=2, show_default=True, help="CPUs of each actor."
)
@as_json
@click.pass_obj
def encode(models: Models, /, inputs: tuple[str, ...], model: str, **options: Any) -> None:
    """Encode a corpus of any size into files, and go on where it ended if it was stopped.

    INPUT is a file, a directory, a pattern, a URL or - for standard input: JSON Lines, CSV, TSV, plain text,
    Parquet or Arrow, packed by gzip or zstd or not. Several workers may run the same command at once, where
    they share OUT.

    \b
    paritas encode corpus.jsonl --model all-MiniLM-L6-v2 --out vectors
    paritas encode "data/*.csv.gz" --id url --text body --model all-MiniLM-L6-v2 --out s3://bucket/vectors
    paritas encode collection.tsv --id 1 --text 2 --model all-MiniLM-L6-v2 --out vectors --to npy

    Exit code 3: done, but records were left out; _job/rejects.jsonl in OUT says which.
    """
    summary = _run(models, inputs, model, **options)
    if options["as_json"]:
        print_json(summary)
    else:
        click.echo(_told(summary, options["out"]))
    if summary.rejected:
        were = "record was" if summary.rejected == 1 else "records were"
        note(f"{summary.rejected} {were} left out: see {options['out']}/_job/rejects.jsonl")
        raise click.exceptions.Exit(REJECTED)


def _run(
    models: Models,
    inputs: tuple[str, ...],
    model: str,
    *,
    precision: Precision | Literal["auto"],
    **options: Any,
) -> Summary:
    check_extra()
    from paritas.bulk import Stopped
    from paritas.bulk import encode as encode_here
    from paritas.engine.bundle.directory import Bundle

    request = _request(inputs, **options)
    bundle = Bundle(models.find_or_export(model, precision))
    with (
        _loaded(bundle, precision, request, **options) as encoder,
        Signals() as signals,
        Bar(signals, shown=is_terminal()) as bar,
    ):
        try:
            if options["ray"] is None:
                return encode_here(
                    encoder, request, progress=bar, stop=signals.stop, abort=signals.abort, at_once=_AT_ONCE
                )
            from paritas.bulk.ray import encode as encode_there

            logging.getLogger("ray.data").setLevel(logging.ERROR)  # the bar is ours
            address, cpus = options["ray"], options["ray_cpus"]
            return encode_there(encoder, request, address=address, cpus=cpus, progress=bar, stop=signals.stop)
        except ParitasError:
            raise
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise JobError(
                f"{where}{error.strerror or error}; when that is mended the same command goes on"
            ) from error
        except Stopped as stopped:
            note(f"paritas: stopped: {stopped}; the same command goes on")
            raise click.exceptions.Exit(128 + signals.number) from None


def _request(inputs: tuple[str, ...], **options: Any) -> Request:
    from paritas.bulk import Request
    from paritas.bulk.readers import Reading
    from paritas.bulk.records import Columns
    from paritas.engine.runtime.memory import parse_size

    delimiter, cache_size = options["delimiter"], options["cache_size"]
    delimiter = "\t" if delimiter == "\\t" else delimiter
    if len(delimiter) != 1:
        raise InputError(f"--delimiter is {delimiter!r}; expected one character, such as ';'")
    if options["output"] == "index" and options["memory_limit"] is not None:
        raise InputError("an index is built in memory, beside --memory-limit; leave it out, or --to index")
    if options["cache"] is None and cache_size is not None:
        raise InputError("--cache-size is for --cache FILE; name the file")
    columns = Columns(options["id_"], options["title"], options["text"])
    return Request(
        inputs=inputs,
        out=options["out"],
        role=options["role"],
        dtype=options["dtype"],
        output=options["output"],
        reading=Reading(options["kind"], columns, delimiter),
        on_duplicate_id=options["on_duplicate_id"],
        strict=options["strict"],
        shard_rows=options["shard_rows"],
        cache=options["cache"],
        cache_bytes=None if cache_size is None else parse_size(cache_size, "--cache-size"),
    )


def _loaded(
    bundle: Bundle,
    precision: Precision | Literal["auto"],
    request: Request,
    *,
    memory_limit: str | None,
    truncate_dim: int | None,
    **_: Any,
) -> Encoder:
    """Load the encoder, so that it and the shards under way keep the memory limit."""
    from paritas.bulk.pipeline import memory_bytes
    from paritas.engine.encoder import Encoder
    from paritas.engine.runtime.memory import parse_size

    if memory_limit is None:
        return Encoder(bundle, precision=precision, truncate_dim=truncate_dim)
    dim, rows = truncate_dim or bundle.manifest.contract.dim, request.shard_rows
    taken = memory_bytes(dim, rows, _AT_ONCE)
    left = parse_size(memory_limit, "--memory-limit") - taken
    told = f"--memory-limit {memory_limit}: shards of {rows} rows take {taken // 2**20} MiB of it"
    if left <= 0:
        raise InputError(f"{told}; give more, or type: --shard-rows {max(1, rows // 4)}")
    try:
        return Encoder(bundle, precision=precision, truncate_dim=truncate_dim, memory_limit=left)
    except InputError as error:
        raise InputError(f"{told}, and of the rest {error}") from error


def check_extra() -> None:
    """Raise a MissingExtraError unless the packages of the extra are there."""
    for name in ("onnxruntime", "pyarrow"):
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(f"{name} is not installed; type: pip install 'paritas[cpu,bulk]'")


def _told(summary: Summary, out: str) -> str:
    """Return what a job did, for people."""
    lines = [
        f"{summary.rows:,} rows, {summary.tokens:,} tokens ({summary.truncated:,} truncated) in "
        f"{summary.shards:,} {'shard' if summary.shards == 1 else 'shards'}",
    ]
    if summary.kept:
        lines.append(f"{summary.kept:,} vectors were there already, for an equal text")
    if summary.duplicates:
        lines.append(f"{summary.duplicates:,} rows were left out, for their ids come twice")
    return "\n".join([*lines, f"vectors: {out}" if summary.index is None else str(summary.index)])


@click.command("job")
@click.argument("out", type=GIVEN, metavar="DIR")
@as_json
def show_job(out: str, as_json: bool) -> None:
    """Show how far the job in DIR is, also while it runs elsewhere.

    \b
    paritas job vectors
    paritas job s3://bucket/vectors --json
    """
    from paritas.bulk.state import state_of

    state = state_of(out)
    if as_json:
        print_json(state)
    else:
        click.echo(state)
