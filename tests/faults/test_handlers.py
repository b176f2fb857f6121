"""Signal handlers that encode inside a call of the same encoder, at any moment of it."""

from __future__ import annotations

import subprocess
import sys

from paritas.engine.bundle.directory import Bundle

HANDLED = """
import random, signal, sys
import numpy as np
from paritas import Encoder

encoder = Encoder(sys.argv[1], threads=2, workers=2, max_batch_tokens=24)
wanted, chance = int(sys.argv[2]), random.Random(5)
texts = ["the river", "a city by the river", "north"] + [f"river {n} north" * (n % 4) for n in range(20)]
right = encoder.encode(texts, role="query")
handled = 0


def handle(*_):
    global handled
    count = chance.choice([1, 1, len(texts)])
    assert np.array_equal(encoder.encode(texts[:count], role="query"), right[:count])
    handled += 1


signal.signal(signal.SIGALRM, handle)
while handled < wanted:
    count = chance.choice([1, 1, 1, len(texts)])
    signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.00002, 0.002))
    assert np.array_equal(encoder.encode(texts[:count], role="query"), right[:count])
signal.setitimer(signal.ITIMER_REAL, 0)
print(handled)
"""


def test_handlers_that_encode_never_wait_for_the_call_they_interrupt(
    bundles: dict[str, Bundle], whole: bool
) -> None:
    handled = 20_000 if whole else 500
    command = [sys.executable, "-c", HANDLED, str(bundles["tiny-mpnet"].directory), str(handled)]
    # A call that waits for itself shows as one that never returns.
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= handled
