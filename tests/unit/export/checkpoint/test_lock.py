"""The digests that a first export records and later ones are held to."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from paritas.errors import SourceError
from paritas.export.checkpoint import lock
from paritas.export.checkpoint.sources import open_checkpoint, pin
from paritas.registry import Model, PackageSource
from tests.unit.export.checkpoint.checkpoints import NAME, install, model_of, opened, refusal
from tests.unit.files import digests_of
from tests.unit.tiny import write_tiny_bert


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model whose package is installed and whose digests nobody knows yet."""
    write_tiny_bert(tmp_path / "site" / "paritas_test")
    install(tmp_path / "site", "paritas-test", {}, monkeypatch)
    return model_of(package=PackageSource(["paritas-test"], "paritas_test"))


def exported(model: Model, name: str = NAME) -> None:
    """Do with the source what a successful export does."""
    with open_checkpoint(name, model, "package") as found:
        pin(name, found)


def test_pins_record_the_first_export_and_hold_the_next_to_it(
    packaged: Model, tmp_path: Path, home: Path
) -> None:
    tiny = tmp_path / "site" / "paritas_test"
    first = digests_of(tiny)
    exported(packaged)
    exported(packaged, "another")
    pins = {"tiny@1.0": first, "another@1.0": first}
    assert json.loads((home / "pins.json").read_text()) == pins
    assert [path.name for path in home.iterdir()] == ["pins.json"]
    write_tiny_bert(tiny, seed=1)
    message = refusal(packaged, "package")
    for part in ("model.safetensors", first["model.safetensors"], digests_of(tiny)["model.safetensors"]):
        assert part in message
    assert json.loads((home / "pins.json").read_text()) == pins


@pytest.mark.parametrize(
    "text", ["{", "", "[]", "null", '{"tiny@1.0": 3}', '{"tiny@1.0": {"config.json": ', "\ufeff{}"]
)
def test_damaged_pins_are_refused_and_kept(packaged: Model, home: Path, text: str) -> None:
    home.mkdir()
    (home / "pins.json").write_text(text, encoding="utf-8")
    message = refusal(packaged, "package")
    assert str(home / "pins.json") in message
    assert "restore or delete it" in message
    assert (home / "pins.json").read_text(encoding="utf-8") == text


def test_pins_that_cannot_be_written_are_a_source_error(packaged: Model, home: Path) -> None:
    home.write_text("a file where the folder should be")
    with pytest.raises(SourceError, match=r"pins\.json: cannot be written"):
        exported(packaged)


def test_what_was_not_exported_is_not_held_against_its_repair(
    packaged: Model, tmp_path: Path, home: Path
) -> None:
    opened(packaged, "package")
    assert not home.exists()
    write_tiny_bert(tmp_path / "site" / "paritas_test", seed=1)
    exported(packaged)


def test_directories_record_no_pins(tiny: Path, home: Path) -> None:
    for seed in (0, 1):
        write_tiny_bert(tiny, seed=seed)
        with open_checkpoint(NAME, model_of(), str(tiny)) as found:
            pin(NAME, found)
    assert not home.exists()


def test_first_exports_at_the_same_moment_lose_no_pin(home: Path, tmp_path: Path) -> None:
    names = [f"model-{number}" for number in range(200)]
    with ThreadPoolExecutor(16) as pool:
        for name in names:
            pool.submit(lock.record, name, "1.0", {"config.json": name}, tmp_path)
    pins = json.loads((home / "pins.json").read_text(encoding="utf-8"))
    assert pins == {f"{name}@1.0": {"config.json": name} for name in names}
    assert [path.name for path in home.iterdir()] == ["pins.json"]


def test_two_first_exports_of_one_revision_record_one_and_refuse_the_other(
    home: Path, tmp_path: Path
) -> None:
    def export(content: str) -> str | None:
        try:
            lock.record("tiny", "1.0", {"config.json": content}, tmp_path)
        except SourceError:
            return None
        return content

    with ThreadPoolExecutor(16) as pool:
        accepted = set(pool.map(export, [str(number % 7) for number in range(100)])) - {None}
    assert len(accepted) == 1
    pins = json.loads((home / "pins.json").read_text(encoding="utf-8"))
    assert pins == {"tiny@1.0": {"config.json": accepted.pop()}}
