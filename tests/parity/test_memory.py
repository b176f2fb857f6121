"""Memory of a full-size model in a process of its own: kept below a limit, flat over time, given back.

Peak and present resident memory are the kernel's figures (VmHWM, VmRSS), in MiB.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.parity.conftest import Zoo

_SCRIPT = """
import json, random, re, sys, threading, time
from paritas import Encoder
from paritas.errors import InputError

def memory(what):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024

rng = random.Random(7)
def text(words):
    return " ".join(rng.choice(["river", "night", "train", "north", "water", "1871"]) for _ in range(words))

def calls(encoder, count):
    for _ in range(count):
        encoder.encode([text(rng.randint(1, 200)) for _ in range(rng.randint(1, 6))], role="query")

bundle, task = sys.argv[1:]
figures = {}
if task == "limit":
    try:
        Encoder(bundle, precision="int8")  # the first load of all may take more
        Encoder(bundle, precision="int8", memory_limit="1MiB")
    except InputError as error:
        figures["least"] = int(re.search(r'memory_limit="(\\d+)MiB"', str(error))[1])
else:
    limit = f"{task}MiB" if task.isdecimal() else None
    encoder = Encoder(bundle, precision="int8", memory_limit=limit)
    callers = [threading.Thread(target=calls, args=(encoder, 10)) for _ in range(4)]
    for caller in callers:
        caller.start()
    encoder.encode([text(rng.randint(1, 300)) for _ in range(120)], role="passage")
    for caller in callers:
        caller.join()
    figures["workers"] = encoder.settings.workers
    figures["settled"] = memory("VmRSS")
    figures["peak"] = memory("VmHWM")
    if task == "flat":
        calls(encoder, 120)
        figures["later"] = memory("VmRSS")
        while encoder._scheduler._slots._largest:  # not given back yet
            time.sleep(0.05)
        figures["idle"] = memory("VmRSS")
print(json.dumps(figures))
"""


def figures(zoo: Zoo, task: str) -> dict[str, Any]:
    command = [sys.executable, "-c", _SCRIPT, str(zoo.int8("all-MiniLM-L6-v2", "native").directory), task]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(run.stdout)
    print(task, found)
    return found


pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize("above", [0, 60])
def test_a_limit_is_kept(zoo: Zoo, above: int) -> None:
    limit = figures(zoo, "limit")["least"] + above
    assert figures(zoo, str(limit))["peak"] <= limit


def test_memory_is_given_back_after_bulk_and_stays_flat(zoo: Zoo) -> None:
    found = figures(zoo, "flat")
    assert found["settled"] <= found["peak"] - 5
    assert found["later"] <= found["peak"]
    assert found["idle"] <= found["later"] - 5
