"""How long the trials are: short in `make test`, whole in `make test-faults`."""

from __future__ import annotations

import os

import pytest

WHOLE = os.environ.get("PARITAS_FAULTS") == "whole"


@pytest.fixture
def whole() -> bool:
    """Whether each trial is made as often as the page on faults says, or a small part of it."""
    return WHOLE
