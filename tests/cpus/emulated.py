"""Programs run by emulators, and the encoder among them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paritas.engine.bundle.directory import Bundle
from paritas.export.int8.calibration import built_in_texts

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("encode.py")
# The shortest ones: an emulator is a hundred times slower.
TEXTS = ["", *sorted(built_in_texts("certificate"), key=len)[:20]]


@dataclass
class Outcome:
    """What an emulated CPU made of the bundle."""

    vectors: dict[str, NDArray[np.float32]]
    facts: dict[str, Any]


def emulate(
    command: list[str], bundle: Bundle, out: Path, *precisions: str, texts: list[str] = TEXTS
) -> Outcome:
    """Encode texts by an emulated Python; `command` ends with where its packages are."""
    out.mkdir()
    (out / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    arguments = [str(bundle.directory), str(out / "texts.json"), str(out), *precisions]
    run([*command, *arguments])
    return Outcome(
        {precision: np.load(out / f"{precision}.npy") for precision in precisions},
        json.loads((out / "facts.json").read_text()),
    )


def run(command: list[str], **variables: str) -> str:
    """Return what an emulated program printed."""
    # What is set for this machine's CPU (OPENBLAS_CORETYPE) ends another one with an illegal instruction, and
    # options of pytest's (PYTEST_ADDOPTS) change what it prints.
    set_for_here = ("OPENBLAS_", "PYTEST_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(set_for_here)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=1200, env=environment | variables
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def x86(emulators: Path, cpu: str, package: Path) -> list[str]:
    python = str(Path(sys.executable).resolve())
    site = f"{package}:{sysconfig.get_path('purelib')}"
    return [str(emulators / "qemu-x86_64"), "-cpu", cpu, python, "-s", "-B", str(SCRIPT), site]


def arm(emulators: Path, cpu: str, package: Path) -> list[str]:
    return [*arm_python(emulators, cpu), str(SCRIPT), f"{package}:{emulators / 'arm64/site'}"]


def arm_python(emulators: Path, cpu: str) -> list[str]:
    root = emulators / "arm64"
    python = [str(root / "usr/bin/python3.11"), "-S", "-s", "-B"]
    return [str(emulators / "qemu-aarch64"), "-L", str(root), "-cpu", cpu, *python]
