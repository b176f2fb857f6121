"""setuptools' build backend, and a compiler from the package index where the system has none that fits.

PARITAS_TARGET compiles for another machine than this one, and names it as zig does: aarch64-linux-gnu.2.17 is
an ARM64 Linux with glibc 2.17 or later. The wheel says then that it is for that architecture. A library that
does not compile is an error then.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import sysconfig
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 - the other hooks are setuptools' own

# One version: what it makes of a tile is tested.
ZIG = "ziglang==0.17.1"
# For any CPU of the kind: zig compiles for this very machine otherwise.
_COMPILER = "-m ziglang cc -mcpu=baseline"


def _compiler_found() -> bool:
    compiler = os.environ.get("CC", "").strip() or sysconfig.get_config_var("CC") or "cc"
    return shutil.which(shlex.split(compiler)[0]) is not None


def _target() -> str | None:
    target = os.environ.get("PARITAS_TARGET")
    if target and not re.fullmatch(r"(x86_64|aarch64)-linux-gnu(\.\d+\.\d+)?", target):
        sys.exit(
            f"PARITAS_TARGET is {target!r}; expected one like aarch64-linux-gnu.2.17 or x86_64-linux-gnu"
        )
    return target or None


def _zig_wanted() -> bool:
    return os.environ.get("PARITAS_KERNELS") != "none" and (_target() is not None or not _compiler_found())


def _compiler() -> list[str]:
    return [ZIG] if _zig_wanted() else []


def _set_compiler() -> None:
    if not _zig_wanted():
        return
    command = f"{shlex.quote(sys.executable)} {_COMPILER}"
    if target := _target():
        command += f" -target {target}"
        os.environ["PARITAS_KERNELS"] = "required"
        # What setuptools calls the wheel's platform.
        os.environ["_PYTHON_HOST_PLATFORM"] = f"linux-{target.split('-')[0]}"
        # They are of this machine.
        for flags in ("CFLAGS", "CPPFLAGS", "LDFLAGS"):
            os.environ.pop(flags, None)
    os.environ["CC"] = command
    os.environ["LDSHARED"] = f"{command} -shared"


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_compiler()]


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    return [*build_meta.get_requires_for_build_editable(config_settings), *_compiler()]


def build_wheel(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    _set_compiler()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    if _target():
        sys.exit("PARITAS_TARGET is for wheels; unset it for an editable install, which is for this machine")
    _set_compiler()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
