"""What `paritas tune` left: encoders run with it, and with nothing that was tuned for something else."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from paritas.engine import settings, tuned
from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.engine.runtime import optimized
from paritas.engine.settings import Settings
from paritas.engine.tuned import (
    Measured,
    Tuned,
    find_tuned,
    forget_tuned,
    keep_tuned,
    read_tuned,
    tuned_path,
)

# One text of twelve tokens at most fits a batch of sixteen.
TUNED = Tuned("tiny-bert", "fp32", 3, "a CPU", "1.31.1", "2026-01-01", 2, 16, 1.1, [])
TEXTS = ["the river", "the night", "the city", "the train", "the water", "the light"]


@pytest.fixture(autouse=True)
def three_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (settings, tuned):
        monkeypatch.setattr(module, "available_cpus", lambda: 3)


def test_an_encoder_runs_with_what_was_tuned_and_gives_the_same_bits(bundles: dict[str, Bundle]) -> None:
    with Encoder(bundles["tiny-bert"]) as encoder:
        assert encoder.settings == Settings(3, 3, 512, "default")
        expected = encoder.encode(TEXTS, role="query")
        assert encoder.last_stats is not None
        whole = encoder.last_stats.batches
    keep_tuned(bundles["tiny-bert"], TUNED)
    with Encoder(bundles["tiny-bert"].directory) as encoder:
        assert encoder.settings == Settings(3, 2, 16, "tuned")
        assert np.array_equal(encoder.encode(TEXTS, role="query"), expected)
        assert encoder.last_stats is not None
        assert encoder.last_stats.batches > whole
        with pickle.loads(pickle.dumps(encoder)) as again:
            assert again.settings == encoder.settings


@pytest.mark.parametrize(
    ("options", "origin"),
    [
        ({"threads": 3}, "given"),
        ({"workers": 2}, "given"),
        ({"max_batch_tokens": 16}, "given"),
        ({"cache": False}, "default"),
        ({"precision": "fp16"}, "default"),
    ],
)
def test_an_encoder_of_another_kind_does_not(
    bundles: dict[str, Bundle], options: dict[str, Any], origin: str
) -> None:
    keep_tuned(bundles["tiny-bert"], TUNED)
    with Encoder(bundles["tiny-bert"], **options) as encoder:
        assert encoder.settings.origin == origin


def test_another_bundle_has_a_record_of_its_own(bundles: dict[str, Bundle]) -> None:
    keep_tuned(bundles["tiny-bert"], TUNED)
    assert find_tuned(bundles["tiny-bert"], "fp32") == TUNED
    assert find_tuned(bundles["tiny-mpnet"], "fp32") is None


@pytest.mark.parametrize(
    ("name", "value"), [("cpu_name", lambda: "another CPU"), ("VERSION", "99.0"), ("_FORMAT", 99)]
)
def test_another_machine_or_version_has_nothing_tuned(
    bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    keep_tuned(bundles["tiny-bert"], TUNED)
    monkeypatch.setattr(optimized, name, value)
    assert find_tuned(bundles["tiny-bert"], "fp32") is None


@pytest.mark.parametrize("now", [1, 2, 4])
def test_with_more_or_fewer_cpus_it_does_not_hold(
    bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch, now: int
) -> None:
    keep_tuned(bundles["tiny-bert"], TUNED)
    monkeypatch.setattr(tuned, "available_cpus", lambda: now)
    assert find_tuned(bundles["tiny-bert"], "fp32") is None
    assert read_tuned(bundles["tiny-bert"], "fp32") == TUNED


@pytest.mark.parametrize(
    "damage",
    [
        lambda _record: b"{",
        lambda record: record.replace(b"tiny-bert", b"\xff"),
        lambda record: record.replace(b'"workers": 2', b'"workers": 0'),
        lambda record: record.replace(b'"token_budget": 16', b'"token_budget": "16"'),
        lambda record: record.replace(b'"cpus"', b'"cores"'),
    ],
    ids=["no JSON", "no UTF-8", "no workers", "a number in quotes", "a field of another version"],
)
def test_a_damaged_record_is_as_good_as_none(bundles: dict[str, Bundle], damage) -> None:
    path = keep_tuned(bundles["tiny-bert"], TUNED)
    path.write_bytes(damage(path.read_bytes()))
    assert path.read_bytes() != msgspec.json.format(msgspec.json.encode(TUNED), indent=2)
    assert find_tuned(bundles["tiny-bert"], "fp32") is None


RECORD = b"""{
  "model": "tiny-bert",
  "precision": "fp32",
  "cpus": 3,
  "cpu": "a CPU",
  "onnxruntime": "1.31.1",
  "date": "2026-01-01",
  "workers": 2,
  "token_budget": 16,
  "gain": 1.1,
  "races": [
    [
      {
        "workers": 3,
        "token_budget": 512,
        "tokens_per_s": 100.0,
        "ratio": 1.0,
        "rounds": 5
      }
    ]
  ]
}"""


def test_a_record_has_the_bytes_that_version_0_1_0_wrote(bundles: dict[str, Bundle]) -> None:
    tuned = msgspec.structs.replace(TUNED, races=[[Measured(3, 512, 100.0, 1.0, 5)]])
    path = keep_tuned(bundles["tiny-bert"], tuned)
    assert path.read_bytes() == RECORD
    assert read_tuned(bundles["tiny-bert"], "fp32") == tuned
    assert json.loads(msgspec.json.encode(tuned.settings)) == {
        "threads": 3,
        "workers": 2,
        "token_budget": 16,
        "origin": "tuned",
    }


def test_tuning_again_replaces_and_forgetting_removes(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["tiny-bert"]
    assert forget_tuned(bundle, "fp32") is None
    path = keep_tuned(bundle, TUNED)
    later = msgspec.structs.replace(TUNED, cpus=8)
    assert keep_tuned(bundle, later) == path == tuned_path(bundle, "fp32")
    assert read_tuned(bundle, "fp32") == later
    assert forget_tuned(bundle, "fp32") == path
    assert list(path.parent.iterdir()) == []


def test_what_older_versions_kept_in_the_cache_is_read_until_it_is_tuned_again(
    bundles: dict[str, Bundle], home: Path
) -> None:
    bundle = bundles["tiny-bert"]
    path = keep_tuned(bundle, TUNED)
    assert path.parent == home / "tuned"
    former = home / "cache" / "tuned" / path.name
    former.parent.mkdir(parents=True)
    path.rename(former)
    assert find_tuned(bundle, "fp32") == TUNED
    later = msgspec.structs.replace(TUNED, workers=1)
    keep_tuned(bundle, later)
    assert read_tuned(bundle, "fp32") == later
    assert forget_tuned(bundle, "fp32") == path
    assert read_tuned(bundle, "fp32") is None


def test_removing_the_cache_keeps_what_was_tuned(bundles: dict[str, Bundle], home: Path) -> None:
    keep_tuned(bundles["tiny-bert"], TUNED)
    Encoder(bundles["tiny-bert"]).close()
    shutil.rmtree(home / "cache")
    assert find_tuned(bundles["tiny-bert"], "fp32") == TUNED
