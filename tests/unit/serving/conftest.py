"""A server for the tests that break nothing."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from paritas.engine.encoder import Encoder
from tests.unit.serving.running import running


@pytest.fixture(scope="module")
def client(bert: Encoder, mpnet: Encoder) -> Iterator[httpx2.Client]:
    with running({"bert": bert, "org/mpnet": mpnet}) as client:
        yield client
