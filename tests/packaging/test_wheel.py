"""What is shipped: one top-level package, light to import, that says which extra is missing."""

from __future__ import annotations

import ast
import json
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import paritas
from tests.packaging.conftest import PACKAGED, ROOT, output, run

HEAVY = ["numpy", "onnxruntime", "tokenizers", "usearch", "torch", "onnx", "yaml"]


# The archives.


def test_the_wheel_holds_one_package_and_its_metadata(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    metadata = f"paritas-{paritas.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"paritas", metadata}
    assert f"{metadata}/licenses/LICENSE" in names


def test_the_wheel_holds_every_module_the_registry_and_the_type_marker(wheel: Path) -> None:
    places = {"src/paritas": "paritas", "examples": "paritas/examples"} | {
        folder: f"paritas/{folder}" for folder in ("engine", "export")
    }
    expected = {
        f"{inside}/{path.relative_to(ROOT / folder)}"
        for folder, inside in places.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    expected |= {"paritas/models_registry.yaml", "paritas/py.typed", "paritas/serving/page/search.html"}
    expected |= {f"paritas/export/texts/{name}.txt" for name in ("calibration", "certificate")}
    expected.add("paritas/kernels.so")
    with zipfile.ZipFile(wheel) as archive:
        assert expected == {name for name in archive.namelist() if name.startswith("paritas/")}
        packed = archive.read("paritas/models_registry.yaml")
    assert packed == (ROOT / "models_registry.yaml").read_bytes()


def test_the_wheel_holds_no_tests_and_no_benchmarks(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if "test" in name.lower() or "bench" in name] == []


def test_the_source_distribution_holds_what_tests_and_a_build_need(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "setup.py", "models_registry.yaml", "LICENSE", "Makefile"}
    wanted |= {"kernels_bench/bench_pooling.py", "kernels_bench/results/README.md"}
    wanted |= {"src/paritas/py.typed", "tests/conftest.py", "tests/cpus/emulators.sh", "docs/int8.md"}
    wanted |= {"CONTRIBUTING.md", "tests/clients/clients.txt", "tests/native/check.c"}
    wanted |= {f"native/{path.name}" for path in (ROOT / "native").iterdir() if path.is_file()}
    assert wanted - names == set()
    made = [name for name in names if name.endswith((".pyc", ".onnx", ".safetensors"))]
    assert [name for name in made if not name.startswith("tests/unit/format3/")] == []


# An environment without extras.


def test_importing_paritas_loads_nothing_heavy(bare: Path, tmp_path: Path) -> None:
    code = "import json, sys, paritas; print(json.dumps([paritas.__file__, *sys.modules]))"
    file, *loaded = json.loads(output([bare / "python", "-I", "-c", code], cwd=tmp_path))
    assert Path(file).is_relative_to(bare.parent)
    assert {name.partition(".")[0] for name in loaded} & {*HEAVY, "click", "msgspec", "tqdm"} == set()


def test_models_and_help_work_without_any_extra(bare: Path, tmp_path: Path) -> None:
    environment = {"PARITAS_HOME": str(tmp_path)}
    models = json.loads(output([bare / "paritas", "models", "--json"], cwd=tmp_path, env=environment))
    assert "all-MiniLM-L6-v2" in {row["model"] for row in models}
    for arguments in (["--help"], ["--version"], ["export", "--help"], ["search", "--help"]):
        assert "paritas" in output([bare / "paritas", *arguments], cwd=tmp_path, env=environment)


def test_the_encoder_without_onnxruntime_says_what_to_type(bare: Path, tmp_path: Path) -> None:
    code = (
        "import paritas\n"
        "try:\n"
        "    from paritas import Encoder\n"
        "except paritas.errors.MissingExtraError as error:\n"
        "    print(error)\n"
    )
    said = output([bare / "python", "-I", "-c", code], cwd=tmp_path)
    assert said.startswith("onnxruntime is not installed; type: pip install 'paritas[cpu]'")


def test_the_doctor_without_onnxruntime_says_so_beside_all_else(bare: Path, tmp_path: Path) -> None:
    result = run([bare / "paritas", "doctor"], cwd=tmp_path, env={"PARITAS_HOME": str(tmp_path / "home")})
    assert (result.returncode, result.stderr) == (2, "")
    assert result.stdout.startswith("CPU ")
    assert "error: onnxruntime is not installed\n  type: pip install 'paritas[cpu]'" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "all-MiniLM-L6-v2"], "pip install 'paritas[cpu,export]'"),
        (["verify", "./some.bundle"], "pip install 'paritas[cpu]'"),
        (["search", "some.index", "query"], "pip install 'paritas[cpu]'"),
        (["tune", "./some.bundle"], "pip install 'paritas[cpu]'"),
        (["serve", "./some.bundle"], "pip install 'paritas[cpu,serve]'"),
        (["encode", "-", "--model", "./some.bundle", "--out", "out"], "pip install 'paritas[cpu,bulk]'"),
    ],
    ids=["export", "verify", "search", "tune", "serve", "encode"],
)
def test_a_command_without_its_extra_ends_with_2_and_says_what_to_type(
    bare: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "home").mkdir()
    environment = {"PARITAS_HOME": str(tmp_path / "home")}
    result = run([bare / "paritas", *arguments], cwd=tmp_path, env=environment)
    assert result.returncode == 2
    assert result.stderr.startswith("paritas: error: ")
    assert f"is not installed; type: {message}" in result.stderr
    assert result.stderr.count("\n") == 1
    assert list((tmp_path / "home").iterdir()) == []


# This environment.


def test_two_onnxruntimes_are_refused_by_name_with_what_to_type(tmp_path: Path) -> None:
    for name in ("onnxruntime", "onnxruntime_gpu"):
        folder = tmp_path / f"{name}-1.30.0.dist-info"
        folder.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.30.0\n"
        (folder / "METADATA").write_text(text, encoding="utf-8")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from paritas.errors import MissingExtraError\n"
        "try:\n"
        "    from paritas import Encoder\n"
        "except MissingExtraError as error:\n"
        "    print(error)\n"
        "print('onnxruntime' in sys.modules)\n"
    )
    message, loaded = output([sys.executable, "-c", code]).splitlines()
    assert message.startswith("onnxruntime and onnxruntime-gpu are both installed")
    assert "type: pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'paritas[cpu]'" in message
    assert loaded == "False"


def test_the_engine_loads_nothing_of_the_export_and_no_framework() -> None:
    paths = [path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / "engine").rglob("[!_]*.py"))]
    names = [".".join(["paritas", *path.parts]) for path in paths]
    code = (
        "import importlib, json, sys\n"
        f"for name in {names}: importlib.import_module(name)\n"
        "print(json.dumps(list(sys.modules)))\n"
    )
    loaded = set(json.loads(output([sys.executable, "-c", code])))
    assert set(names) <= loaded
    foreign = ("torch", "transformers", "optimum", "onnx", "safetensors", "sentence_transformers")
    foreign = (*foreign, "paritas.export", "kernels_bench", "paritas.cli", "huggingface_hub")
    assert [name for name in foreign if name in loaded] == []


def imported(path: Path) -> set[str]:
    """The modules a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # `from paritas import export` imports a module too.
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imports_of(path: Path, *packages: str) -> list[str]:
    """What a file imports of some packages."""
    return sorted(name for name in imported(path) if f"{name}.".startswith(tuple(f"{p}." for p in packages)))


SHIPPED = [path for folder in PACKAGED for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", SHIPPED, ids=[str(path.relative_to(ROOT)) for path in SHIPPED])
def test_no_module_is_imported_by_the_name_of_its_folder(path: Path) -> None:
    # From the root of the repository `import engine` works, and makes a second copy of every class.
    assert imports_of(path, *PACKAGED) == []


def test_nothing_shipped_imports_the_benchmarks_or_the_tests() -> None:
    assert {path: names for path in SHIPPED if (names := imports_of(path, "kernels_bench", "tests"))} == {}


def test_the_engine_imports_neither_export_nor_command_line() -> None:
    users = sorted((ROOT / "engine").rglob("*.py"))
    assert {
        path: found for path in users if (found := imports_of(path, "paritas.export", "paritas.cli"))
    } == {}


@pytest.mark.parametrize("order", [("usearch.index", "paritas"), ("paritas", "usearch.index")])
def test_usearch_and_onnxruntime_get_along_whichever_is_imported_first(order: tuple[str, str]) -> None:
    statements = {
        "usearch.index": "import usearch.index",
        "paritas": "from paritas import Encoder, VectorIndex",
    }
    code = "; ".join(statements[name] for name in order)
    result = run([sys.executable, "-c", f"{code}; print('alive')"])
    # A crash ends with a signal, which subprocess reports as a negative code.
    assert (result.returncode, result.stdout) == (0, "alive\n"), result.stderr


def test_onnxruntime_reports_nothing_to_its_maker_unless_the_user_asks_for_it() -> None:
    code = "import os, paritas.engine.runtime.session; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert output([sys.executable, "-c", code], env={"ORT_DISABLE_TELEMETRY": "0"}) == "0\n"
    unset = f"import os; os.environ.pop('ORT_DISABLE_TELEMETRY', None); {code}"
    assert output([sys.executable, "-c", unset]) == "1\n"
