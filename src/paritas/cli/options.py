"""What several commands share: settings, options and ways to print."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import msgspec
from click.shell_completion import CompletionItem

from paritas.arguments import not_utf8
from paritas.engine.bundle.directory import Bundle
from paritas.engine.bundle.lookup import find
from paritas.engine.bundle.manifest import Certificate
from paritas.errors import BundleError, InputError, NotExportedError, ParitasError, RegistryError
from paritas.registry import PRECISIONS, Precision, Registry, Role, load_registry


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of the whole command line."""

    registry_path: str | None

    def registry(self) -> Registry:
        """Return the models, the user's own included."""
        return load_registry(self.registry_path)

    def find(self, model: str) -> Path:
        """Return MODEL's bundle directory as `find` does, with --registry's models among the known."""
        try:
            return find(model)
        except RegistryError:
            self.registry()[model]  # unknown here too: ends here, with the nearest of all names
            raise NotExportedError(
                f"{model} was not exported yet; type: paritas --registry {self.registry_path} export {model}"
            ) from None


def complete_model(
    ctx: click.Context,
    param: click.Parameter,  # noqa: ARG001 - click's interface
    incomplete: str,
) -> list[CompletionItem]:
    """Return the registry ids that begin so; where none does, ask the shell for directories.

    The registry is that of the line being completed, whose ~ the shell leaves to us.
    """
    path = ctx.find_root().params.get("registry")
    try:
        registry = load_registry(Path(path).expanduser() if path else None)
        names = [name for name in registry if name.startswith(incomplete)]
    except (ParitasError, RuntimeError, OSError):  # RuntimeError: ~ of a user that is none
        names = []
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="dir")]


class _Given(click.ParamType):  # type: ignore[type-arg] # generic in click 8.3 and later
    """A string that is not empty: a shell's variable that was never set is no path, and no name."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty; expected a value, or leave the option out", param, ctx)
        return value


GIVEN = _Given()
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
precision_option = click.option(
    "--precision",
    type=click.Choice([*PRECISIONS, "auto"]),
    default="fp32",
    show_default=True,
    help="Which vectors; auto: int8 where this CPU is fast at it, else fp32.",
)
top_k = click.option(
    "-k", type=click.IntRange(min=1), default=10, show_default=True, help="How many answers."
)


# The document that this process has printed; there is one.
_printed: list[str] = []


def print_json(value: Any) -> None:
    """Print one JSON document; what standard output, or UTF-8, cannot encode is escaped."""
    try:
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(value), indent=2)
    click.echo(text)
    _printed.append(text)


def show_error(kind: str, message: str, code: int, *, quiet: bool = False, **about: Any) -> None:
    """Say what went wrong: in one line on standard error, and in a document where --json was asked for.

    Args:
        kind: the error's name.
        message: what was wrong, what was expected, what to type.
        code: the exit code.
        quiet: standard error says it already, or will.
        about: what the document tells besides.
    """
    if not quiet:
        with suppress(OSError):  # standard error is full or gone; the document may go through
            click.echo(f"paritas: error: {in_one_line(message)}", err=True)
    arguments = sys.argv[1:]
    if "--json" in arguments[: arguments.index("--") if "--" in arguments else None] and not _printed:
        try:
            print_json({**about, "error": {"type": kind, "message": in_one_line(message), "exit_code": code}})
        except OSError:  # the first error is the one to tell
            drop_output()


def drop_output() -> None:
    """Print nothing more: Python would report a standard output that is gone or full once more at exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def in_one_line(message: str) -> str:
    """Return a message without its line ends."""
    return " ".join(line.strip() for line in message.splitlines() if line.strip())


def note(text: str) -> None:
    """Say something about progress."""
    click.echo(text, err=True)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows in aligned columns; numbers to the right."""
    cells = [list(header), *([str(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    numeric = [
        bool(rows) and all(isinstance(row[column], (int, float)) for row in rows)
        for column in range(len(header))
    ]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def certificate_table(certificates: dict[Any, Certificate]) -> str:
    """Return certificates as a table: a row for each precision and role, for INT8 also for each length."""
    rows: list[list[object]] = []
    for precision, certificate in certificates.items():
        parts = dict(certificate.by_role)
        if precision == "int8":
            parts |= {f"{tokens} tokens": figures for tokens, figures in certificate.by_length.items()}
        for name, figures in parts.items():
            rows.append(
                [
                    precision,
                    name,
                    figures.probes,
                    f"{figures.max_abs_diff:.1e}",
                    f"{figures.min_cosine:.7f}",
                    f"{figures.p1_cosine:.7f}",
                    f"{figures.mean_cosine:.7f}",
                    _bound(certificate) if name in certificate.by_role else "",
                    certificate.reference,
                ]
            )
    header = [
        "precision",
        "texts",
        "probes",
        "max diff",
        "min cosine",
        "1st percentile",
        "mean cosine",
        "bound",
        "reference",
    ]
    lines = [table(header, rows)]
    for precision, certificate in certificates.items():
        if (found := certificate.retrieval) is not None:
            lines.append(
                f"{precision} on {found.collection} ({found.documents} documents, {found.queries} queries): "
                f"nDCG@10 {found.ndcg:.2f}, FP32 {found.ndcg_fp32:.2f}; recall@10 {found.recall:.4f}"
            )
    return "\n".join([*lines, *_places(certificates)])


def _places(certificates: dict[Any, Certificate]) -> list[str]:
    """Where the certificates were made; one line if all were made in one place."""
    return list(
        dict.fromkeys(
            f"on {certificate.cpu}, onnxruntime {certificate.versions['onnxruntime']}, {certificate.date}"
            + (f"; tokens as {certificate.tokens} has them" if certificate.tokens else "")
            for certificate in certificates.values()
        )
    )


def _bound(certificate: Certificate) -> str:
    parts = []
    if certificate.bound.max_abs_diff is not None:
        parts.append(f"diff <= {certificate.bound.max_abs_diff:g}")
    if certificate.bound.min_cosine is not None:
        parts.append(f"cosine >= {certificate.bound.min_cosine:g}")
    if certificate.bound.mean_cosine is not None:
        parts.append(f"mean >= {certificate.bound.mean_cosine:g}")
    return ", ".join(parts)


def index_path(given: str) -> str:
    """Return an index's directory as it was given.

    Raises:
        InputError: its name is not UTF-8.
    """
    if fault := not_utf8(given):
        raise InputError(fault)
    return given


def find_role(roles: Mapping[str, Role], name: str) -> Role:
    """Return a model's role.

    Raises:
        InputError: it has none of that name.
    """
    if name not in roles:
        raise InputError(f"unknown role {name!r}; the model has {', '.join(roles)}")
    return roles[name]


def find_or_export(settings: Settings, model: str, precision: Precision | Literal["auto"]) -> str:
    """Return MODEL's bundle directory; what was not exported yet is exported now.

    Raises:
        ParitasError: neither found nor exportable.
    """
    try:
        bundle = Bundle(settings.find(model))
    except NotExportedError:
        return _exported_now(settings, model, ["fp32", "int8"] if precision == "auto" else [precision])
    if precision != "auto":
        bundle.variant(precision)  # says what to type: how the bundle was made is its maker's choice
    return str(bundle.directory)


def _exported_now(settings: Settings, model: str, precisions: list[Precision]) -> str:
    from paritas.export import export_model

    note(f"{model} was not exported yet; doing that first")
    try:
        made = export_model(model, precisions=precisions, registry=settings.registry(), report=note)
    except ParitasError as error:
        raise BundleError(f"{error} (while exporting {model}; see: paritas export --help)") from error
    return str(made.directory)


def is_terminal() -> bool:
    """Say whether somebody watches standard error."""
    return sys.stderr.isatty()
