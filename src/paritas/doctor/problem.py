"""What the doctor says is wrong, and what mends it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Problem(Struct, frozen=True):
    """Something to mend."""

    severity: Literal["error", "warning"]
    """An error makes encoding impossible."""
    what: str
    mend: str
    """What to type."""
