"""The packages that encoding and exporting stand on: their versions, and what those ask of each other."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from paritas import __version__
from paritas.doctor.problem import Problem

_SHOWN = ("numpy", "tokenizers", "usearch", "onnx", "optimum-onnx", "transformers")
# Whose requirements are held against what is installed.
_ASKING = ("paritas", "optimum-onnx")


def versions() -> dict[str, str]:
    """Return the versions of paritas, Python, and of the packages above that are installed."""
    known = {"paritas": __version__, "python": platform.python_version()}
    # From their records: importing usearch before onnxruntime may be one of the problems.
    return known | {name: version for name in _SHOWN if (version := version_of(name))}


def version_of(name: str) -> str | None:
    """Return the version of a distribution, None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def package_problems() -> list[Problem]:
    """Return the packages that are of another version than paritas, or optimum-onnx, needs."""
    problems = []
    for asking in _ASKING:
        own_version = version_of(asking)
        for requirement in _requirements(asking) if own_version else ():
            version = version_of(requirement.name)
            if version is not None and not _suits(requirement, version):
                wanted = f"{requirement.name}{requirement.specifier}"
                what = f"{asking} {own_version} needs {wanted}, not {version}"
                problems.append(Problem("warning", what, f"pip install '{wanted}'"))
    return problems


def _requirements(name: str) -> Iterator[Requirement]:
    """Yield what a distribution needs without any extra, as its metadata says."""
    for line in metadata.requires(name) or ():
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def _suits(requirement: Requirement, version: str) -> bool:
    try:
        return requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:  # of a build by hand
        return True
