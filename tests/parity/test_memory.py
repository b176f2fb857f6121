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
        for moment in ("later", "much later"):
            calls(encoder, 120)
            figures[moment] = memory("VmRSS")
        patience = time.monotonic() + 60
        figures["idle"] = memory("VmRSS")
        while figures["idle"] > figures["much later"] - 3 and time.monotonic() < patience:
            time.sleep(0.05)
            figures["idle"] = memory("VmRSS")
print(json.dumps(figures))
"""


# Peak memory is counted from when the texts are there, without them and the vectors.
_HUGE = """
import ctypes, json, sys
import numpy as np
from paritas import Encoder

def memory(what):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024

def peak(encoder, make):
    ctypes.CDLL(None).malloc_trim(0)  # the texts before these
    before = memory("VmRSS")
    texts = make()
    out = np.ones((len(texts), encoder.dim), np.float32)
    theirs = memory("VmRSS") - before
    open("/proc/self/clear_refs", "w").write("5")
    encoder.encode(texts, role="passage", out=out)
    return memory("VmHWM") - theirs

bundle, limit = sys.argv[1:]
encoder = Encoder(bundle, precision="int8", memory_limit=f"{limit}MiB")
prose = "the ferry leaves the island in the morning, "
tasks = {
    "a text of 10 MB": lambda: [prose * 227_000],
    "a text of 100 MB": lambda: [prose * 2_270_000],
    "a word of 10 MB": lambda: ["ferry" * 2_000_000],
    "no tokens in 20 MB": lambda: ["\\u200b\\x00 \\u0301" * 2_500_000],
    "300 texts of 1 MB": lambda: [f"{number} " + prose * 22_700 for number in range(300)],
    "300 Chinese texts": lambda: [f"{number}" + "\\u5317\\u4eac" * 5000 for number in range(300)],
    "a million repeats": lambda: [f"the ferry {number % 64} leaves" for number in range(1_000_000)],
}
print(json.dumps({name: peak(encoder, make) for name, make in tasks.items()}))
"""
_PAIRS = """
import json, sys
from pathlib import Path
from paritas.engine.tokenize.tokenizer import Tokenizer, check_texts
from paritas.registry import Role

def memory(what):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024

role = Role(256, pair=True)
tokenizer = Tokenizer(Path(sys.argv[1]) / "tokenizer.json", {"text": role})
huge = ["the ferry leaves the island, " * 100_000, "\\u5317\\u4eac" * 500_000, "x" * 3_000_000]
pairs = [(title, text) for title in huge for text in (*huge, "the ferry")] + [("a", text) for text in huge]
open("/proc/self/clear_refs", "w").write("5")
before = memory("VmRSS")
tokenizer.encode(check_texts(pairs, role), "text")
print(json.dumps({"grown": memory("VmHWM") - before}))
"""


def _bundle(zoo: Zoo) -> list[str]:
    return [str(zoo.int8("all-MiniLM-L6-v2", "native").directory)]


def figures(zoo: Zoo, task: str) -> dict[str, Any]:
    command = [sys.executable, "-c", _SCRIPT, *_bundle(zoo), task]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(run.stdout)
    print(task, found)
    return found


pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize("above", [0, 60])
def test_a_limit_is_kept(zoo: Zoo, above: int) -> None:
    limit = figures(zoo, "limit")["least"] + above
    assert figures(zoo, str(limit))["peak"] <= limit


def test_texts_of_any_size_keep_the_limit(zoo: Zoo) -> None:
    limit = figures(zoo, "limit")["least"]
    run = subprocess.run(
        [sys.executable, "-c", _HUGE, *_bundle(zoo), str(limit)], capture_output=True, text=True, check=True
    )
    print(limit, run.stdout)
    assert {name: peak for name, peak in json.loads(run.stdout).items() if peak > limit} == {}


def test_a_pair_with_a_huge_title_takes_as_little(zoo: Zoo) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _PAIRS, *_bundle(zoo)], capture_output=True, text=True, check=True
    )
    print(run.stdout)
    assert json.loads(run.stdout)["grown"] <= 40


def test_memory_is_given_back_after_bulk_and_stays_flat(zoo: Zoo) -> None:
    found = figures(zoo, "flat")
    assert found["settled"] <= found["peak"] - 5
    # Both loads reach about the same, so what the first has reached is no bound for the second.
    assert found["much later"] <= found["later"] + 3
    assert found["idle"] <= found["much later"] - 3
