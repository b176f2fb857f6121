"""encode and job: a corpus of any size into files, and how that goes."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import click

from paritas.cli.options import (
    GIVEN,
    Models,
    as_json,
    complete_model,
    is_terminal,
    note,
    precision_option,
    print_json,
)
from paritas.errors import InputError, JobError, MissingExtraError, ParitasError
from paritas.interrupts import leave_at_once
from paritas.registry import Precision

if TYPE_CHECKING:  # the runtime is loaded by the commands that run something
    from paritas.bulk.job import Summary

# Done, but records were left out.
REJECTED = 3


@click.command()
@click.argument("inputs", type=GIVEN, nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "--model",
    type=GIVEN,
    shell_complete=complete_model,
    required=True,
    help="A registry id, a hub id, or the directory of a checkpoint or a bundle.",
)
@click.option("--out", type=GIVEN, required=True, help="A directory, or a URL such as s3://bucket/folder.")
@precision_option
@click.option("--role", type=GIVEN, default="passage", show_default=True, help="The texts' role.")
@click.option(
    "--to",
    "output",
    type=click.Choice(["parquet", "npy", "safetensors"]),
    default="parquet",
    show_default=True,
    help="Shards of Parquet, or one file of all vectors with their ids beside it.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "int8"]),
    default="float32",
    show_default=True,
    help="Of the vectors in the files.",
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
        note(f"{summary.rejected} records were left out: see {options['out']}/_job/rejects.jsonl")
        raise click.exceptions.Exit(REJECTED)


def _run(
    models: Models,
    inputs: tuple[str, ...],
    model: str,
    *,
    out: str,
    precision: Precision | Literal["auto"],
    role: str,
    truncate_dim: int | None,
    memory_limit: str | None,
    shard_rows: int,
    **options: Any,
) -> Summary:
    check_extra()
    from paritas.bulk import Request, Stopped
    from paritas.bulk import encode as encode_corpus
    from paritas.bulk.pipeline import memory_bytes
    from paritas.bulk.readers import Reading
    from paritas.bulk.records import Columns
    from paritas.engine.bundle.directory import Bundle
    from paritas.engine.encoder import Encoder
    from paritas.engine.runtime.memory import parse_size

    if options["delimiter"] == "\\t":
        options["delimiter"] = "\t"
    if options["cache"] is None and options["cache_size"] is not None:
        raise InputError("--cache-size is for --cache FILE; name the file")
    if len(options["delimiter"]) != 1:
        raise InputError(f"--delimiter is {options['delimiter']!r}; expected one character, such as ';'")
    request = Request(
        inputs=inputs,
        out=out,
        role=role,
        dtype=options["dtype"],
        output=options["output"],
        reading=Reading(
            options["kind"], Columns(options["id_"], options["title"], options["text"]), options["delimiter"]
        ),
        on_duplicate_id=options["on_duplicate_id"],
        strict=options["strict"],
        shard_rows=shard_rows,
        cache=options["cache"],
        cache_bytes=None
        if options["cache_size"] is None
        else parse_size(options["cache_size"], "--cache-size"),
    )
    bundle = Bundle(models.find_or_export(model, precision))
    at_once = 2
    limit = None
    if memory_limit is not None:
        dim = truncate_dim or bundle.manifest.contract.dim
        limit = parse_size(memory_limit, "--memory-limit") - memory_bytes(dim, shard_rows, at_once)
        if limit <= 0:
            taken = memory_bytes(dim, shard_rows, at_once) // 2**20
            raise InputError(
                f"--memory-limit {memory_limit}: shards of {shard_rows} rows take {taken} MiB beside the "
                f"model; give more, or type: --shard-rows {max(1, shard_rows // 4)}"
            )
    try:
        loaded = Encoder(bundle, precision=precision, truncate_dim=truncate_dim, memory_limit=limit)
    except InputError as error:
        if limit is None:
            raise
        raise InputError(
            f"--memory-limit {memory_limit}: shards of {shard_rows} rows take all but {limit // 2**20} MiB "
            f"of it, and {error}"
        ) from error
    with (
        loaded as encoder,
        _Signals() as signals,
        _Bar(signals, shown=is_terminal()) as bar,
    ):
        try:
            if options["ray"] is not None:
                from paritas.bulk import ray

                logging.getLogger("ray.data").setLevel(logging.ERROR)  # the bar is ours
                return ray.encode(
                    encoder,
                    request,
                    address=options["ray"],
                    cpus=options["ray_cpus"],
                    progress=bar,
                    stop=signals.stop,
                )
            return encode_corpus(
                encoder, request, progress=bar, stop=signals.stop, abort=signals.abort, at_once=at_once
            )
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


def check_extra() -> None:
    """Raise a MissingExtraError unless the packages of the extra are there."""
    for name in ("onnxruntime", "pyarrow"):
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(f"{name} is not installed; type: pip install 'paritas[cpu,bulk]'")


class _Signals:
    """Ctrl-C and SIGTERM: the first one ends the job after the shards at hand, the second one at once.

    Where no shards are at hand the first one ends it at once.
    Whatever does not end even then, such as a store that does not answer, the third one leaves where it is.
    """

    def __init__(self) -> None:
        self.stop, self.abort = threading.Event(), threading.Event()
        self.number = 0
        self.at_shards = False
        """Shards are under way."""

    def __enter__(self) -> _Signals:
        # What a shell's background job ignores stays ignored.
        self._former = {
            number: signal.signal(number, self._told)
            for number in (signal.SIGINT, signal.SIGTERM)
            if signal.getsignal(number) != signal.SIG_IGN
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _told(self, number: int, frame: FrameType | None) -> None:
        if self.abort.is_set():
            leave_at_once()
        self.number = number
        if not self.at_shards or self.stop.is_set():
            self.stop.set()
            self.abort.set()
            former = self._former[signal.Signals(number)]
            assert callable(former)
            former(number, frame)
            return
        self.stop.set()
        with suppress(OSError):  # standard error may be closed
            os.write(2, b"\nparitas: finishing the shards at hand; once more to leave at once\n")


class _Bar:
    """A bar on standard error: rows done, tokens a second, and the time that is left."""

    def __init__(self, signals: _Signals, *, shown: bool) -> None:
        self._signals, self._shown = signals, shown
        self._bar: Any = None
        self._tokens = 0
        self._begun_s = 0.0

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def planning(self, done_bytes: int, total_bytes: int) -> None:
        """As `Progress.planning`."""
        if self._shown and self._bar is None:
            self._bar = self._new(total=total_bytes, unit="B", unit_scale=True, desc="reading")
        if self._bar is not None:
            self._bar.update(done_bytes - self._bar.n)

    def begin(self, rows: int, done: int) -> None:
        """As `Progress.begin`."""
        self.__exit__()
        self._signals.at_shards = True
        self._begun_s = time.monotonic()
        if self._shown:
            self._bar = self._new(total=rows, initial=done, unit=" rows", desc="encoding")

    def encoded(self, rows: int, tokens: int) -> None:
        """As `Progress.encoded`."""
        self._tokens += tokens
        if self._bar is not None:
            rate = self._tokens / max(time.monotonic() - self._begun_s, 1e-3)
            self._bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
            self._bar.update(rows)

    def finishing(self) -> None:
        """As `Progress.finishing`."""
        self._signals.at_shards = False

    def _new(self, **options: Any) -> Any:
        from tqdm import tqdm  # here, for it takes 55 ms to import

        return tqdm(**options)


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
    return "\n".join([*lines, f"vectors: {out}"])


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
