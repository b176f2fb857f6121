"""A program: changes one file again and again, and says what an encoder makes of it each time.

    python -m tests.faults.mutate BUNDLE FILE COUNT SEED RIGHT.npy read|not-read

Prints how often the vectors were right or the file refused; a wrong vector, another error or a crash ends it.
"""

from __future__ import annotations

import collections
import json
import logging
import os
import random
import sys
from pathlib import Path

import numpy as np

from paritas import Encoder
from paritas.engine.bundle.directory import Bundle
from paritas.errors import BundleError
from tests.faults.models import BULK, TEXTS


def mutated(data: bytes, chosen: random.Random) -> bytes:
    """Return data with a bit flipped, bytes replaced, removed, put in, zeroed or doubled."""
    place = chosen.randrange(len(data))
    length = min(chosen.choice((1, 1, 4, 64, 4096)), len(data) - place)
    other = chosen.randbytes(length)
    kind = chosen.randrange(8)
    if kind < 3:
        flipped = data[place] ^ (1 << chosen.randrange(8))
        return data[:place] + bytes([flipped]) + data[place + 1 :]
    return {
        3: data[:place] + other + data[place + length :],
        4: data[:place],
        5: data[:place] + data[place + length :],
        6: data[:place] + other + data[place:],
        7: data[:place] + bytes(length) + data[place + length :],
    }[kind]


def outcome(bundle: Path, right: np.ndarray, read: bool) -> str:
    try:
        if not read:  # no encoder reads it
            Bundle(bundle).verify()
        with Encoder(bundle, **BULK) as encoder:
            vectors = encoder.encode(TEXTS[:12], role="query")
    except BundleError:
        return "refused"
    assert np.array_equal(vectors, right), "WRONG VECTORS"
    return "right"


def main(bundle: Path, file: Path, count: int, seed: int, right: np.ndarray, read: bool) -> None:
    data, chosen = file.read_bytes(), random.Random(seed)
    times = file.stat()
    found = collections.Counter[str]()
    for _ in range(count):
        changed = mutated(data, chosen)
        file.write_bytes(changed)
        if chosen.random() < 0.5:
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        result = outcome(bundle, right, read)
        found[result if changed != data else "unchanged"] += 1
        if not read and changed != data:
            assert result == "refused", "A CHANGED FILE WAS NOT SEEN"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    print(json.dumps(found))


if __name__ == "__main__":
    logging.getLogger("paritas").setLevel(logging.ERROR)
    place, changing, times, first, vectors, which = sys.argv[1:]
    main(Path(place), Path(changing), int(times), int(first), np.load(vectors), which == "read")
