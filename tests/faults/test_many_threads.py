"""One encoder under many threads: every vector to the last bit, whatever runs beside it."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.errors import BundleError

WORDS = ["the", "river", "city", "north", "sky", "water", "blue", "a", "by"]


def _texts(count: int) -> list[str]:
    chance = random.Random(1)
    return [" ".join(chance.choices(WORDS, k=chance.randint(1, 30))) for _ in range(count)]


@pytest.mark.parametrize("workers", [1, 2])
def test_64_threads_get_the_same_bits(bundles: dict[str, Bundle], whole: bool, workers: int) -> None:
    vectors = 100_000 if whole else 4_000
    texts = _texts(400)
    with Encoder(bundles["tiny-mpnet"], threads=2, workers=workers, max_batch_tokens=128) as encoder:
        right = encoder.encode(texts, role="query")

        def call(seed: int) -> int:
            chance = random.Random(seed)
            done = 0
            while done < vectors // 64:
                rows = chance.sample(range(len(texts)), chance.choice([1, 1, 3, 40]))
                found = encoder.encode([texts[row] for row in rows], role="query")
                assert np.array_equal(found, right[rows])
                done += len(rows)
            return done

        with ThreadPoolExecutor(64) as pool:
            done = sum(pool.map(call, range(64)))
        assert done >= vectors // 64 * 64
        assert encoder._scheduler is not None
        assert encoder._scheduler._slots._running == 0


def test_closing_beside_callers_ends_no_call_wrong(bundles: dict[str, Bundle], whole: bool) -> None:
    texts = _texts(60)
    with Encoder(bundles["tiny-mpnet"]) as encoder:
        right = encoder.encode(texts, role="query")
    for _ in range(200 if whole else 20):
        closed = Encoder(bundles["tiny-mpnet"], threads=2, workers=2, max_batch_tokens=64)

        def call(encoder: Encoder = closed) -> str:
            try:
                while True:
                    assert np.array_equal(encoder.encode(texts, role="query"), right)
            except BundleError as error:
                return str(error)

        with ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(call) for _ in range(8)]
            closed.close()
            assert all("was closed" in call.result() for call in calls)
