"""The command line. Answers go to standard output, progress and logs to standard error.

Exit code 0; 2 for what the user can mend, one line on standard error; 1 for a fault of ours, with its
traceback; 130 after Ctrl-C. With --json a failure is a document as well:
{"error": {"type": ..., "message": ..., "exit_code": ...}}.
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

import click

from paritas import __version__, interrupts
from paritas.cli.compare import compare
from paritas.cli.demo import demo
from paritas.cli.encode import encode, show_job
from paritas.cli.machine import doctor, tune
from paritas.cli.models import export, models, verify
from paritas.cli.options import GIVEN, Models, drop_output, in_one_line, show_error
from paritas.cli.search import index, recall, search
from paritas.cli.serve import serve
from paritas.errors import ParitasError
from paritas.interrupts import seen


class _Commands(click.Group):
    """The commands; where the reader of their answers goes away (| head), they end without a word."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command asked for."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            drop_output()  # caught here, for click exits with 1
            return ctx.exit(141)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Shell completion: paritas completion --help",
)
@click.version_option(__version__, prog_name="paritas")
@click.option(
    "--registry",
    type=GIVEN,
    metavar="FILE",
    envvar="PARITAS_REGISTRY",
    help="A YAML file with models of your own, in the form of models_registry.yaml.",
)
@click.pass_context
def cli(context: click.Context, registry: str | None) -> None:
    """Turn dense text encoders into fast, certified ONNX bundles, and run them.

    \b
    paritas demo                                     see all of it work
    paritas models                                   what can be exported
    paritas export all-MiniLM-L6-v2                  make a certified bundle
    paritas verify all-MiniLM-L6-v2                  prove it again, on this machine
    paritas encode corpus.jsonl --model all-MiniLM-L6-v2 --out vectors
    paritas index corpus.jsonl --model all-MiniLM-L6-v2 --out corpus.index
    paritas search corpus.index "how does it work?"
    paritas serve all-MiniLM-L6-v2                   answer over HTTP
    paritas tune all-MiniLM-L6-v2                    find what is fastest on this machine
    paritas doctor                                   see what is wrong on it
    """
    context.obj = Models(registry)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="SHELL")
def completion(shell: str) -> None:
    """Print the script that teaches a SHELL to complete commands, options and models.

    \b
    bash   echo 'eval "$(paritas completion bash)"' >> ~/.bashrc
    zsh    echo 'eval "$(paritas completion zsh)"' >> ~/.zshrc
    fish   paritas completion fish > ~/.config/fish/completions/paritas.fish
    """
    from click.shell_completion import get_completion_class

    completer = get_completion_class(shell)
    assert completer is not None, shell
    click.echo(completer(cli, {}, "paritas", "_PARITAS_COMPLETE").source())


for command in (
    models,
    export,
    verify,
    encode,
    show_job,
    compare,
    index,
    search,
    recall,
    serve,
    demo,
    tune,
    doctor,
):
    cli.add_command(command)


# C code may make another exception of the one by which the process leaves.
_terminated = threading.Event()


def main() -> None:
    """Run the command line and exit the process; Ctrl-C is for `paritas.interrupts` to tell."""
    signal.signal(signal.SIGTERM, _terminate)
    if sys.stdout is not None:  # a terminal that lacks a character shows another one instead
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        code = cli(prog_name="paritas", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        code = _ended(error)
        if code is None:
            raise
    sys.exit(code if isinstance(code, int) else 0)


def _ended(error: BaseException) -> int | None:
    """Say how a command failed, and return its exit code; None for a fault of ours, which is not caught."""
    if _terminated.is_set():
        return 128 + signal.SIGTERM
    if seen():
        show_error("Interrupted", "interrupted by Ctrl-C", interrupts.CODE, quiet=True)
    elif isinstance(error, click.ClickException):
        message = in_one_line(error.format_message())
        error.format_message = lambda: message  # type: ignore[method-assign]
        error.show()
        show_error("UsageError", message, 2, quiet=True)
        return 2
    elif isinstance(error, (ParitasError, OSError)):
        show_error(type(error).__name__, str(error), 2)
        return 2
    else:
        show_error(type(error).__name__, str(error), 1, quiet=True)
    return None


def _terminate(signum: int, _frame: object) -> None:
    """Leave through the finally blocks, so that a stopped export or index leaves nothing behind."""
    _terminated.set()
    sys.exit(128 + signum)
