"""The public interface: what `paritas.__all__` lists, and no more than that."""

from __future__ import annotations

import inspect
import typing
from pathlib import Path

import pytest

import paritas

PUBLIC = [
    "AsyncEncoder",
    "Bundle",
    "EncodeStats",
    "Encoded",
    "Encoder",
    "Hit",
    "Job",
    "ParitasError",
    "VectorIndex",
    "__version__",
    "errors",
    "export_model",
    "load_registry",
]
REFERENCE = Path(__file__).parents[2] / "docs" / "reference.md"


def test_these_are_the_public_names() -> None:
    """A name that comes or goes is a decision: it is made here and in the changelog."""
    assert paritas.__all__ == PUBLIC == sorted(PUBLIC)
    assert dir(paritas) == PUBLIC


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__"])
def test_a_public_name_can_be_imported_and_says_what_it_is(name: str) -> None:
    value = getattr(paritas, name)
    assert inspect.getdoc(value)
    for member, function in inspect.getmembers(value, inspect.isfunction):
        if not member.startswith("_") and inspect.isclass(value):
            assert inspect.getdoc(function), f"{name}.{member}"


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__"])
def test_the_reference_describes_it(name: str) -> None:
    assert name in REFERENCE.read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["encode", "submit"])
def test_what_an_encoder_returns_has_a_public_name(method: str) -> None:
    returned = inspect.signature(getattr(paritas.Encoder, method)).return_annotation
    own = {part for part in ("Job", "Encoded", "EncodeStats", "Hit") if part in returned}
    assert own <= set(paritas.__all__)
    assert typing.get_type_hints(paritas.export_model)["return"] is paritas.Bundle


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'paritas' has no attribute 'Decoder'"):
        _ = paritas.Decoder  # type: ignore[attr-defined]
