"""The standard library as a corpus."""

import concurrent.futures
import contextlib
import importlib
import inspect
import json
import os
import statistics
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from paritas.examples import python_docs
from paritas.examples.python_docs import stdlib_documents

# As a program: the documents go to the standard error, so that whatever an import prints stands alone.
_DUMP = """
import json, sys, threading
from dataclasses import asdict
from paritas.examples.python_docs import stdlib_documents
documents = [asdict(document) for document in stdlib_documents()]
modules = sorted({"antigravity", "this", "idlelib", "lib2to3", "test", "turtledemo"} & set(sys.modules))
json.dump({"documents": documents, "modules": modules, "threads": threading.active_count()}, sys.stderr)
"""

_KNOWN = [
    "asyncio.run",
    "bytes.fromhex",
    "collections.OrderedDict",
    "collections.abc.Mapping.get",
    "datetime.datetime.fromisoformat",
    "hmac.compare_digest",
    "importlib.machinery.ModuleSpec",
    "io.BytesIO",
    "io.IOBase.readlines",
    "json.JSONDecoder",
    "json.dumps",
    "math.sqrt",
    "open",
    "os.path",
    "os.path.exists",
    "os.path.join",
    "os.replace",
    "pathlib.Path",
    "pathlib.Path.exists",
    "pathlib.Path.rename",
    "pathlib.PurePath.name",
    "random.randint",
    "shutil.copyfileobj",
    "sqlite3.connect",
    "str.split",
    "subprocess",
    "tarfile.open",
    "threading.RLock",
    "types.SimpleNamespace",
    "typing.Optional",
    "urllib.parse.quote",
    "xml.etree.ElementTree.ElementTree.iter",
]


@pytest.fixture(scope="module")
def texts():
    """Return the texts by title."""
    return {document.title: document.text for document in stdlib_documents()}


def _run(seed, source=_DUMP):
    """Return what a fresh interpreter finds, and what it printed."""
    command = [sys.executable, "-W", "error", "-c", source]
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return {**json.loads(result.stderr), "printed": result.stdout}


@pytest.fixture(scope="module")
def dump():
    """Return the result of one run in a fresh interpreter."""
    return _run("1")


def _named(name):
    """Return the object of a qualified name, found from the left: a builtin, or what a module leads to."""
    parts = name.split(".")
    value = importlib.import_module(parts[0]) if parts[0] in sys.stdlib_module_names else None
    if value is None:
        value = getattr(importlib.import_module("builtins"), parts[0])
    for count, part in enumerate(parts[1:], start=2):
        with contextlib.suppress(ImportError):
            importlib.import_module(".".join(parts[:count]))
        # enum.Enum.name is a property that refuses to be read from the class.
        value = getattr(value, part, None) or inspect.getattr_static(value, part)
    return value


def test_a_class_without_docstring_takes_that_of_its_init(texts):
    init = concurrent.futures.ThreadPoolExecutor.__init__
    assert texts["concurrent.futures.ThreadPoolExecutor"] == inspect.cleandoc(init.__doc__).strip()


@pytest.mark.parametrize("name", _KNOWN)
def test_a_known_name_has_its_docstring(texts, name):
    assert texts[name] == inspect.cleandoc(_named(name).__doc__).strip()


def test_every_title_leads_to_an_object(texts):
    for name in texts:
        _named(name)


@pytest.mark.parametrize(
    ("gone", "instead"),
    [
        ("posix.replace", "os.replace"),
        ("posixpath.join", "os.path.join"),
        ("genericpath.exists", "os.path.exists"),
        ("io.open", "open"),
        ("builtins.open", "open"),
        ("os.error", "OSError"),
        ("asyncio.runners.run", "asyncio.run"),
        ("asyncio.TimeoutError", "TimeoutError"),
        ("concurrent.futures.thread.ThreadPoolExecutor", "concurrent.futures.ThreadPoolExecutor"),
        ("json.decoder.JSONDecoder", "json.JSONDecoder"),
        ("secrets.compare_digest", "hmac.compare_digest"),
        ("random.Random.randint", "random.randint"),
        ("tarfile.TarFile.open", "tarfile.open"),
        ("typing.Text", "str"),
        ("unicodedata.UCD.name", "unicodedata.name"),
    ],
)
def test_an_object_stands_under_its_natural_name_only(texts, gone, instead):
    assert instead in texts
    assert gone not in texts


def test_an_inherited_text_is_left_out(texts):
    assert "pathlib.Path.name" not in texts
    assert "collections.abc.MutableMapping.get" not in texts


def test_ids_are_unique_and_titles_sorted():
    documents = list(stdlib_documents())
    titles = [document.title for document in documents]
    assert titles == sorted(set(titles))
    assert [document.id for document in documents] == titles


def test_names_are_public_and_texts_tell_something(texts):
    assert not [name for name in texts if any(part.startswith("_") for part in name.split("."))]
    assert all(text == text.strip() and text for text in texts.values())
    assert not [text for text in texts.values() if text.startswith("Alias for field number")]
    assert not [text for text in texts.values() if text.startswith("Initialize self")]
    assert "ast.Add" not in texts  # its text is "Add"


def test_there_are_thousands(texts):
    assert 5000 < len(texts) < 15000
    assert 50 < statistics.median(map(len, texts.values())) < 300


def test_two_fresh_interpreters_find_the_same(dump):
    assert _run("2") == dump


def test_importing_is_silent_and_starts_nothing(dump):
    assert dump["printed"] == ""
    assert dump["modules"] == []
    assert dump["threads"] == 1


def test_a_file_of_a_modules_name_is_not_run(tmp_path):
    for name in ("antigravity", "this", "wave", "colorsys"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('somebody else was run')\n")
    (tmp_path / "sched").mkdir()
    found = _run("1", f"import sys; sys.path.insert(0, {str(tmp_path)!r}){_DUMP}")
    titles = {document["title"] for document in found["documents"]}
    assert not titles & {"wave", "wave.open", "colorsys"}
    assert "sched.scheduler.cancel" in titles


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("built-in", True),
        ("frozen", True),
        (None, False),
        (str(Path(contextlib.__file__).parent / "json" / "__init__.py"), True),
        (str(Path(contextlib.__file__).parent / "site-packages" / "tkinter.py"), False),
        ("/somewhere/token.py", False),
    ],
)
def test_only_the_installations_own_modules_are_loaded(origin, expected):
    assert python_docs._is_installed(ModuleSpec("name", None, origin=origin)) is expected


def test_no_spec_is_no_module():
    assert not python_docs._is_installed(None)
