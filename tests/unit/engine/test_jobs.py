"""Jobs: what `submit` returns, and encoding inside signal handlers."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.engine.schedule.call import Stages
from paritas.errors import RunError
from tests.unit.engine.failing import failing


def test_a_job_returns_vectors_and_its_own_stats(mpnet: Encoder) -> None:
    texts = ["the river", "a city by the river", "the river"]
    vectors, stats = mpnet.submit(texts, role="query").result()
    assert np.array_equal(vectors, mpnet.encode(texts, role="query"))
    assert (stats.texts, stats.batches) == (3, 2)


def test_a_job_fills_the_array_given(mpnet: Encoder) -> None:
    out = np.zeros((2, 16), np.float32)
    job = mpnet.submit(["the river", "a city"], role="query", out=out)
    assert job.result().vectors is out
    assert np.array_equal(out, mpnet.encode(["the river", "a city"], role="query"))


def test_a_job_of_no_texts_has_ended(mpnet: Encoder) -> None:
    assert mpnet.submit([], role="query").result().vectors.shape == (0, 16)


def test_jobs_tell_an_event_loop(mpnet: Encoder) -> None:
    async def encode(text: str) -> Any:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        job = mpnet.submit([text], role="query")
        job.add_done_callback(lambda _job: loop.call_soon_threadsafe(ended.set))
        await ended.wait()
        return job.result().vectors[0]

    async def encode_all() -> list[Any]:
        return await asyncio.gather(*(encode(text) for text in texts))

    texts = [f"river {number}" for number in range(50)]
    assert np.array_equal(asyncio.run(encode_all()), mpnet.encode(texts, role="query"))


def test_an_error_in_a_job_is_raised_by_its_result(
    bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = failing(bundles["tiny-mpnet"], monkeypatch).submit(["the sky"], role="query")
    with pytest.raises(RunError, match="text 0, 'the sky'"):
        job.result()


@pytest.mark.parametrize("count", [1, 40])
def test_a_signal_handler_may_encode_inside_a_call(
    bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """The batch that it interrupts holds all threads, and ends after it."""
    texts = [f"river {number} {'north ' * (number % 7)}" for number in range(40)]
    with Encoder(bundles["tiny-mpnet"], threads=2, max_batch_tokens=24) as encoder:
        right = encoder.encode(texts, role="query")
        inner: list[Any] = []
        run = Stages.vectors

        def interrupted(stages: Stages, *arguments: Any) -> Any:
            if not inner and threading.current_thread() is threading.main_thread():
                inner.append(None)
                inner[0] = encoder.encode(texts[:count], role="query")
                with pytest.raises(RuntimeError, match="cannot wait for a job; call `encode` there"):
                    encoder.submit(texts, role="query").result()
            return run(stages, *arguments)

        monkeypatch.setattr(Stages, "vectors", interrupted)
        outer = encoder.encode(texts[:1], role="query")
        assert np.array_equal(outer, right[:1])
        assert np.array_equal(inner[0], right[:count])
        assert np.array_equal(encoder.encode(texts, role="query"), right)
