"""What there is for other frameworks, and what is said where a framework is missing or too old."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from paritas import integrations
from paritas.errors import MissingExtraError
from paritas.integrations import INTEGRATIONS, Integration

ROOT = Path(__file__).parents[3]
SHARED = {"__init__", "dual_encoder", "prompts"}
LANGCHAIN = next(one for one in INTEGRATIONS if one.module == "langchain")


def test_every_module_is_listed_with_names_that_it_has() -> None:
    folder = ROOT / "src" / "paritas" / "integrations"
    assert {path.stem for path in folder.glob("*.py")} - SHARED == {one.module for one in INTEGRATIONS}
    for one in INTEGRATIONS:
        source = (folder / f"{one.module}.py").read_text(encoding="utf-8")
        assert all(re.search(rf"^(class|def) {name}\b", source, re.MULTILINE) for name in one.names), one


def test_the_page_has_each_of_them_and_the_release() -> None:
    page = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
    for one in INTEGRATIONS:
        (row,) = [line for line in page.splitlines() if line.startswith("| [") and f"`{one.module}." in line]
        assert all(f"`{one.module}.{name}`" in page or name == "ParitasModule" for name in one.names), row
        assert f"| {one.tested} |" in row or not one.tested


def test_the_package_imports_no_framework() -> None:
    code = "import sys, paritas.integrations; print({'torch', 'numpy', 'langchain_core'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_missing_framework_is_named_with_what_to_type() -> None:
    with pytest.raises(
        MissingExtraError, match=r"langchain-core is not installed; type: pip install 'langchain"
    ):
        importlib.import_module("paritas.integrations.langchain")


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("0.3.9", "langchain-core is 0.3.9; expected 1.0 or later; type: pip install"),
        ("1.0", None),
        ("1.8.dev", None),
    ],
)
def test_an_old_framework_is_refused(monkeypatch: pytest.MonkeyPatch, version: str, said: str | None) -> None:
    monkeypatch.setattr(metadata, "version", lambda _name: version)
    if said is None:
        LANGCHAIN.check()
        return
    with pytest.raises(MissingExtraError, match=said):
        LANGCHAIN.check()


def test_a_version_by_hand_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda _name: "built-here")
    LANGCHAIN.check()


def test_what_needs_no_framework_is_not_checked() -> None:
    assert isinstance(INTEGRATIONS[0], Integration)
    assert [one.module for one in INTEGRATIONS if not one.distribution] == ["sentence_encoder"]
    assert integrations.__all__ == ["INTEGRATIONS", "Integration"]
