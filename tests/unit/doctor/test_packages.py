"""Packages as the doctor sees them: what they ask of each other, by their own metadata."""

from __future__ import annotations

from importlib import metadata

import pytest

from paritas.doctor import examine, packages

NEEDS = {
    "paritas": ["numpy>=2.0", "usearch<2.26.2,>=2.19", 'transformers<4.58; extra == "optimum"'],
    "optimum-onnx 0.1.0": [
        "transformers<4.58.0,>=4.36",
        'onnxruntime-gpu; extra == "gpu"',
        "no requirement at all",
    ],
    "optimum-onnx 0.2.0": ["transformers>=5"],
}
USEARCH = "pip install 'usearch<2.26.2,>=2.19'"
TRANSFORMERS = "pip install 'transformers<4.58.0,>=4.36'"


@pytest.mark.parametrize(
    ("versions", "mend"),
    [
        ({"usearch": "2.26.1"}, None),
        ({"usearch": "2.19.15"}, None),
        ({"usearch": "2.26.2"}, USEARCH),
        ({"usearch": "2.27.0+local"}, USEARCH),
        ({"usearch": "3.0"}, USEARCH),
        ({"usearch": "built by hand"}, None),
        ({"numpy": "1.26.4"}, "pip install 'numpy>=2.0'"),
        ({"numpy": "2.5.0rc1"}, None),
        ({"transformers": "5.0.0"}, None),
        ({"optimum-onnx": "0.1.0"}, None),
        ({"optimum-onnx": "0.1.0", "transformers": "4.57.6"}, None),
        ({"optimum-onnx": "0.1.0", "transformers": "4.58.0.dev0"}, TRANSFORMERS),
        ({"optimum-onnx": "0.1.0", "transformers": "5.0.0"}, TRANSFORMERS),
        ({"optimum-onnx": "0.2.0", "transformers": "5.0.0"}, None),
    ],
)
def test_packages_that_do_not_get_along_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], mend: str | None
) -> None:
    installed = {"paritas": "0.1.0", **versions}

    def needs(name: str) -> list[str]:
        return NEEDS[name] if name in NEEDS else NEEDS[f"{name} {installed[name]}"]

    monkeypatch.setattr(packages, "version_of", installed.get)
    monkeypatch.setattr(metadata, "requires", needs)
    findings = examine()
    assert [problem.mend for problem in findings.problems] == ([mend] if mend else [])
    assert findings.ok


def test_the_message_names_who_needs_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "version_of", {"paritas": "0.1.0", "usearch": "2.26.6"}.get)
    (problem,) = examine().problems
    assert problem.what == "paritas 0.1.0 needs usearch<2.26.2,>=2.19, not 2.26.6"


def test_what_is_installed_here_gets_along() -> None:
    assert packages.package_problems() == []
