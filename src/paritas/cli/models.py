"""models, export, verify: what can be had, having it, and proving it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click
from msgspec import Struct
from msgspec.structs import replace

from paritas import store
from paritas.cli.options import (
    GIVEN,
    Models,
    as_json,
    complete_model,
    note,
    print_json,
    show_error,
)
from paritas.cli.tables import certificate_table, table
from paritas.engine.bundle.directory import MANIFEST, Bundle
from paritas.engine.bundle.manifest import Quantization
from paritas.errors import BundleError, InputError, ParitasError
from paritas.registry import POOLINGS, PRECISIONS, Model, Precision, Role, RoleEntry


@click.command()
@as_json
@click.pass_obj
def models(models: Models, as_json: bool) -> None:
    """List the models of the registry and those exported by hub id or directory.

    What an entry of the registry leaves to the checkpoint is shown once it is exported.

    \b
    paritas models
    paritas --registry my_models.yaml models --json
    """
    registry = models.registry()
    rows = [_row(name, model, store.bundle_path(name)) for name, model in registry.items()]
    named = {row.bundle for row in rows}
    rows += [_row(path.name, Model(), path) for path in store.bundles() if str(path) not in named]
    if as_json:
        print_json(rows)
        return
    header = ["model", "network", "dim", "pooling", "max_length", "licence", "exported"]
    cells = [
        [
            row.model,
            row.network or "-",
            row.dim or "-",
            row.pooling or "-",
            ", ".join(f"{role} {rule.max_length or '-'}" for role, rule in row.roles.items()) or "-",
            row.license,
            row.error or ", ".join(row.precisions) or "-",
        ]
        for row in rows
    ]
    click.echo(table(header, cells))


class _Row(Struct, frozen=True):
    model: str
    network: str | None
    dim: int | None
    pooling: str | None
    normalize: bool | None
    roles: dict[str, Role | RoleEntry]
    sources: list[str]
    license: str
    paper: str | None
    bundle: str | None
    precisions: list[Precision]
    error: str | None


def _row(name: str, model: Model, path: Path) -> _Row:
    """A model and what of it lies in the store; a damaged bundle is shown, not raised: the others count."""
    manifest, error = None, None
    if (path / MANIFEST).exists():
        try:
            manifest = Bundle(path).manifest
        except BundleError as fault:
            error = str(fault)
    contract = manifest.contract if manifest is not None else model
    return _Row(
        model=name if manifest is None or manifest.source.named_by == "registry" else manifest.model,
        network=contract.network,
        dim=contract.dim,
        pooling=contract.pooling,
        normalize=contract.normalize,
        roles=dict(contract.roles),
        sources=[kind for kind in ("hub", "package") if getattr(model.sources, kind)],
        license=model.license,
        paper=model.paper,
        bundle=str(path) if manifest is not None else None,
        precisions=list(manifest.precisions) if manifest is not None else [],
        error=error,
    )


@click.command()
@click.argument("model", type=GIVEN, shell_complete=complete_model)
@click.option(
    "--source",
    type=GIVEN,
    metavar="hub|package|DIR",
    help="Where the checkpoint comes from. Default: the installed package if there is one, else the hub.",
)
@click.option(
    "--pooling",
    type=GIVEN,
    metavar="P[+P]",
    help=f"Where the checkpoint does not say how vectors are pooled: {', '.join(POOLINGS)}.",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    default=("fp32",),
    show_default=True,
    metavar="P[,P]",
    help=f"One or more of {', '.join(PRECISIONS)}; may be repeated.",
)
@click.option(
    "--frontend",
    type=click.Choice(["native", "optimum"]),
    default="native",
    show_default=True,
    help="native: BERT, MPNet, RoBERTa, XLM-R and CamemBERT, without torch. "
    "optimum: any network optimum-onnx knows.",
)
@click.option(
    "--calibration",
    type=GIVEN,
    metavar="FILE",
    help="Texts like yours, one a line, for int8; a few hundred are enough. Built-in ones take part too.",
)
@click.option(
    "--int8-inputs",
    type=click.Choice(["dynamic", "static"]),
    default="dynamic",
    show_default=True,
    help="dynamic: steps for each token, paritas's kernels. static: steps by calibration, onnxruntime's.",
)
@click.option(
    "--judgements",
    type=GIVEN,
    metavar="DIR",
    help="corpus.jsonl, queries.jsonl, qrels/test.tsv: certify what a precision costs a search over them.",
)
@click.option(
    "--out", type=GIVEN, metavar="BUNDLE", help="The bundle's directory. Default: its place in the store."
)
@as_json
@click.pass_obj
def export(
    models: Models,
    model: str,
    source: str | None,
    pooling: str | None,
    precisions: tuple[str, ...],
    frontend: str,
    calibration: str | None,
    int8_inputs: str,
    judgements: str | None,
    out: str | None,
    as_json: bool,
) -> None:
    """Export MODEL into a certified bundle.

    MODEL is a registry id, a hub id (owner/name or owner/name@revision), or a checkpoint's directory.
    Network, tokenizer, pooling, prompts and lengths are the checkpoint's.

    Tokens are compared with those of a second reading of the checkpoint, and the vectors of every precision
    with the checkpoint's own. Where they differ, the export fails and leaves nothing behind.

    \b
    paritas export all-MiniLM-L6-v2
    paritas export intfloat/e5-small-v2
    paritas export ./my-model --pooling mean
    paritas export all-mpnet-base-v2 --precision fp32,int8
    paritas export all-mpnet-base-v2 --precision int8 --calibration my_texts.txt
    paritas export all-mpnet-base-v2 --precision fp32,int8 --int8-inputs static
    paritas export simlm-base-msmarco-finetuned --source ./checkpoint --out ./simlm.bundle
    """
    from paritas.export import export_model

    bundle = export_model(
        model,
        source=source,
        pooling=pooling,
        precisions=_precisions(",".join(precisions)),
        frontend="optimum" if frontend == "optimum" else "native",
        calibration=calibration,
        int8_inputs="static" if int8_inputs == "static" else "dynamic",
        judgements=judgements,
        out=out,
        registry=models.registry(),
        report=note,
    )
    if as_json:
        print_json({"bundle": str(bundle.directory), "manifest": bundle.manifest})
        return
    click.echo(certificate_table({p: v.certified for p, v in bundle.manifest.precisions.items()}))
    for variant in bundle.manifest.precisions.values():
        if variant.quantization is not None:
            click.echo(_quantized(variant.quantization))
    click.echo(f"bundle: {bundle.directory} ({_size_mb(bundle):.0f} MB)")


def _quantized(made: Quantization) -> str:
    kept = f"; FP32 kept: {', '.join(made.kept_fp32)}" if made.kept_fp32 else ""
    name = "int8" if made.inputs == "dynamic" else "int8 with static inputs"
    cut = f", {made.truncated} of them cut to max_length" if made.truncated else ""
    return (
        f"{name}: calibrated on {made.texts} texts ({made.calibration}{cut}), {made.tokens} tokens; "
        f"mean cosine to FP32 on {made.held_out.probes} others {made.held_out.mean_cosine:.5f}, smallest "
        f"{made.held_out.min_cosine:.5f}{kept}"
    )


def _precisions(text: str) -> list[Precision]:
    chosen = [part.strip() for part in text.split(",") if part.strip()]
    if not chosen or not set(chosen) <= set(PRECISIONS):
        raise InputError(
            f"--precision {text!r}: expected one or more of {', '.join(PRECISIONS)}, comma between"
        )
    return cast(list[Precision], chosen)


def _size_mb(bundle: Bundle) -> float:
    return sum(entry.size_bytes for entry in bundle.manifest.files.values()) / 1e6


@click.command()
@click.argument("bundle", type=GIVEN, shell_complete=complete_model)
@click.option(
    "--reference",
    type=GIVEN,
    metavar="hub|package|DIR",
    help="Compare with PyTorch's vectors of this checkpoint, not with those in the bundle.",
)
@click.option("--provider", type=GIVEN, default="cpu", show_default=True, help="Where to run: cpu, cuda, ...")
@click.option(
    "--judgements",
    type=GIVEN,
    metavar="DIR",
    help="corpus.jsonl, queries.jsonl, qrels/test.tsv: also say what a precision costs a search over them.",
)
@as_json
@click.pass_obj
def verify(
    models: Models,
    bundle: str,
    reference: str | None,
    provider: str,
    judgements: str | None,
    as_json: bool,
) -> None:
    """Prove a BUNDLE again: every file against its digest, every precision against the reference vectors.

    A bundle carries its probes and their reference vectors, so this needs neither checkpoint nor network.
    With --reference, PyTorch computes them anew (extra: optimum). With --provider, the graphs of that
    provider are run on it.

    \b
    paritas verify all-MiniLM-L6-v2
    paritas verify all-MiniLM-L6-v2 --reference package
    paritas verify ./simlm.bundle --reference ./checkpoint
    paritas verify all-MiniLM-L6-v2 --provider cuda
    paritas verify all-MiniLM-L6-v2 --judgements ./scifact
    """
    from paritas.export.certificate.certify import verify as certify_again
    from paritas.export.certificate.retrieval import compare_retrieval, read_collection

    opened = Bundle(models.find(bundle))
    collection = read_collection(Path(judgements)) if judgements is not None else None
    vectors = None
    if reference is not None:
        from paritas.export.certificate.reference import reference_again
        from paritas.export.checkpoint.sources import open_same_checkpoint

        with open_same_checkpoint(opened, models.registry(), reference) as directory:
            note("the probes through PyTorch")
            vectors = reference_again(opened, directory)
    try:
        certificates = certify_again(opened, vectors, provider=provider)
        if collection is not None:
            note(f"judging: {len(collection.documents)} documents, {len(collection.queries)} queries")
            for precision, found in compare_retrieval(opened, list(certificates), collection).items():
                certificates[precision] = replace(certificates[precision], retrieval=found)
    except ParitasError as error:
        show_error(type(error).__name__, str(error), 2, bundle=str(opened.directory), verified=False)
        raise click.exceptions.Exit(2) from error
    if as_json:
        print_json({"bundle": str(opened.directory), "verified": True, "certificates": certificates})
        return
    click.echo(certificate_table(certificates))
    click.echo(f"verified: {opened.directory}")
