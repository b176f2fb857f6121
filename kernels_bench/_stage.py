"""Engines in environments of their own: prepared once, started as often as asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kernels_bench import peer_recipes, peers
from kernels_bench._harness import Contender, ContenderError

_SCRIPT = str(Path(peers.__file__).resolve())
_RECIPES = str(Path(peer_recipes.__file__).resolve())


class Stage:
    """Where engines are prepared and started."""

    def __init__(self, environments: Path | None, checkpoint: Path, work: Path) -> None:
        """Take the folder of the peers' environments (None: no peers), the checkpoint and a scratch folder.

        The scratch folder's texts.json, calibration.json and bundle are what `peers` reads.
        """
        self._environments, self._checkpoint, self._work = environments, checkpoint, work
        self._prepared: dict[str, str | None] = {}
        """By recipe: why it failed, or None."""

    def start(self, name: str, threads: int | None = None) -> Contender:
        """Start an engine; what it needs is prepared first.

        Raises:
            ContenderError: it cannot run; the message is the reason.
        """
        engine = peers.ENGINES[name]
        if engine.recipe is not None and (reason := self._prepare(engine.recipe)) is not None:
            raise ContenderError(reason)
        arguments = [name, str(self._checkpoint), str(self._work)]
        arguments += [] if threads is None else [str(threads)]
        return Contender(_SCRIPT, arguments, python=[self._python(engine.environment)])

    def _prepare(self, name: str) -> str | None:
        """Follow a recipe, once; return why that failed."""
        if name not in self._prepared:
            recipe = peer_recipes.RECIPES[name]
            reason = None if recipe.needs is None else self._prepare(recipe.needs)
            self._prepared[name] = reason or self._follow(name, recipe.environment)
        return self._prepared[name]

    def _follow(self, name: str, environment: str) -> str | None:
        command = [self._python(environment), _RECIPES, name, str(self._checkpoint), str(self._work)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode == 0:
            return None
        return f"{name} cannot be made: {(run.stderr.strip().splitlines() or ['no message'])[-1]}"[:300]

    def _python(self, environment: str) -> str:
        if not environment:
            return sys.executable
        if self._environments is None:
            raise ContenderError("--peers names no environments")
        python = self._environments.absolute() / environment / "bin" / "python"
        if not python.exists():
            raise ContenderError(f"the environment {environment!r} is not installed; type: make peers")
        return str(python)
