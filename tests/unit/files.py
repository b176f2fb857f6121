"""What lies in a folder, to compare before and after."""

from __future__ import annotations

import hashlib
from pathlib import Path


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder and below it, hidden files too, by relative path; None for a folder.

    A store's cache is whatever encoders made of it, and left out but for what none may leave half-written.
    """
    found = {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
    return {name: content for name, content in found.items() if not _made_again(name)}


def _made_again(name: str) -> bool:
    return name == "home" or (name.startswith("home/cache") and "partial" not in name)


def sha256(file: Path | bytes) -> str:
    return hashlib.sha256(file if isinstance(file, bytes) else file.read_bytes()).hexdigest()


def digests_of(folder: Path) -> dict[str, str]:
    return {name: sha256(folder / name) for name, content in contents(folder).items() if content is not None}


def change_byte(path: Path) -> None:
    """Change one byte in the middle; the size stays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
