"""Takes models_registry.yaml, which lives at the root where people look for it, into the package."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

REGISTRY = "models_registry.yaml"


class BuildWithRegistry(build_py):
    def _target(self) -> str:
        return str(Path(self.build_lib, "paritas", REGISTRY))

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            Path(self._target()).parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(REGISTRY, self._target())

    def get_output_mapping(self) -> dict[str, str]:
        # A strict editable install links exactly these files.
        return {**super().get_output_mapping(), self._target(): REGISTRY}


setup(cmdclass={"build_py": BuildWithRegistry})
