"""index, search, recall: from a file of documents to answers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from click.core import ParameterSource

from paritas.cli.encode import check_extra
from paritas.cli.options import (
    GIVEN,
    Models,
    as_json,
    complete_model,
    index_path,
    is_terminal,
    precision_option,
    print_json,
    top_k,
)
from paritas.cli.watch import Bar, Signals
from paritas.documents import read_documents
from paritas.errors import BundleError, InputError, RegistryError
from paritas.registry import PRECISIONS, Precision

if TYPE_CHECKING:  # the runtime is loaded by the commands that run something
    from paritas.bulk.plan import Spec
    from paritas.engine.encoder import Encoder
    from paritas.engine.index import ScalarType, VectorIndex

# What a job has decided, by the options' names and the plan's.
_DECIDED = {"precision": "precision", "role": "role", "truncate_dim": "dim"}

encode_with = click.option(
    "--model",
    type=GIVEN,
    shell_complete=complete_model,
    help="The bundle to encode with. Default: the one that made the index.",
)
asked_with = click.option(
    "--precision", type=click.Choice(PRECISIONS), help="Of the queries' vectors. Default: the index's own."
)
asked_as = click.option("--role", type=GIVEN, default="query", show_default=True, help="The queries' role.")


@click.command()
@click.argument("input_", type=GIVEN, metavar="INPUT")
@click.option(
    "--model",
    type=GIVEN,
    shell_complete=complete_model,
    help="A registry id, a hub id, or the directory of a checkpoint or a bundle. A job's own where left out.",
)
@precision_option
@click.option("--out", type=GIVEN, metavar="INDEX", required=True, help="The index's directory.")
@click.option("--texts", type=GIVEN, multiple=True, metavar="FILE", help="A job's input, for the answers.")
@click.option("--role", type=GIVEN, default="passage", show_default=True, help="The documents' role.")
@click.option(
    "--dtype",
    type=click.Choice(["f32", "f16", "bf16", "i8", "b1"]),
    default="f32",
    show_default=True,
    help="How the index stores vectors: numbers, a byte or a bit a channel.",
)
@click.option(
    "--truncate-dim",
    type=click.IntRange(min=1),
    metavar="N",
    help="Keep the first N channels of each vector, for models trained for it (Matryoshka).",
)
@as_json
@click.pass_obj
def index(
    models: Models,
    input_: str,
    model: str | None,
    precision: Precision | Literal["auto"],
    out: str,
    texts: tuple[str, ...],
    role: str,
    dtype: ScalarType,
    truncate_dim: int | None,
    as_json: bool,
) -> None:
    """Make the documents of INPUT searchable.

    INPUT is JSON Lines in BEIR's form ({"_id": ..., "title": ..., "text": ...}), a plain text file with one
    text a line, either of them packed by gzip or zstd, or - for standard input. A model that was not exported
    yet is exported first. Or INPUT is the folder of a job that `paritas encode` has done: then nothing is
    encoded again, and --texts names its input.

    \b
    paritas index corpus.jsonl --model all-MiniLM-L6-v2 --out corpus.index
    cat notes.txt | paritas index - --model all-MiniLM-L6-v2 --out notes.index
    paritas index vectors --texts corpus.jsonl --out corpus.index
    """
    if is_job(input_):
        return _index_of_job(models, input_, model, out, texts, dtype, as_json=as_json)
    if input_ != "-" and (not Path(input_).exists() or Path(input_).is_dir()):
        what = "no such file" if not Path(input_).is_dir() else "no such file but a directory"
        raise InputError(
            f"{input_}: {what}; expected JSON Lines, plain text, - for standard input, or a job's folder"
        )
    if model is None:
        raise click.UsageError("Missing option '--model'.")
    if texts:
        raise InputError("--texts is for the folder of a job; INPUT has its own texts")
    from paritas.engine.encoder import Encoder
    from paritas.engine.index import check_target
    from paritas.indexing import build_index, summarize

    check_target(Path(index_path(out)))
    started = time.perf_counter()
    bundle = models.find_or_export(model, precision)
    with Encoder(bundle, precision=precision, truncate_dim=truncate_dim) as encoder:
        built, stats = build_index(
            encoder, read_documents(input_), role=role, dtype=dtype, progress=is_terminal()
        )
        with built:
            built.save(out)
    summary = summarize(stats, out, time.perf_counter() - started)
    return print_json(summary) if as_json else click.echo(summary)


def is_job(place: str) -> bool:
    """Say whether a place is the folder of a job."""
    return "://" in place or (Path(place) / "_job" / "plan.json").is_file()


def _index_of_job(
    models: Models,
    place: str,
    model: str | None,
    out: str,
    texts: tuple[str, ...],
    dtype: ScalarType,
    *,
    as_json: bool,
) -> None:
    check_extra()
    from paritas.bulk.indexing import build_from_job, finished_job
    from paritas.bulk.sources import find_sources
    from paritas.engine.bundle.directory import Bundle
    from paritas.engine.encoder import Encoder
    from paritas.engine.index import check_target

    check_target(Path(index_path(out)))
    folder, plan = finished_job(place, dtype)
    _check_options(place, plan.spec)
    bundle = Bundle(models.find(model or plan.spec.model))
    dim = plan.spec.dim if plan.spec.dim < bundle.manifest.contract.dim else None
    sources = find_sources(texts, Path(), out=place) if texts else None
    with (
        Encoder(bundle, precision=plan.spec.precision, truncate_dim=dim) as encoder,
        Bar(Signals(), shown=is_terminal()) as bar,
    ):
        told = build_from_job(encoder, folder, plan, sources, Path(out), dtype=dtype, progress=bar)
    return print_json(told) if as_json else click.echo(told)


def _check_options(place: str, spec: Spec) -> None:
    """Refuse options that ask for other vectors than a job's.

    Raises:
        InputError: it names the first one.
    """
    context = click.get_current_context()
    for option, field in _DECIDED.items():
        value, of_job = context.params[option], getattr(spec, field)
        asked = context.get_parameter_source(option) is ParameterSource.COMMANDLINE
        if asked and value not in ("auto", of_job):
            raise InputError(
                f"{place}: was encoded with {field} {of_job}, not {value}; an index has its job's vectors: "
                "leave the option out, or encode anew"
            )


@click.command()
@click.argument("index_", type=GIVEN, metavar="INDEX")
@click.argument("queries", nargs=-1, required=True, metavar="QUERY...")
@top_k
@encode_with
@asked_with
@asked_as
@click.option("--exact", is_flag=True, help="Compare with every vector instead of walking the HNSW graph.")
@as_json
@click.pass_obj
def search(
    models: Models,
    index_: str,
    queries: tuple[str, ...],
    k: int,
    model: str | None,
    precision: Precision | None,
    role: str,
    exact: bool,
    as_json: bool,
) -> None:
    """Search an INDEX with one or more queries.

    \b
    paritas search corpus.index "how does it work?" -k 5
    paritas search corpus.index "first question" "second question" --json
    """
    from paritas.engine.index import VectorIndex

    index_ = index_path(index_)
    with VectorIndex.load(index_) as opened, _encoder(models, opened, model, precision) as encoder:
        answers = opened.search(encoder.encode(queries, role=role), k, exact=exact)
    if as_json:
        print_json([{"query": query, "hits": hits} for query, hits in zip(queries, answers, strict=True)])
        return
    for query, hits in zip(queries, answers, strict=True):
        click.echo(f"{query}")
        for hit in hits:
            shown = hit.text if hit.title in ("", hit.id) else f"{hit.title}: {hit.text}"
            line = " ".join(shown.split())
            click.echo(f"  {hit.score:.3f}  {hit.id}  {line[:90]}{'...' if len(line) > 90 else ''}")


@click.command()
@click.argument("index_", type=GIVEN, metavar="INDEX")
@click.option("--queries", type=GIVEN, metavar="FILE", help="Queries, in the forms `paritas index` reads.")
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=500,
    show_default=True,
    help="Without --queries: so many stored vectors.",
)
@top_k
@encode_with
@asked_with
@asked_as
@as_json
@click.pass_obj
def recall(
    models: Models,
    index_: str,
    queries: str | None,
    sample: int,
    k: int,
    model: str | None,
    precision: Precision | None,
    role: str,
    as_json: bool,
) -> None:
    """Measure recall@k: the share of the exact nearest documents that the HNSW search of an INDEX finds.

    Stored vectors as queries are the easier case; --queries measures with the ones you really ask.

    \b
    paritas recall corpus.index --queries questions.jsonl
    """
    from paritas.engine.index import VectorIndex

    given = {"--model": model, "--precision": precision, "--role": role if role != "query" else None}
    if queries is None and (unused := [name for name, value in given.items() if value is not None]):
        raise InputError(f"{unused[0]} is for the texts of --queries FILE; stored vectors are as they are")
    with VectorIndex.load(index_path(index_)) as opened:
        if queries is None:
            vectors = opened.sample(sample)
        else:
            with _encoder(models, opened, model, precision) as encoder:
                pair = encoder.stages.tokenizer.role(role).pair
                texts = [document.as_text(pair=pair) for document in read_documents(queries)]
                vectors = encoder.encode(texts, role=role)
        value = opened.recall(vectors, k)
        documents = len(opened)
    if as_json:
        print_json(
            {"index": index_, "documents": documents, "queries": len(vectors), "k": k, "recall": value}
        )
    else:
        click.echo(f"recall@{k} {value:.4f} over {len(vectors)} queries and {documents} documents")


def _encoder(models: Models, opened: VectorIndex, model: str | None, precision: Precision | None) -> Encoder:
    """Load the encoder an index was made with, or the one asked for if it fits."""
    from paritas.engine.bundle.directory import Bundle
    from paritas.engine.encoder import Encoder

    bundle = Bundle(models.find(model) if model is not None else _origin(models, opened))
    shorter = opened.info.dim if opened.info.dim < bundle.manifest.contract.dim else None
    encoder = Encoder(bundle, precision=precision or opened.info.precision, truncate_dim=shorter)
    opened.check(encoder)
    return encoder


def _origin(models: Models, opened: VectorIndex) -> Path:
    """Return the bundle that made an index: where it lay then, else the store's of that name."""
    if Path(opened.info.bundle).is_dir():
        return Path(opened.info.bundle)
    try:
        return models.find(opened.info.model)
    except RegistryError as error:
        raise BundleError(
            f"the bundle that made the index is gone from {opened.info.bundle}; give it with --model"
        ) from error
