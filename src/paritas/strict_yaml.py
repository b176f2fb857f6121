"""YAML as the registry takes it: plain data, and every key once."""

from __future__ import annotations

from typing import Any

import yaml

from paritas.documents import is_unicode
from paritas.errors import RegistryError

# A registry has six levels.
_DEEPEST = 32


def load(text: str, place: str) -> Any:
    """Parse a document.

    Args:
        text: the document.
        place: what errors call it.

    Raises:
        RegistryError: not YAML, or a key is given twice.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a safe loader
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # a date such as 2024-13-45 is a plain ValueError
        raise RegistryError(f"{place}: not YAML: {' '.join(str(error).split())}") from error


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, with more errors: a key given twice, half a character, endless nesting."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise yaml.YAMLError(f"nested deeper than {_DEEPEST} levels{_at(self.peek_event())}")  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if not is_unicode(value):
            raise yaml.YAMLError(f"half a surrogate pair, which is no character{_at(node)}")
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]  # as written: a merge (<<) may overlap with them
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.YAMLError(f"{twice!r} is given twice{node.start_mark}")
        return super().construct_mapping(node, deep=deep)


def _at(node: Any) -> str:
    return f" in line {node.start_mark.line + 1}, column {node.start_mark.column + 1}"
