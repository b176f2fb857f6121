"""From a checkpoint to a certified bundle: sources -> graph -> precisions -> certificate -> bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paritas.errors import MissingExtraError

if TYPE_CHECKING:
    from paritas.export.exporter import export_model

__all__ = ["export_model"]


def __getattr__(name: str) -> object:
    """Import the exporter when it is asked for: `paritas verify` needs none of the export extra."""
    if name != "export_model":
        raise AttributeError(f"module 'paritas.export' has no attribute {name!r}")
    try:
        import onnx  # noqa: F401 - first, so that who lacks both extras is told of both

        from paritas.export.exporter import export_model
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "safetensors", "ml_dtypes"):
            raise
        raise MissingExtraError(
            f"{error.name} is not installed; type: pip install 'paritas[cpu,export]'"
        ) from error
    return export_model
