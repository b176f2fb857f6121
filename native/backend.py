"""setuptools' build backend, and a compiler from the package index where the system has none that fits.

PARITAS_TARGET compiles for another machine than this one, and names it as zig does: aarch64-linux-gnu.2.17 is
an ARM64 Linux with glibc 2.17 or later. The wheel says then that it is for that architecture.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 - the other hooks are setuptools' own

_ZIG = "ziglang>=0.13"
# For any CPU of the kind: zig compiles for this very machine otherwise.
_COMPILER = "-m ziglang cc -mcpu=baseline"


def _compiler_found() -> bool:
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    return shutil.which(shlex.split(compiler)[0]) is not None


def _zig_wanted() -> bool:
    if os.environ.get("PARITAS_KERNELS") == "none":
        return False
    return bool(os.environ.get("PARITAS_TARGET")) or not _compiler_found()


def _compiler() -> list[str]:
    return [_ZIG] if _zig_wanted() else []


def _set_compiler() -> None:
    if not _zig_wanted():
        return
    command = f"{shlex.quote(sys.executable)} {_COMPILER}"
    if target := os.environ.get("PARITAS_TARGET"):
        command += f" -target {target}"
        # What setuptools calls the wheel's platform.
        os.environ["_PYTHON_HOST_PLATFORM"] = f"linux-{target.split('-')[0]}"
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
    _set_compiler()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
