"""An export puts a whole bundle in its place, or leaves the place as it was."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from paritas.engine.bundle.directory import Bundle
from paritas.errors import ExportError, ParityError
from paritas.export import export_model
from paritas.registry import Registry
from paritas.workplace import put
from tests.unit.export.entries import entry
from tests.unit.export.faults import ONE_WEIGHT, let_native_be_wrong
from tests.unit.files import contents
from tests.unit.tiny import write_tiny_bert


def test_a_failed_export_leaves_the_former_bundle_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bundles: dict[str, Bundle],
    checkpoints: dict[str, Path],
    tiny_registry: Registry,
) -> None:
    out = tmp_path / "out"
    shutil.copytree(bundles["tiny-bert"].directory, out)
    before = contents(out)
    let_native_be_wrong(monkeypatch, ONE_WEIGHT)
    with pytest.raises(ParityError, match="tiny-bert fp32"):
        export_model("tiny-bert", source=str(checkpoints["tiny-bert"]), out=out, registry=tiny_registry)
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_successful_export_replaces_the_former_bundle(
    tmp_path: Path, bundles: dict[str, Bundle], checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    out = tmp_path / "out"
    shutil.copytree(bundles["tiny-mpnet"].directory, out)
    export_model("tiny-bert", source=str(checkpoints["tiny-bert"]), out=out, registry=tiny_registry)
    bundle = Bundle(out)
    bundle.verify()
    assert bundle.manifest.model == "tiny-bert"
    assert list(out.glob("*fp16*")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_export_leaves_nothing(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    def interrupt(step: str) -> None:
        if step.startswith("certified"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_model(
            "tiny-bert",
            source=str(checkpoints["tiny-bert"]),
            out=tmp_path / "out",
            registry=tiny_registry,
            report=interrupt,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("width", "limit"),
    [
        pytest.param(16, 2_000, id="tokenizer"),
        pytest.param(16, 6_000, id="last bytes of the weights"),
        pytest.param(16, 20_000, id="graph"),
        pytest.param(128, 300_000, id="large weights"),
    ],
)
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, width: int, limit: int) -> None:
    checkpoint = write_tiny_bert(tmp_path / "checkpoint", hidden_size=width, intermediate_size=4 * width)
    entry(tmp_path, dim=width)
    code = (
        "import resource, sys\n"
        "from paritas.errors import ExportError\n"
        "from paritas.export import export_model\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))\n"
        "try:\n"
        "    export_model('mine', source=sys.argv[2], precisions=('fp32', 'fp16'), out=sys.argv[3])\n"
        "except ExportError as error:\n"
        "    print(error)\n"
    )
    out = tmp_path / "bundles" / "mine"
    done = subprocess.run(
        [sys.executable, "-c", code, str(limit), str(checkpoint), str(out)],
        env={**os.environ, "PARITAS_REGISTRY": str(tmp_path / "entry.yaml")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"{out}: cannot be written: ")
    assert "File too large" in done.stdout
    assert done.stderr == ""
    assert list(out.parent.iterdir()) == []


def test_a_file_is_not_replaced(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    with pytest.raises(ExportError, match="out: is a file; --out names the bundle's directory"):
        export_model("tiny-bert", source=str(checkpoints["tiny-bert"]), out=out, registry=tiny_registry)
    assert out.read_text() == "mine"


def test_a_directory_of_other_files_is_not_replaced(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"out: holds other files and no bundle \(.*\); remove"):
        export_model("tiny-bert", source=str(checkpoints["tiny-bert"]), out=out, registry=tiny_registry)
    assert contents(out) == {"thesis.txt": b"mine"}


@pytest.mark.parametrize("manifest", ["{}", "whole"])
def test_what_lies_beside_a_manifest_is_not_deleted(
    tmp_path: Path,
    bundles: dict[str, Bundle],
    checkpoints: dict[str, Path],
    tiny_registry: Registry,
    manifest: str,
) -> None:
    out = tmp_path / "out"
    if manifest == "whole":
        shutil.copytree(bundles["tiny-bert"].directory, out)
    else:
        out.mkdir()
        (out / "manifest.json").write_text(manifest)
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"holds (other files and no bundle|thesis\.txt beside the bundle)"):
        export_model("tiny-bert", source=str(checkpoints["tiny-bert"]), out=out, registry=tiny_registry)
    assert (out / "thesis.txt").read_text() == "mine"


def test_a_link_to_a_bundle_stays_a_link(
    tmp_path: Path, bundles: dict[str, Bundle], checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    shutil.copytree(bundles["tiny-bert"].directory, tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    export_model(
        "tiny-bert", source=str(checkpoints["tiny-bert"]), out=tmp_path / "link", registry=tiny_registry
    )
    assert (tmp_path / "link").is_symlink()
    assert list(Bundle(tmp_path / "link").manifest.precisions) == ["fp32"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_an_empty_directory_is_filled(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    (tmp_path / "out").mkdir()
    bundle = export_model(
        "tiny-bert", source=str(checkpoints["tiny-bert"]), out=tmp_path / "out", registry=tiny_registry
    )
    bundle.verify()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_place_below_a_file_cannot_be_written(
    tmp_path: Path, checkpoints: dict[str, Path], tiny_registry: Registry
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExportError, match="out: cannot be written"):
        export_model(
            "tiny-bert",
            source=str(checkpoints["tiny-bert"]),
            out=tmp_path / "file" / "out",
            registry=tiny_registry,
        )


def test_exports_of_one_place_at_the_same_moment_all_end_and_leave_one_bundle(tmp_path: Path) -> None:
    out = tmp_path / "out"
    works = [tmp_path / f".out.partial-{number}" for number in range(64)]
    for work in works:
        work.mkdir()
        (work / "manifest.json").write_text(work.name, encoding="utf-8")
    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(put, work, out) for work in works]:
            done.result()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "manifest.json").read_text(encoding="utf-8") in {work.name for work in works}
