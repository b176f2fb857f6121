"""An export's options: each of the right type, and all of them together, or an error that says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, get_args

from msgspec import Struct
from msgspec.structs import force_setattr

from paritas.arguments import wrong
from paritas.engine.bundle.manifest import InputSteps
from paritas.errors import ExportError
from paritas.export.contract import Frontend
from paritas.registry import PRECISIONS, Precision


class ExportOptions(Struct, frozen=True, kw_only=True):
    """What `export_model` is called with, the model aside; see there for what each option means.

    Making one checks it. `precisions` are then in the order of `PRECISIONS`, each once.

    Raises:
        InputError: an option has the wrong type.
        ExportError: an unknown precision or front-end, or two options that do not go together.
    """

    source: str | None = None
    pooling: str | None = None
    precisions: Sequence[Precision] = ("fp32",)
    frontend: Frontend = "native"
    calibration: str | None = None
    int8_inputs: InputSteps = "dynamic"
    judgements: str | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        force_setattr(self, "precisions", _in_order(self.precisions))
        if self.calibration is not None and "int8" not in self.precisions:
            raise ExportError("calibration is for int8; add it to the precisions")
        if not isinstance(self.int8_inputs, str) or self.int8_inputs not in get_args(InputSteps):
            expected = " or ".join(get_args(InputSteps))
            raise ExportError(f"unknown int8_inputs {self.int8_inputs!r}; expected {expected}")
        if self.int8_inputs != "dynamic" and "int8" not in self.precisions:
            raise ExportError("int8_inputs is for int8; add it to the precisions")
        if not isinstance(self.frontend, str) or self.frontend not in get_args(Frontend):
            raise ExportError(
                f"unknown frontend {self.frontend!r}; expected {' or '.join(get_args(Frontend))}"
            )
        if self.judgements is not None and not ("fp32" in self.precisions and len(self.precisions) > 1):
            raise ExportError("judgements compare with FP32; ask for fp32 and another precision")


def _in_order(precisions: Any) -> list[Precision]:
    """Return precisions in their order, each once."""
    if isinstance(precisions, str) or not isinstance(precisions, Iterable):
        raise wrong("precisions", precisions, 'several, as in precisions=["fp32"]')
    asked = list(precisions)
    for precision in asked:
        if precision not in PRECISIONS:
            raise ExportError(f"unknown precision {precision!r}; expected {', '.join(PRECISIONS)}")
    if not asked:
        raise ExportError(f"no precision given; expected one or more of {', '.join(PRECISIONS)}")
    return [precision for precision in PRECISIONS if precision in asked]
