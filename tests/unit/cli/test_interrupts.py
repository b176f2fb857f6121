"""Ctrl-C: one line and 130, whatever it meets, and nothing of what was begun is left."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.unit.cli.runs import Result

# Where the tests run in a shell's background, SIGINT is ignored; the scripts must not inherit that.
HEAD = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from paritas.interrupts import guarded

def ctrl_c():
    signal.raise_signal(signal.SIGINT)
"""

SCRIPTS = {
    "in Python": """
def call():
    ctrl_c()
guarded(call)
""",
    "in C code that makes another exception of it": """
def call():
    try:
        ctrl_c()
    except KeyboardInterrupt:
        raise RuntimeError("error_already_set") from None
guarded(call)
""",
    "in an import that makes an ImportError of it": """
import importlib
def call():
    try:
        ctrl_c()
    finally:
        raise ImportError("numpy failed to import")
guarded(call)
""",
    "in a finaliser, which swallows it": """
import time
class Held:
    def __del__(self):
        ctrl_c()
def call():
    held = Held()
    del held
    time.sleep(60)
guarded(call)
""",
    "twice, while what was begun is cleared away": """
def call():
    try:
        ctrl_c()
    finally:
        ctrl_c()
        print("cleared")
guarded(call)
""",
    "while the interpreter waits for a thread": """
import threading, time
from paritas import interrupts
def wait():
    while not interrupts._state.leaving:
        time.sleep(0.01)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    threading.Event().wait(60)
guarded(lambda: threading.Thread(target=wait).start())
""",
    "in code that is guarded twice": """
guarded(lambda: guarded(ctrl_c))
""",
}


def run(script: str) -> Result:
    return subprocess.run(
        [sys.executable, "-c", HEAD + script], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("where", SCRIPTS)
def test_an_interrupt_is_one_line_and_130(where: str) -> None:
    result = run(SCRIPTS[where])
    assert (result.returncode, result.stderr) == (130, "paritas: interrupted\n")
    assert result.stdout == ("cleared\n" if "cleared" in SCRIPTS[where] else "")


def test_the_third_interrupt_does_not_wait_for_what_is_cleared_away() -> None:
    result = run("""
def call():
    try:
        ctrl_c()
    finally:
        ctrl_c(), ctrl_c()
        print("never said", flush=True)
guarded(call)
""")
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "paritas: interrupted\n")


def test_an_interrupt_after_the_answer_changes_nothing() -> None:
    result = run("""
class Held:
    def __del__(self, send=os.kill, process=os.getpid()):
        send(process, 2)
held = Held()
guarded(lambda: print("the answer"))
""")
    assert (result.returncode, result.stdout, result.stderr) == (0, "the answer\n", "")


def test_what_a_shell_told_to_ignore_interrupts_ignores_them() -> None:
    result = run("""
signal.signal(signal.SIGINT, signal.SIG_IGN)
guarded(lambda: (ctrl_c(), print("done")))
""")
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")


def test_a_fault_of_ours_stays_one() -> None:
    result = run("guarded(lambda: 1 / 0)")
    assert result.returncode == 1
    assert result.stderr.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize("module", ["click", "numpy", "onnxruntime", "usearch.index"])
def test_an_interrupt_while_a_module_is_loaded_is_one_line(module: str, tmp_path) -> None:
    script = f"""
import builtins
load = builtins.__import__
def interrupted(name, *rest):
    if name == {module!r}:
        builtins.__import__ = load
        signal.raise_signal(signal.SIGINT)
    return load(name, *rest)
builtins.__import__ = interrupted
sys.argv = ["paritas", "search", {str(tmp_path)!r}, "sky"]
from paritas.__main__ import main
main()
"""
    result = run(script)
    assert (result.returncode, result.stdout) == (130, "")
    assert result.stderr.strip() == "paritas: interrupted"


def test_an_interrupt_in_a_finaliser_at_the_end_is_no_alarm() -> None:
    script = """
class Late:
    def __del__(self):
        ctrl_c()
def call():
    late = Late()
guarded(call)
"""
    for _ in range(3):
        result = subprocess.run(
            [sys.executable, "-c", HEAD + script], capture_output=True, text=True, check=False
        )
        assert (result.returncode, result.stderr) == (130, "paritas: interrupted\n")


def test_sigterm_of_which_c_code_made_another_exception_ends_as_such() -> None:
    """usearch loses what a signal handler raises, and raises something of its own."""
    script = """
import contextlib, os, signal, sys
import click
from paritas import cli

def loses_it(**_):
    with contextlib.suppress(SystemExit):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.sigtimedwait([], 5)
    raise click.exceptions.Abort

cli.cli = loses_it
cli.main()
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (143, "", "")
