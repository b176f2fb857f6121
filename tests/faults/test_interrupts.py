"""Exceptions raised in a caller at any moment: by Ctrl-C, or by a timeout's signal handler."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from paritas.engine.bundle.directory import Bundle

# An alarm rings at a random microsecond of each call. Between calls it is off.
INTERRUPTED = """
import json, random, signal, sys, threading
import numpy as np
from paritas import Encoder

encoder = Encoder(sys.argv[1], threads=2, workers=2, max_batch_tokens=24)
wanted, chance = int(sys.argv[2]), random.Random(sys.argv[3])
texts = ["the river", "a city by the river", "north"] + [f"river {n} north" * (n % 4) for n in range(20)]
right = encoder.encode(texts, role="query")
out = np.empty_like(right)
interrupts = calls = wrong = late = 0


def ring(*_):
    raise KeyboardInterrupt


signal.signal(signal.SIGALRM, ring)
while interrupts < wanted:
    calls += 1
    count = chance.choice([1, 1, 2, len(texts)])
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.00002, 0.006))
            vectors = encoder.encode(texts[:count], role="query", out=out[:count])
            wrong += not np.array_equal(vectors, right[:count])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupts += 1
        # The array is the caller's again: nothing writes to it any longer.
        out[:] = 7
        encoder.encode(texts[:1], role="query")
        late += not (out == 7).all()
slots = encoder._scheduler._slots
wrong += not np.array_equal(encoder.encode(texts, role="query"), right)
print(json.dumps({
    "calls": calls, "interrupts": interrupts, "wrong": wrong, "late": late, "running": slots._running,
    "exclusive": slots._exclusive_lock.locked(), "waiting": slots.queue.qsize(),
    "threads": sum(thread.name == "paritas" for thread in threading.enumerate()),
}))
"""


@pytest.mark.parametrize("seed", ["a", "b"])
def test_interrupts_lose_no_slot_and_no_thread(bundles: dict[str, Bundle], whole: bool, seed: str) -> None:
    interrupts = 5000 if whole else 200
    done = subprocess.run(
        [
            *[sys.executable, "-c", INTERRUPTED, str(bundles["tiny-mpnet"].directory)],
            *[str(interrupts), seed],
        ],
        capture_output=True,
        text=True,
        timeout=1200,  # a slot lost for ever shows as a call that never returns
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    expected = {
        **{"interrupts": interrupts, "wrong": 0, "late": 0},
        **{"running": 0, "exclusive": False, "waiting": 0},
    }
    assert {name: found[name] for name in expected} == expected
    assert found["threads"] == 2
