"""An encoder's life: pickled, forked, idle, closed and forgotten."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.engine.options import EncoderOptions
from paritas.errors import BundleError

TEXTS = ["the river", "night train to the north", "a", "", "water", "light of the city", "the river"] * 5


def _encode_elsewhere(encoder: Encoder, texts: list[str]) -> np.ndarray:
    return encoder.encode(texts, role="query")


def test_a_pickled_encoder_takes_no_other_model(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    shutil.copytree(bundles["tiny-bert"].directory, place)
    with Encoder(place) as encoder:
        pickled = pickle.dumps(encoder)
    shutil.rmtree(place)
    shutil.copytree(bundles["tiny-mpnet"].directory, place)
    with pytest.raises(BundleError, match="another model's bundle since the encoder was pickled"):
        pickle.loads(pickled)


def test_a_pickled_encoder_encodes_in_another_process(bert: Encoder) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        vectors = pool.apply(_encode_elsewhere, (bert, TEXTS))
    assert np.array_equal(vectors, bert.encode(TEXTS, role="query"))


def test_pickling_keeps_the_options(bundles: dict[str, Bundle]) -> None:
    options = {"precision": "fp16", "max_batch_tokens": 77, "threads": 3, "workers": 2, "cache": False}
    with Encoder(bundles["tiny-bert"].directory, **options) as encoder:
        again = pickle.loads(pickle.dumps(encoder))
    assert (again.precision, again.settings.max_batch_tokens) == ("fp16", 77)
    assert again.__reduce__() == encoder.__reduce__()


def test_a_forked_process_is_told_so_and_does_not_hang(bundles: dict[str, Bundle]) -> None:
    script = """
import os, sys
from paritas import Encoder
from paritas.errors import BundleError
encoder = Encoder(sys.argv[1], threads=4)
encoder.encode([*map(str, range(20))], role="query")
child = os.fork()
if child == 0:
    try:
        encoder.encode([*map(str, range(20))], role="query")
    except BundleError as error:
        os._exit(0 if "was forked; load it in each process" in str(error) else 2)
    os._exit(3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    command = [sys.executable, "-W", "ignore", "-c", script, str(bundles["tiny-bert"].directory)]
    subprocess.run(command, check=True, timeout=60)


@pytest.mark.parametrize("end", ["sys.exit(0)", "encoder.close(); sys.exit(0)", "del encoder; gc.collect()"])
def test_a_forked_process_ends_without_waiting_for_the_threads_it_has_not(
    bundles: dict[str, Bundle], end: str
) -> None:
    """As a server's worker ends, whose parent had loaded the encoder before it forked."""
    script = f"""
import gc, os, sys
from paritas import Encoder
encoder = Encoder(sys.argv[1], threads=4)
encoder.encode([*map(str, range(20))], role="query")
child = os.fork()
if child == 0:
    {end}
    sys.exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
encoder.encode(["the river"], role="query")
encoder.close()
sys.exit(code)
"""
    command = [sys.executable, "-W", "ignore", "-c", script, str(bundles["tiny-bert"].directory)]
    subprocess.run(command, check=True, timeout=60)


def test_idle_threads_do_not_spin(bundles: dict[str, Bundle]) -> None:
    """CPU time, not wall time: half a second of waiting after a run costs next to none of it."""
    script = """
import sys, time
from paritas import Encoder
encoder = Encoder(sys.argv[1], threads=4)
encoder.encode([*map(str, range(50))], role="query")
before = time.process_time()
time.sleep(0.5)
print(time.process_time() - before)
"""
    directory = str(bundles["tiny-bert"].directory)
    run = subprocess.run(
        [sys.executable, "-c", script, directory], capture_output=True, text=True, check=True
    )
    assert float(run.stdout) < 0.1


def test_an_encoder_that_nobody_closes_goes_with_its_threads(bundles: dict[str, Bundle]) -> None:
    encoder = Encoder(bundles["tiny-mpnet"], threads=2)
    encoder.encode(["the river"], role="query")
    assert encoder._scheduler is not None
    threads, gone = list(encoder._scheduler._slots.threads), weakref.ref(encoder)
    del encoder
    gc.collect()
    assert gone() is None
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def test_a_closed_encoder_says_so(bundles: dict[str, Bundle]) -> None:
    with Encoder(bundles["tiny-bert"].directory) as encoder:
        pass
    with pytest.raises(BundleError, match="was closed"):
        encoder.encode(["a"], role="query")


def test_the_options_are_pickled_as_one_checked_struct(bert: Encoder) -> None:
    _, (_, options, _) = bert.__reduce__()
    assert options == EncoderOptions()
    assert pickle.loads(pickle.dumps(options)) == options
