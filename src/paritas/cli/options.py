"""What several commands share: the models they know, options, and how they answer."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import msgspec
from click.shell_completion import CompletionItem

from paritas.arguments import not_utf8
from paritas.errors import InputError, ParitasError
from paritas.models import find_or_export, find_registered
from paritas.registry import PRECISIONS, Precision, Registry, load_registry


@dataclass(frozen=True, slots=True)
class Models:
    """The models that the whole command line knows: those built in, and those of --registry."""

    registry_path: str | None

    def registry(self) -> Registry:
        """Return the registry."""
        return load_registry(self.registry_path)

    def find(self, model: str) -> Path:
        """Return MODEL's bundle directory; see `paritas.models.find_registered`."""
        return find_registered(model, self.registry_path)

    def find_or_export(self, model: str, precision: Precision | Literal["auto"]) -> str:
        """Return MODEL's bundle directory; what was not exported yet is exported now."""
        return find_or_export(model, precision, registry_path=self.registry_path, report=note)


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
encoding_model = click.option(
    "--model",
    type=GIVEN,
    shell_complete=complete_model,
    required=True,
    help="A registry id, a hub id, or the directory of a checkpoint or a bundle.",
)
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


def index_path(given: str) -> str:
    """Return an index's directory as it was given.

    Raises:
        InputError: its name is not UTF-8.
    """
    if fault := not_utf8(given):
        raise InputError(fault)
    return given


def is_terminal() -> bool:
    """Say whether somebody watches standard error."""
    return sys.stderr.isatty()
