"""Programs stopped or killed at each of their steps in the file system.

A step is what Python's audit hooks report (a file opened, renamed, removed, a folder made, a database opened)
and each `os.fsync`. What C++ writes between two steps is one of them: for that, `kill_after`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

# Put in front of a program. Steps outside the watched folder (imports, /proc) are not counted.
_HOOK = """
import os as _os, signal as _signal, sys as _sys
_EVENTS = {
    "open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate",
    "os.utime", "os.chmod", "os.listdir", "os.scandir", "shutil.rmtree", "sqlite3.connect",
}
_watched, _at, _signal_number, _log = _sys.argv[1], int(_sys.argv[2]), int(_sys.argv[3]), int(_sys.argv[4])
_steps = 0


def _step(event, argument):
    global _steps
    _steps += 1
    _os.write(_log, f"{event} {argument}\\n".encode(errors="replace"))
    if _steps == _at:
        _os.kill(_os.getpid(), _signal_number)


def _hook(event, arguments):
    if event in _EVENTS and arguments and _watched in str(arguments[0]):
        _step(event, arguments[0])


_fsync = _os.fsync


def _counted(descriptor):
    _step("fsync", descriptor)
    _fsync(descriptor)


_os.fsync = _counted
_sys.addaudithook(_hook)
del _sys.argv[1:5]
"""


class Program:
    """A Python program whose steps below one folder can be counted, and at which it can be ended."""

    def __init__(self, code: str, *arguments: str | Path, watched: Path) -> None:
        """Take the program's text, its arguments (`sys.argv[1:]`), and the folder whose steps count."""
        self._code = _HOOK + code
        self._arguments = [str(argument) for argument in arguments]
        self._watched = str(watched)

    def steps(self) -> list[str]:
        """Run it to its end and return its steps."""
        code, steps, error = self._run(at=0, number=0)
        assert code == 0, error
        return steps

    def killed_at(self, step: int) -> bool:
        """Run it and kill it (SIGKILL) at a step, counted from 1; False where it had ended before."""
        code, _, error = self._run(at=step, number=signal.SIGKILL)
        assert code in (0, -signal.SIGKILL), error
        return code != 0

    def stopped_at(self, step: int, meanwhile: Callable[[], object]) -> bool:
        """Run it, stop it at a step, do something else, and let it end; False where it had ended before."""
        process, log = self._start(at=step, number=signal.SIGSTOP)
        try:
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            stopped = os.WIFSTOPPED(status)
            if stopped:
                meanwhile()
                os.kill(process.pid, signal.SIGCONT)
                _, status = os.waitpid(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            log.seek(0)
            assert process.returncode == 0, log.read()
            return stopped
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()

    def kill_after(self, seconds: float) -> bool:
        """Run it and kill it after a time, wherever it is; False where it had ended before."""
        process, _ = self._start(at=0, number=0)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        return process.wait() == -signal.SIGKILL

    def _run(self, *, at: int, number: int) -> tuple[int, list[str], str]:
        process, log = self._start(at=at, number=number)
        code = process.wait()
        log.seek(0)
        written = log.read()
        return (
            code,
            [line for line in written.splitlines() if self._watched in line or "fsync" in line],
            written,
        )

    def _start(
        self, *, at: int, number: int
    ) -> tuple[subprocess.Popen[bytes], tempfile._TemporaryFileWrapper[str]]:
        log = tempfile.NamedTemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                self._code,
                self._watched,
                str(at),
                str(number),
                str(log.fileno()),
                *self._arguments,
            ],
            pass_fds=[log.fileno()],
            stdout=log,
            stderr=log,
        )
        return process, log


def some(steps: int, count: int | None) -> Iterator[int]:
    """Yield the steps to try, counted from 1: all of them, or `count` spread evenly."""
    if count is None or steps <= count:
        yield from range(1, steps + 1)
        return
    yield from sorted({1 + round(place * (steps - 1) / (count - 1)) for place in range(count)})
