"""A directory as the source, and the digests that every source is held to."""

from __future__ import annotations

from pathlib import Path

import pytest

from paritas.engine.bundle.directory import Bundle
from paritas.errors import SourceError
from paritas.export.checkpoint.sources import open_checkpoint, open_same_checkpoint
from paritas.export.networks.weights import open_network
from paritas.registry import (
    Registry,
)
from tests.unit.export.checkpoint.checkpoints import FILES, NAME, model_of, opened, refusal, shard
from tests.unit.files import contents, digests_of, sha256
from tests.unit.tiny import BERT, write_tiny_bert


def test_directory_is_used_where_it_lies(tiny: Path, home: Path) -> None:
    with open_checkpoint(NAME, model_of(), str(tiny)) as checkpoint:
        assert checkpoint.directory == tiny
        assert (checkpoint.kind, checkpoint.location, checkpoint.revision) == ("directory", "tiny", None)
        assert checkpoint.digests == digests_of(tiny)
    assert contents(tiny).keys() == set(FILES)


def test_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    message = refusal(model_of(), str(tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere") in message
    assert "expected hub, package or a directory" in message


@pytest.mark.parametrize("file", FILES)
def test_directory_without_a_file_names_it(tiny: Path, file: str) -> None:
    (tiny / file).unlink()
    message = refusal(model_of(), str(tiny))
    assert file in message
    assert str(tiny) in message


def test_directory_without_a_shard_names_it(tiny: Path) -> None:
    shard(tiny)
    (tiny / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors missing" in refusal(model_of(), str(tiny))


def test_directory_file_that_cannot_be_read_is_a_source_error(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("paritas.export.checkpoint.sources.digest", denied)
    message = refusal(model_of(), str(tiny))
    assert "Permission denied" in message


def test_directory_file_that_is_not_the_registrys_is_refused(tiny: Path) -> None:
    message = refusal(model_of(digests={"model.safetensors": "0" * 64}), str(tiny))
    for part in (
        str(tiny / "model.safetensors"),
        "0" * 64,
        digests_of(tiny)["model.safetensors"],
        "--registry",
    ):
        assert part in message


def test_every_digest_of_the_registry_is_checked(tiny: Path) -> None:
    (tiny / "1_Pooling").mkdir()
    (tiny / "1_Pooling" / "config.json").write_bytes(b"{}")
    digests = digests_of(tiny) | {"1_Pooling/config.json": sha256(b"{}")}
    assert opened(model_of(digests=digests), str(tiny)).digests == digests
    for file in digests:
        message = refusal(model_of(digests=digests | {file: "0" * 64}), str(tiny))
        assert f"{tiny / file}: sha256 {digests[file]}" in message
        assert "0" * 64 in message


def test_weights_in_another_file_than_the_registrys_are_refused(tiny: Path) -> None:
    # The configuration's digest is right; it must not vouch for weights that nobody vouches for.
    digests = {"model.safetensors": digests_of(tiny)["model.safetensors"]}
    config = {"config.json": digests_of(tiny)["config.json"]}
    shard(tiny)
    for known in (digests, digests | config):
        message = refusal(model_of(digests=known), str(tiny))
        assert "model.safetensors" in message
        assert "model-00001-of-00002.safetensors" in message
    (tiny / "special_tokens_map.json").write_bytes(b"{}")
    for known in (config, {"special_tokens_map.json": sha256(b"{}")}):  # which say nothing of weights
        assert opened(model_of(digests=known), str(tiny)).kind == "directory"


def test_the_checkpoint_a_bundle_was_made_from_is_found_again(
    bundles: dict[str, Bundle], checkpoints: dict[str, Path], tiny_registry: Registry, tmp_path: Path
) -> None:
    bundle, directory = bundles["tiny-bert"], checkpoints["tiny-bert"]
    with open_same_checkpoint(bundle, tiny_registry, str(directory)) as found:
        assert found == directory
    other = tmp_path / "other"
    write_tiny_bert(other, seed=1)
    with (
        pytest.raises(SourceError, match="the bundle was made from"),
        open_same_checkpoint(bundle, tiny_registry, str(other)),
    ):
        pass
    with (
        pytest.raises(SourceError, match="no such directory; expected hub, package or a directory"),
        open_same_checkpoint(bundle, tiny_registry, "nowhere"),
    ):
        pass


def test_tiny_checkpoints_differ_by_their_seed_alone(tiny: Path, tmp_path: Path) -> None:
    same, other = write_tiny_bert(tmp_path / "same"), write_tiny_bert(tmp_path / "other", seed=1)
    assert digests_of(same) == digests_of(tiny)
    assert {file for file in FILES if digests_of(other)[file] != digests_of(tiny)[file]} == {
        "model.safetensors"
    }
    assert open_network(tiny)[0].vocab_size == BERT["vocab_size"]
