"""YAML as the registry takes it: plain data, and every key once."""

from __future__ import annotations

from typing import Any

import yaml

from paritas.errors import RegistryError


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
    """YAML's safe loader, but a key given twice is an error and not silently the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]  # as written: a merge (<<) may overlap with them
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.YAMLError(f"{twice!r} is given twice{node.start_mark}")
        return super().construct_mapping(node, deep=deep)
