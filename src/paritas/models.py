"""From what a user calls a model to its bundle, which is made first where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from paritas.engine.bundle.directory import Bundle
from paritas.engine.bundle.lookup import find
from paritas.errors import BundleError, NotExportedError, ParitasError, RegistryError
from paritas.registry import Precision, load_registry


def find_registered(model: str, registry_path: str | None) -> Path:
    """Return a model's bundle directory as `find` does, with a user's registry among the known.

    Args:
        model: as `find` takes it.
        registry_path: the user's registry; None for the built-in one and PARITAS_REGISTRY's.

    Raises:
        ParitasError: as `find`.
    """
    try:
        return find(model)
    except RegistryError:
        load_registry(registry_path)[model]  # unknown here too: ends here, with the nearest of all names
        raise NotExportedError(
            f"{model} was not exported yet; type: paritas --registry {registry_path} export {model}"
        ) from None


def find_or_export(
    model: str,
    precision: Precision | Literal["auto"],
    *,
    registry_path: str | None,
    report: Callable[[str], None],
) -> str:
    """Return a model's bundle directory; what was not exported yet is exported now.

    Args:
        model: as `find` takes it.
        precision: what the bundle must have; "auto" makes FP32 and INT8.
        registry_path: as for `find_registered`.
        report: called with a line of text at each step of an export.

    Raises:
        ParitasError: neither found nor exportable.
    """
    try:
        bundle = Bundle(find_registered(model, registry_path))
    except NotExportedError:
        return _exported_now(
            model, ["fp32", "int8"] if precision == "auto" else [precision], registry_path, report
        )
    if precision != "auto":
        bundle.variant(precision)  # says what to type: how the bundle was made is its maker's choice
    return str(bundle.directory)


def _exported_now(
    model: str, precisions: list[Precision], registry_path: str | None, report: Callable[[str], None]
) -> str:
    from paritas.export import export_model

    report(f"{model} was not exported yet; doing that first")
    registry = load_registry(registry_path)
    try:
        made = export_model(model, precisions=precisions, registry=registry, report=report)
    except ParitasError as error:
        raise BundleError(f"{error} (while exporting {model}; see: paritas export --help)") from error
    return str(made.directory)
