"""The documentation of the running Python's standard library as a corpus."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import io
import pkgutil
import re
import sys
import sysconfig
import warnings
from collections import Counter
from collections.abc import Container, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from paritas.documents import Document

# Importing these prints, opens a browser, takes over the terminal's line editing or loads setuptools; or they
# hold tests, demonstrations, another program or another platform's types.
_LEFT_OUT = frozenset(
    {
        "antigravity",
        "distutils",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "readline",
        "rlcompleter",
        "test",
        "tests",
        "this",
        "turtledemo",
        "wintypes",
    }
)

# Public by their names, but what they hold is documented under os, os.path, re, dis, importlib and so on.
_BEHIND_OTHERS = frozenset(
    {
        "genericpath",
        "imp",
        "nt",
        "ntpath",
        "nturl2path",
        "opcode",
        "posix",
        "posixpath",
        "pyexpat",
        "sre_compile",
        "sre_constants",
        "sre_parse",
    }
)

# Written by namedtuple and dataclass where nobody wrote anything: a signature and nothing else.
_GENERATED = re.compile(r"[\w.]+\((?:[^\n()]|\([^\n()]*\))*\)|Alias for field number \d+")

# A text that stands under more names than this tells none of them apart.
_MOST_NAMES_OF_A_TEXT = 4

_CACHED = type(functools.cache(len))


class _Named(NamedTuple):
    """An object and the public name under which it was found; the lowest rank is its most natural name."""

    rank: tuple[bool | int | str, ...]
    name: str
    value: object


def stdlib_documents() -> Iterator[Document]:
    """Yield one document per public, documented object of the standard library, sorted by title.

    Id and title are the qualified name ("os.replace", "str.split"), the text is the docstring. Modules,
    functions, classes and what a class itself defines are there, each once, under the name its users import
    it by. Modules that this installation does not have are left out. `python -OO` keeps no docstrings but
    those of compiled modules.
    """
    for name, text in sorted(_texts().items()):
        yield Document(id=name, title=name, text=text)


def _texts() -> dict[str, str]:
    """Return the cleaned docstrings by qualified name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        modules = _modules()
        named = _named_objects(modules)
        found = {item.name: _docstring(item.value) for item in named.values()}
        for name, member in _class_members(named):
            found.setdefault(name, _docstring(member))
        for name, module in modules.items():
            found.setdefault(name, _docstring(module))
    return _telling({name: text for name, text in found.items() if text})


def _telling(texts: dict[str, str]) -> dict[str, str]:
    """Return the texts without boilerplate, bare names, and second copies (turtle.TurtleScreen.mode)."""
    uses = Counter(texts.values())
    kept = {}
    for name, text in texts.items():
        outer, _, last = name.rpartition(".")
        above = f"{outer.rpartition('.')[0]}.{last}"
        if uses[text] <= _MOST_NAMES_OF_A_TEXT and text != last and texts.get(above) != text:
            kept[name] = text
    return kept


def _modules() -> dict[str, ModuleType]:
    """Return the standard library's public modules by name, imported."""
    modules = {}
    waiting = sorted(sys.stdlib_module_names, reverse=True)
    while waiting:
        name = waiting.pop()
        module = _load(name) if _is_wanted(name) else None
        if module is None:
            continue
        modules[name] = module
        path = getattr(module, "__path__", None)
        if path is not None and name != "ensurepip":
            waiting.extend(f"{name}.{found.name}" for found in pkgutil.iter_modules(path))
    modules["os.path"] = sys.modules["os.path"]
    return dict(sorted(modules.items()))


def _is_wanted(name: str) -> bool:
    """Return whether a module's name is public and none that is left out."""
    if name in _BEHIND_OTHERS:
        return False
    return not any(part in _LEFT_OUT or part.startswith("_") for part in name.split("."))


def _load(name: str) -> ModuleType | None:
    """Return the module, imported without a sound, or None if this installation does not have it."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            if not _is_installed(importlib.util.find_spec(name)):
                return None
            return importlib.import_module(name)
    except ImportError:
        return None


def _is_installed(spec: ModuleSpec | None) -> bool:
    """Return whether a module is the installation's own.

    A file token.py in the working directory can stand before the library's, and importing it runs it.
    """
    if spec is None or spec.origin is None:
        return False
    if spec.origin in ("built-in", "frozen"):
        return True
    path = Path(spec.origin)
    if {"site-packages", "dist-packages"} & set(path.parts):
        return False
    return any(folder in path.parents for folder in _library_folders())


@functools.cache
def _library_folders() -> tuple[Path, ...]:
    """Return the folders of the library's Python files and of its compiled modules."""
    folders = [Path(contextlib.__file__).parent]
    compiled = sysconfig.get_config_var("DESTSHARED")
    if compiled:
        folders.append(Path(compiled))
    return tuple(folders)


def _named_objects(modules: dict[str, ModuleType]) -> dict[int, _Named]:
    """Return the modules' public objects by identity, each with its most natural name."""
    named: dict[int, _Named] = {}
    for module in modules.values():
        for name, value in _exports(module):
            item = _Named(_rank(module, name, value), _qualified(module, name), _underlying(value))
            known = named.get(id(item.value))
            if known is None or item.rank < known.rank:
                named[id(item.value)] = item
    return named


def _exports(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Yield the names and values of what a module offers: what it lists, or else what it defines."""
    listed = getattr(module, "__all__", None)
    for name in listed or sorted(vars(module)):
        if name.startswith("_"):
            continue
        value = getattr(module, name, None)
        if not _is_documentable(value, module):
            continue
        if listed or _is_defined_in(value, module) or _is_private(_home(value)):
            yield name, value


def _is_documentable(value: object, module: ModuleType) -> bool:
    """Return whether a value is a class, a function or one of the module's own forms such as Optional."""
    if inspect.isclass(value) or inspect.isroutine(value) or isinstance(value, _CACHED):
        # keyword.iskeyword is some frozenset's __contains__ and has its text.
        return not value.__name__.startswith("__")
    return not isinstance(value, ModuleType) and type(value).__module__ == module.__name__ == "typing"


def _home(value: object) -> str:
    """Return the name of the module that a value says it comes from."""
    return str(getattr(value, "__module__", None) or "")


def _is_defined_in(value: object, module: ModuleType) -> bool:
    """Return whether a value comes from the module or from its compiled twin."""
    if module.__name__ == "builtins":
        return _home(value) in ("builtins", "io", "_io")
    return _home(value) in (module.__name__, f"_{module.__name__}")


def _is_private(home: str) -> bool:
    """Return whether nobody is to import from a module of this name."""
    return home in _BEHIND_OTHERS or any(part.startswith("_") for part in home.split("."))


def _rank(module: ModuleType, name: str, value: object) -> tuple[bool | int | str, ...]:
    """Return how natural a name is for a value, as what sorts first."""
    home = _home(value)
    return (
        module.__name__ != "builtins",
        home.split(".")[0].lstrip("_") != module.__name__.split(".")[0],
        not f"{home}.".startswith(f"{module.__name__}."),
        module.__name__.count("."),
        getattr(value, "__name__", name) != name,
        _qualified(module, name),
    )


def _qualified(module: ModuleType, name: str) -> str:
    """Return the name as people write it: a builtin's without its module."""
    if module.__name__ == "builtins":
        return name
    return f"os.path.{name}" if module is sys.modules["os.path"] else f"{module.__name__}.{name}"


def _underlying(value: object) -> object:
    """Return the function behind a bound method (random.randint, tarfile.open), anything else as it is."""
    owner = getattr(value, "__self__", None)
    if owner is None or isinstance(owner, ModuleType) or not inspect.isroutine(value):
        return value
    kind = owner if isinstance(owner, type) else type(owner)
    return _function(inspect.getattr_static(kind, value.__name__, value))


def _class_members(named: dict[int, _Named]) -> Iterator[tuple[str, object]]:
    """Yield what the named classes define, each object once, as qualified name and object."""
    classes = {item.name: item.value for item in named.values() if isinstance(item.value, type)}
    heirs = _heirs(list(classes.values()), named)
    seen = set(named)
    for name, kind in sorted(classes.items()):
        yield from _members(name, kind, heirs, seen)


def _heirs(classes: list[type], public: Container[int]) -> dict[int, type]:
    """Return, by the identity of each base class that is not public, the class that shows what it defines.

    That is the class of the same name, io.IOBase for _io._IOBase, or else the one closest to the root.
    """
    heirs: dict[int, type] = {}
    for kind in sorted(classes, key=lambda kind: (len(kind.__mro__), kind.__qualname__)):
        for base in kind.__mro__[1:]:
            same_name = kind.__name__ == base.__name__.lstrip("_")
            if id(base) not in public and (same_name or id(base) not in heirs):
                heirs[id(base)] = kind
    return heirs


def _members(prefix: str, kind: type, heirs: dict[int, type], seen: set[int]) -> Iterator[tuple[str, object]]:
    """Yield the members of a class that are not in `seen` yet, and put them there."""
    for name, member in _own_attributes(kind, heirs):
        value = _function(member)
        if id(value) in seen or _is_inherited(name, value, kind, heirs):
            continue
        if isinstance(value, type):
            if value.__qualname__ == f"{kind.__qualname__}.{name}":
                seen.add(id(value))
                yield f"{prefix}.{name}", value
                yield from _members(f"{prefix}.{name}", value, heirs, seen)
        elif hasattr(type(value), "__get__"):
            seen.add(id(value))
            yield f"{prefix}.{name}", value


def _own_attributes(kind: type, heirs: dict[int, type]) -> Iterator[tuple[str, object]]:
    """Yield the public attributes that a class defines or shows for a base class that is not public."""
    taken: set[str] = set()
    for base in kind.__mro__:
        own = dict(vars(base))
        if base is kind or heirs.get(id(base)) is kind:
            # Under its own name first: what follows is an alias.
            names = sorted(own, key=lambda name: (getattr(own[name], "__name__", name) != name, name))
            yield from ((name, own[name]) for name in names if not name.startswith("_") and name not in taken)
        taken.update(own)


def _is_inherited(name: str, value: object, kind: type, heirs: dict[int, type]) -> bool:
    """Return whether the documents of a base class have the same text under the same name."""
    bases = [vars(base) for base in kind.__mro__[1:] if heirs.get(id(base)) is not kind]
    return any(name in base and _docstring(_function(base[name])) == _docstring(value) for base in bases)


def _function(member: object) -> object:
    """Return the function inside a class method or static method, any other member as it is."""
    return member.__func__ if isinstance(member, (classmethod, staticmethod)) else member


def _docstring(value: object) -> str:
    """Return an object's own docstring, cleaned; "" if it has none or only that of its type.

    A class that has none takes that of its own `__init__`, as concurrent.futures.ThreadPoolExecutor does.
    """
    text = getattr(value, "__doc__", None)
    if text is None and isinstance(value, type) and inspect.isfunction(vars(value).get("__init__")):
        text = vars(value)["__init__"].__doc__
    if not isinstance(text, str) or text == type(value).__doc__:
        return ""
    text = inspect.cleandoc(text).strip()
    return "" if _GENERATED.fullmatch(text) else text
