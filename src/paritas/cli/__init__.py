"""The command line. Answers go to standard output, progress and logs to standard error.

Exit code 0; 2 for what the user can mend, one line on standard error; 1 for a fault of ours, with its
traceback.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import click

from paritas import __version__
from paritas.cli.demo import demo
from paritas.cli.machine import doctor, tune
from paritas.cli.models import export, models, verify
from paritas.cli.options import Settings
from paritas.cli.search import index, recall, search
from paritas.errors import ParitasError


class _Commands(click.Group):
    """The commands; where the reader of their answers goes away (| head), they end without a word."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command asked for."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Python would report it once more while flushing at exit. Caught here, for click exits with 1.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return ctx.exit(141)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Shell completion: paritas completion --help",
)
@click.version_option(__version__, prog_name="paritas")
@click.option(
    "--registry",
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
    paritas index corpus.jsonl --model all-MiniLM-L6-v2 --out corpus.index
    paritas search corpus.index "how does it work?"
    paritas tune all-MiniLM-L6-v2                    find what is fastest on this machine
    paritas doctor                                   see what is wrong on it
    """
    context.obj = Settings(registry)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
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


for command in (models, export, verify, index, search, recall, demo, tune, doctor):
    cli.add_command(command)


def main() -> None:
    """Run the command line and exit the process."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = cli(prog_name="paritas", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = 2
    except click.Abort:
        click.echo("paritas: interrupted", err=True)
        code = 130
    except (ParitasError, OSError) as error:
        click.echo(f"paritas: error: {error}", err=True)
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


def _terminate(signum: int, _frame: object) -> None:
    """Leave through the finally blocks, so that a stopped export or index leaves nothing behind."""
    sys.exit(128 + signum)
