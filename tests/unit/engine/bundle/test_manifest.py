"""The manifest grows, and bundles and indexes made before go on working."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from paritas.engine.bundle.directory import MANIFEST, Bundle
from paritas.engine.bundle.manifest import FORMAT, Contract, Module
from paritas.engine.encoder import Encoder
from paritas.engine.index import VectorIndex
from paritas.export.certificate.certify import verify
from paritas.registry import Role

# A bundle and an index over it, written by the last release of format 3.
BEFORE = Path(__file__).parents[2] / "format3"
FINGERPRINT = "2777143eddd8571d5e2ac2ac2cdda3523164f62a72505dc159ba5ed331bbfcdb"

CONTRACT = Contract("bert", 16, "mean", True, {"query": Role(12)})


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return shutil.copytree(BEFORE, tmp_path / "old")


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    change(manifest)
    manifest.pop("manifest_sha256", None)
    (bundle / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def as_format_2(manifest: dict[str, Any]) -> None:
    manifest["format"] = 2
    for variant in manifest["precisions"].values():
        manifest["files"].pop(variant.pop("equal_length_graph"), None)


def as_format_1(manifest: dict[str, Any]) -> None:
    as_format_2(manifest)
    manifest["format"] = 1
    for variant in manifest["precisions"].values():
        certificate = variant["certificate"]
        for name in ("by_length", "instructions", "retrieval"):
            certificate.pop(name)
        for figures in (certificate["figures"], *certificate["by_role"].values()):
            figures.pop("p1_cosine")


def test_a_bundle_of_format_3_has_the_fingerprint_it_had(old: Path) -> None:
    bundle = Bundle(old / "bundle")
    assert bundle.manifest.format == 3
    assert bundle.fingerprint == FINGERPRINT


def test_an_index_made_before_opens_its_bundle(old: Path) -> None:
    with Encoder(old / "bundle") as encoder, VectorIndex.load(old / "index") as index:
        index.check(encoder)
        text = "why is the sky blue"
        hit = index.search(encoder.encode([text], role="passage"), 1)[0][0]
        assert (hit.id, hit.text) == ("sky", text)
        assert hit.score == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("change", [lambda manifest: None, as_format_2, as_format_1], ids=["3", "2", "1"])
def test_a_bundle_of_an_older_format_is_read_and_verified(old: Path, change: Any) -> None:
    edit(old / "bundle", change)
    bundle = Bundle(old / "bundle")
    assert bundle.fingerprint == FINGERPRINT
    certificate = verify(bundle)["fp32"]
    assert certificate.figures.max_abs_diff < 1e-5
    vectors = Encoder(bundle).encode(["the ferry"], role="query")
    expected = Encoder(BEFORE / "bundle").encode(["the ferry"], role="query")
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-6)


def test_the_same_checkpoint_exported_today_has_the_fingerprint_it_had(
    tmp_path: Path, tiny_registry: Any
) -> None:
    from paritas.export import export_model
    from tests.unit.tiny import write_tiny_bert

    source = write_tiny_bert(tmp_path / "checkpoint", num_hidden_layers=1)
    bundle = export_model("tiny-bert", source=str(source), out=tmp_path / "b", registry=tiny_registry)
    assert bundle.manifest.format == FORMAT
    assert bundle.fingerprint == FINGERPRINT


def test_what_only_describes_may_be_added_without_a_new_format(old: Path) -> None:
    def grow(manifest: dict[str, Any]) -> None:
        for place in (manifest, manifest["source"], manifest["precisions"]["fp32"]["certificate"]):
            place["invention"] = {"of": ["a", "later", "release"]}

    edit(old / "bundle", grow)
    assert Bundle(old / "bundle").fingerprint == FINGERPRINT


@pytest.mark.parametrize(
    "change",
    [
        {"truncation_side": "left"},
        {"pool_prompt": False},
        {"modules": [Module("normalize")]},
        {"roles": {"query": Role(12, prompt="query: ")}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_new_field_counts_where_it_says_something(change: dict[str, Any]) -> None:
    assert msgspec.structs.replace(CONTRACT, **change).facts() != CONTRACT.facts()


def test_new_fields_are_no_facts_of_a_contract_that_uses_none() -> None:
    expected = {
        "network": "bert",
        "dim": 16,
        "pooling": "mean",
        "normalize": True,
        "roles": {"query": {"max_length": 12}},
        "settings": {},
    }
    assert CONTRACT.facts() == expected
