"""What a bundle promises: every file vouched for, no name that leads out of it, one fingerprint a model."""

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
from paritas.engine.bundle.lookup import find
from paritas.engine.encoder import Encoder
from paritas.errors import BundleError, RegistryError
from paritas.export import export_model
from paritas.registry import Model, Registry, Role
from tests.unit.files import change_byte
from tests.unit.tiny import write_tiny_bert

FP32 = ["tokenizer.json", "model.fp32.equal_length.onnx", "model.fp32.onnx.data"]
FP16 = ["tokenizer.json", "model.fp16.equal_length.onnx", "model.fp16.onnx.data"]
MASKED = {"fp32": "model.fp32.onnx", "fp16": "model.fp16.cpu.onnx"}
FILES = sorted({*FP32, *FP16, *MASKED.values(), "model.fp16.onnx", "probes.json", "reference.npy"})
LOADED = [("fp32", name) for name in FP32] + [("fp16", name) for name in FP16]


@pytest.fixture
def copy(bundles: dict[str, Bundle], tmp_path: Path) -> Path:
    """A bundle in both precisions that the test may break."""
    return shutil.copytree(bundles["tiny-bert"].directory, tmp_path / "bert.bundle")


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    change(manifest)
    manifest.pop("manifest_sha256", None)
    (bundle / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


# Files and digests.


def test_the_manifest_vouches_for_every_file_of_the_bundle(copy: Path) -> None:
    assert sorted(path.name for path in copy.iterdir()) == sorted([*FILES, MANIFEST])
    assert sorted(Bundle(copy).manifest.files) == FILES
    Bundle(copy).verify()


@pytest.mark.parametrize("name", FILES)
def test_verify_names_the_file_with_a_changed_byte(copy: Path, name: str) -> None:
    change_byte(copy / name)
    with pytest.raises(BundleError, match=f"/{name}: changed since the export .sha256 .*export the model"):
        Bundle(copy).verify()


@pytest.mark.parametrize("name", FILES)
def test_verify_names_the_truncated_file_and_its_sizes(copy: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[:-1])
    sizes = f"{len(whole) - 1} bytes, expected {len(whole)}"
    with pytest.raises(BundleError, match=f"/{name}: changed since the export .{sizes}"):
        Bundle(copy).verify()


@pytest.mark.parametrize("name", FILES)
def test_verify_names_the_missing_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"/{name}: missing from the bundle: .*; export it again"):
        Bundle(copy).verify()


@pytest.mark.parametrize(("precision", "name"), LOADED)
def test_an_encoder_refuses_a_changed_byte_in_any_file_it_loads(
    copy: Path, precision: Any, name: str
) -> None:
    change_byte(copy / name)
    with pytest.raises(BundleError, match=f"/{name}: changed since the export"):
        Encoder(copy, precision=precision)


@pytest.mark.parametrize(("precision", "name"), LOADED)
def test_an_encoder_refuses_a_truncated_file(copy: Path, precision: Any, name: str) -> None:
    (copy / name).write_bytes((copy / name).read_bytes()[:-1])
    with pytest.raises(BundleError, match=f"/{name}: changed since the export .* bytes, expected"):
        Encoder(copy, precision=precision)


@pytest.mark.parametrize(("precision", "name"), LOADED)
def test_an_encoder_refuses_a_bundle_without_a_file_it_loads(copy: Path, precision: Any, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"/{name}: missing from the bundle"):
        Encoder(copy, precision=precision)


def test_files_of_the_other_precision_may_be_left_out_where_they_are_not_needed(copy: Path) -> None:
    for name in set(FP16) - set(FP32):
        (copy / name).unlink()
    assert Encoder(copy, precision="fp32").encode(["the river"], role="query").shape == (1, 16)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_batches_of_one_length_and_padded_ones_load_a_graph_each(copy: Path, precision: Any) -> None:
    equal, masked = f"model.{precision}.equal_length.onnx", MASKED[precision]
    for missing, refused, served in ((equal, 0.0, 0.5), (masked, 0.5, 0.0)):
        data = (copy / missing).read_bytes()
        (copy / missing).unlink()
        with pytest.raises(BundleError, match=f"/{missing}: missing from the bundle"):
            Encoder(copy, precision=precision, max_padding=refused)
        Encoder(copy, precision=precision, max_padding=served).close()
        (copy / missing).write_bytes(data)


# The manifest.


def test_a_directory_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"not a bundle: cannot read manifest\.json"):
        Bundle(tmp_path)


@pytest.mark.parametrize(
    "data", [b"{", b"", b"\xff\xfe\x00manifest", b'{"format": 1} trailing', b"[" * 100_000]
)
def test_a_manifest_that_is_not_json_is_refused(copy: Path, data: bytes) -> None:
    (copy / MANIFEST).write_bytes(data)
    with pytest.raises(BundleError, match=r"manifest\.json: not JSON: .*; export the model again"):
        Bundle(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["contract"].update(stride=2), r"unknown field `stride` - at `\$\.contract`"),
        (lambda m: m["contract"].pop("pool_prompt"), "contract: pool_prompt is missing"),
        (lambda m: m["contract"].update(dim="16"), r"Expected `int`, got `str` - at `\$\.contract\.dim`"),
        (
            lambda m: m["contract"].update(pooling="cls+men"),
            r"pooling is 'cls\+men'; expected one of cls, .*",
        ),
        (lambda m: m["contract"].update(modules=[{"kind": "cnn"}]), "Invalid enum value 'cnn'"),
        (lambda m: m["contract"].update(modules=[{"kind": "dense"}]), r"no digest of modules\.npz"),
        (
            lambda m: m["precisions"]["fp32"].update(certificate=None),
            "fp32 has no certificate",
        ),
        (lambda m: m["contract"]["roles"].update(query={}), "missing required field `max_length`"),
        (lambda m: m["precisions"].update(int4={}), "Invalid enum value 'int4'"),
        (lambda m: m["precisions"].clear(), r"length >= 1 - at `\$\.precisions`"),
        (lambda m: m["files"].update({"tokenizer.json": 7}), r"Expected `object`, got `int` - at `\$\.files"),
        (lambda m: m.pop("source"), "missing required field `source`"),
        (lambda m: m.update(format="1"), r"Expected `int`, got `str` - at `\$\.format`"),
    ],
)
def test_a_manifest_of_another_form_is_refused_with_the_place(
    copy: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(copy, change)
    with pytest.raises(BundleError, match=rf"manifest\.json: .*{message}.*; export the model again"):
        Bundle(copy)


def test_a_manifest_that_is_no_object_is_refused(copy: Path) -> None:
    (copy / MANIFEST).write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(BundleError, match=r"manifest\.json: Expected `object`, got `array`"):
        Bundle(copy)


def test_a_bundle_of_a_newer_format_asks_for_a_newer_paritas_whatever_else_it_holds(copy: Path) -> None:
    edit(copy, lambda manifest: manifest.update(format=5, invention=True, contract={"pooling": "other"}))
    edit(copy, lambda manifest: manifest["tools"].update(paritas="0.9.1"))
    with pytest.raises(BundleError) as caught:
        Bundle(copy)
    expected = (
        "manifest.json: bundle format 5, this paritas reads up to 4; type: pip install 'paritas>=0.9.1'"
    )
    assert str(caught.value).endswith(expected)


def test_a_newer_bundle_that_does_not_name_its_maker_asks_for_the_newest(copy: Path) -> None:
    edit(copy, lambda manifest: manifest.update(format=5, tools=None))
    with pytest.raises(BundleError, match=r"type: pip install --upgrade paritas$"):
        Bundle(copy)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "a\0b", "x/"])
@pytest.mark.parametrize("place", ["files", "graph", "cpu_graph", "equal_length_graph", "weights"])
def test_a_name_that_climbs_out_of_the_bundle_is_refused(copy: Path, place: str, name: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        # With a digest, so that nothing but the name is wrong.
        manifest["files"][name] = {"sha256": "0" * 64, "size_bytes": 0}
        variant = manifest["precisions"]["fp32"]
        if place == "weights":
            variant["files"] = [name]
        elif place != "files":
            variant[place] = name

    edit(copy, change)
    with pytest.raises(BundleError, match=r"leads out of the bundle; expected a plain file name") as caught:
        Bundle(copy)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_a_digest_is_refused(copy: Path, name: str) -> None:
    edit(copy, lambda manifest: manifest["files"].pop(name))
    with pytest.raises(BundleError, match=f"no digest of {name}; export the model again"):
        Bundle(copy)


def test_a_missing_precision_says_what_to_type(copy: Path) -> None:
    edit(copy, lambda manifest: manifest["precisions"].pop("fp16"))
    command = "type: paritas export tiny-bert --precision fp32,fp16"
    with pytest.raises(BundleError, match=f"no precision 'fp16', it has fp32; {command}"):
        Encoder(copy, precision="fp16")


# The fingerprint.


def fingerprint(model: Model, checkpoint: Path, out: Path, precisions: tuple[Any, ...] = ("fp32",)) -> str:
    registry = Registry({"tiny-bert": model})
    return export_model(
        "tiny-bert", source=str(checkpoint), out=out, registry=registry, precisions=precisions
    ).fingerprint


def test_every_precision_of_a_bundle_has_its_fingerprint(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["tiny-bert"]
    for precision in ("fp32", "fp16"):
        assert Encoder(bundle.directory, precision=precision).fingerprint == bundle.fingerprint


@pytest.mark.parametrize("precisions", [("fp32",), ("fp16",), ("fp32", "fp16")])
def test_an_export_of_the_same_checkpoint_from_another_place_has_the_same_fingerprint(
    bundles: dict[str, Bundle],
    checkpoints: dict[str, Path],
    tiny_registry: Registry,
    tmp_path: Path,
    precisions: tuple[Any, ...],
) -> None:
    moved = shutil.copytree(checkpoints["tiny-bert"], tmp_path / "moved")
    again = fingerprint(tiny_registry["tiny-bert"], moved, tmp_path / "again", precisions)
    assert again == bundles["tiny-bert"].fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"pooling": "mean"},
        {"normalize": False},
        {"roles": {"query": Role(max_length=12), "passage": Role(max_length=24, pair=True)}},
        {"roles": {"query": Role(max_length=13), "passage": Role(24, pair=True, default_title="-")}},
        {"roles": {"query": Role(max_length=12)}},
    ],
    ids=["pooling", "normalize", "default_title", "max_length", "role"],
)
def test_a_contract_of_its_own_has_a_fingerprint_of_its_own(
    bundles: dict[str, Bundle],
    checkpoints: dict[str, Path],
    tiny_registry: Registry,
    tmp_path: Path,
    change: dict[str, Any],
) -> None:
    model = msgspec.structs.replace(tiny_registry["tiny-bert"], **change)
    other = fingerprint(model, checkpoints["tiny-bert"], tmp_path / "other")
    assert other != bundles["tiny-bert"].fingerprint


def test_other_weights_have_another_fingerprint(
    bundles: dict[str, Bundle], tiny_registry: Registry, tmp_path: Path
) -> None:
    other = write_tiny_bert(tmp_path / "other", seed=1)
    assert (
        fingerprint(tiny_registry["tiny-bert"], other, tmp_path / "other.bundle")
        != bundles["tiny-bert"].fingerprint
    )


def test_another_tokenizer_has_another_fingerprint(
    bundles: dict[str, Bundle], checkpoints: dict[str, Path], tiny_registry: Registry, tmp_path: Path
) -> None:
    other = shutil.copytree(checkpoints["tiny-bert"], tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"][0]["single_word"] = True
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    assert (
        fingerprint(tiny_registry["tiny-bert"], other, tmp_path / "other.bundle")
        != bundles["tiny-bert"].fingerprint
    )


# Where bundles are found.


def test_a_copied_bundle_works_where_there_is_no_store_and_no_checkpoint(
    copy: Path, bert: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARITAS_HOME", str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)
    texts = ["why is the sky blue", "the ferry leaves in the morning"]
    moved = Encoder("./bert.bundle")
    assert moved.fingerprint == bert.fingerprint
    np.testing.assert_array_equal(moved.encode(texts, role="query"), bert.encode(texts, role="query"))
    assert [path.name for path in (tmp_path / "nowhere").iterdir()] == ["cache"]


def test_find_returns_the_stores_bundle_of_an_exported_id(copy: Path, home: Path) -> None:
    shutil.copytree(copy, home / "bundles" / "tiny-bert")
    assert find("tiny-bert") == home / "bundles" / "tiny-bert"


def test_find_prefers_the_exported_id_and_dot_slash_means_the_directory(
    copy: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(copy, home / "bundles" / "tiny-bert")
    (tmp_path / "tiny-bert").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find("tiny-bert") == home / "bundles" / "tiny-bert"
    assert find("./tiny-bert") == Path("tiny-bert")


def test_find_takes_a_directory_as_string_or_path(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find(copy) == copy
    assert find(str(copy)) == copy
    assert find("bert.bundle") == Path("bert.bundle")


def test_find_names_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"none\.bundle: no such bundle directory"):
        find(tmp_path / "none.bundle")


def test_find_offers_the_nearest_name_for_an_unknown_id() -> None:
    with pytest.raises(RegistryError, match=r"'all-MiniLM-L6-v3'; did you mean 'all-MiniLM-L6-v2'\?"):
        find("all-MiniLM-L6-v3")


def test_find_says_what_to_type_for_an_id_that_was_not_exported() -> None:
    with pytest.raises(BundleError, match="not exported yet; type: paritas export all-MiniLM-L6-v2"):
        find("all-MiniLM-L6-v2")


def test_a_folder_of_the_same_name_does_not_hide_an_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a clone of the hub's repository in the working directory."""
    (tmp_path / "all-MiniLM-L6-v2").mkdir()
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="not exported yet"):
        find("all-MiniLM-L6-v2")
    assert find("./all-MiniLM-L6-v2") == Path("all-MiniLM-L6-v2")
    assert find("mine") == Path("mine")
