"""The certificate compares tokens too: an engine that reads a tokenizer otherwise gets no bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from paritas.engine.bundle.digests import digest
from paritas.engine.bundle.directory import MANIFEST, Bundle
from paritas.engine.bundle.manifest import FileEntry
from paritas.errors import ParityError
from paritas.export import build, export_model
from paritas.export.certificate.certify import verify
from paritas.export.checkpoint.facts import read_facts
from paritas.registry import Registry

Change = Callable[[dict[str, Any]], object]

CHANGES: dict[str, Change] = {
    "case": lambda t: t["normalizer"].update(lowercase=False),
    "accents": lambda t: t["normalizer"].update(strip_accents=False),
    "Chinese characters": lambda t: t["normalizer"].update(handle_chinese_chars=False),
    "a special token": lambda t: t["added_tokens"].pop(),
    "a flag": lambda t: t["added_tokens"][-1].update(lstrip=True, rstrip=True, single_word=True),
    "an added token": lambda t: t["added_tokens"].append(
        {**t["added_tokens"][0], "id": 200, "content": "ferry at", "special": False}
    ),
    "token types": lambda t: t["post_processor"]["pair"][3]["Sequence"].update(type_id=0),
    "the last token": lambda t: t["post_processor"]["single"].pop(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_tokenizer_that_is_misread_makes_no_bundle(
    name: str,
    tmp_path: Path,
    checkpoints: dict[str, Path],
    tiny_registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def misread(directory: Path) -> Any:
        facts = read_facts(directory)
        stated = json.loads(facts.tokenizer.content)
        CHANGES[name](stated)
        return replace(facts, tokenizer=replace(facts.tokenizer, content=json.dumps(stated).encode()))

    monkeypatch.setattr(build, "read_facts", misread)
    with pytest.raises(
        ParityError, match=r"^tiny-bert: role \w+, .*: the engine has token (ids|types) .* at place"
    ):
        export_model(
            "tiny-bert", source=str(checkpoints["tiny-bert"]), out=tmp_path / "b", registry=tiny_registry
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_truncation_that_is_misread_makes_no_bundle(
    side: str, tmp_path: Path, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shutil.copytree(checkpoints["tiny-bert"], tmp_path / "checkpoint")
    other = {"left": "right", "right": "left"}[side]
    (source / "tokenizer_config.json").write_text(json.dumps({"truncation_side": side}), encoding="utf-8")

    def misread(directory: Path) -> Any:
        facts = read_facts(directory)
        return replace(facts, tokenizer=replace(facts.tokenizer, truncation_side=other))

    monkeypatch.setattr(build, "read_facts", misread)
    with pytest.raises(ParityError, match="the engine has token ids"):
        export_model(source, pooling="mean", out=tmp_path / "b")


def test_verify_compares_tokens_again(tmp_path: Path, bundles: dict[str, Bundle]) -> None:
    directory = shutil.copytree(bundles["tiny-bert"].directory, tmp_path / "b")
    path = directory / "tokenizer.json"
    stated = json.loads(path.read_text(encoding="utf-8"))
    stated["normalizer"]["lowercase"] = False
    path.write_text(json.dumps(stated), encoding="utf-8")
    manifest = Bundle(directory).manifest
    manifest.files["tokenizer.json"] = FileEntry(sha256=digest(path), size_bytes=path.stat().st_size)
    (directory / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(
        ParityError, match=r"^tiny-bert: role query, .*: the engine has token ids .* to transformers"
    ):
        verify(Bundle(directory))


def test_the_second_reading_is_not_the_engines(
    tmp_path: Path, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without transformers too, where a tokenizer in Python stands in."""
    from paritas.export.second_reading.files import open_wordpiece

    monkeypatch.setattr(build, "open_second_reading", open_wordpiece)
    bundle = export_model(checkpoints["tiny-bert"], pooling="mean", out=tmp_path / "b")
    assert bundle.variant("fp32").certified.tokens == "WordPiece in Python"
    assert verify(bundle)["fp32"].tokens == "WordPiece in Python"
