"""The input of a job: files, directories, patterns, objects in a store, and standard input."""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from paritas import files
from paritas.bulk.objects import ask, is_url, open_object, open_store
from paritas.errors import InputError

# Files that are taken where a directory is given, below another ending .gz or .zst perhaps.
SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
PACKED = (".gz", ".zst")
_READ_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Source:
    """One file of the input."""

    label: str
    """What the job calls it: its path below the folder that all inputs lie in."""
    place: str
    """Its path here, or its URL."""
    size_bytes: int
    version: str
    """Another one means that it may have changed: the time of its last change, or the store's entity tag."""

    def open(self) -> BufferedReader:
        """Open it to read from its beginning.

        Raises:
            OSError, JobError: it cannot be read.
        """
        if is_url(self.place):
            return open_object(self.place, self.size_bytes)
        return files.open_regular(Path(self.place))

    def digest(self) -> str:
        """Return its sha256, in hexadecimal; errors as `open`."""
        digest = hashlib.sha256()
        with self.open() as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
        return digest.hexdigest()


def find_sources(inputs: Sequence[str], spool: Path) -> list[Source]:
    """Return the files that inputs stand for, in the order given; those of one directory or pattern by name.

    Args:
        inputs: paths, directories, patterns such as "data/**/*.jsonl.gz", URLs of objects or of folders of
            them, or "-" for standard input.
        spool: where standard input is kept, for it cannot be read twice.

    Raises:
        InputError: nothing is there, a directory has no file of a known kind, or a file is named twice.
        OSError, JobError: it cannot be read.
    """
    found = [entry for given in inputs for entry in _entries(given, spool)]
    places = [place for place, _, _ in found]
    if (
        twice := next((place for place in places if places.count(place) > 1), None)
        if len(set(places)) < len(places)
        else None
    ):
        raise InputError(f"{twice}: is named twice; expected each file of the input once")
    labels = _labels(places)
    return [Source(label, *entry) for label, entry in zip(labels, found, strict=True)]


def kind_of(name: str) -> str | None:
    """Return what a file's name says it holds: a value of `SUFFIXES`; None where it says nothing."""
    for packed in PACKED:
        name = name.removesuffix(packed)
    return SUFFIXES.get(os.path.splitext(name)[1].lower())  # noqa: PTH122 - it may be a URL


_Entry = tuple[str, int, str]


def _entries(given: str, spool: Path) -> Iterator[_Entry]:
    if given == "-":
        if sys.stdin is None:
            raise InputError("<stdin>: is closed; pipe documents into it, or name a file")
        yield _spooled(sys.stdin.buffer, spool)
    elif is_url(given):
        yield from _objects(given)
    elif Path(given).is_dir():
        yield from _checked_folder(given, map(str, sorted(Path(given).rglob("*"))))
    elif Path(given).exists():
        yield _file(given)
    elif glob.has_magic(given):
        names = sorted(name for name in glob.glob(given, recursive=True) if Path(name).is_file())  # noqa: PTH207
        if not names:
            raise InputError(f"{given}: no file matches; expected files of the input")
        yield from map(_file, names)
    else:
        raise InputError(f"{given}: no such file; expected a file, a directory, a pattern, a URL or -")


def _file(name: str) -> _Entry:
    # Of a link its own name counts, which says what it holds.
    path = Path(name).parent.resolve() / Path(name).name
    state = path.stat()
    return str(path), state.st_size, str(state.st_mtime_ns)


def _checked_folder(given: str, names: Iterable[str]) -> Iterator[_Entry]:
    found = False
    for name in names:
        below = Path(name).relative_to(given).parts
        if not any(part.startswith((".", "_")) for part in below) and kind_of(name) and Path(name).is_file():
            found = True
            yield _file(name)
    if not found:
        raise _empty(given)


def _empty(given: str) -> InputError:
    known = ", ".join(SUFFIXES)
    return InputError(f"{given}: no file in it ends in {known} (.gz or .zst after it); name the files")


def _objects(given: str) -> Iterator[_Entry]:
    import obstore

    scheme, _, rest = given.partition("://")
    fixed, magic = rest.rstrip("/"), glob.has_magic(rest)
    if magic:
        while glob.has_magic(fixed):
            fixed = fixed.rpartition("/")[0]
    elif not given.endswith("/") and "/" in fixed:
        folder, _, key = fixed.rpartition("/")
        with suppress(FileNotFoundError):  # what is no object may be a folder of them
            meta = ask(given, obstore.head, open_store(f"{scheme}://{folder}"), key)
            yield given, meta["size"], _version(meta)
            return
    if not fixed:
        raise InputError(f"{given}: has no bucket; expected {scheme}://bucket/folder/*.jsonl")
    base = f"{scheme}://{fixed}"
    store = open_store(base)
    metas: list[Any] = ask(given, lambda: [meta for page in obstore.list(store) for meta in page])
    wanted = [(f"{base}/{meta['path']}", meta) for meta in sorted(metas, key=lambda meta: meta["path"])]
    if magic:
        wanted = [(url, meta) for url, meta in wanted if fnmatch.fnmatchcase(url, given)]
    else:
        wanted = [(url, meta) for url, meta in wanted if _is_data(url.removeprefix(f"{base}/"))]
    if not wanted:
        raise (
            InputError(f"{given}: no object matches; expected objects of the input")
            if magic
            else _empty(given)
        )
    for url, meta in wanted:
        yield url, meta["size"], _version(meta)


def _is_data(name: str) -> bool:
    return kind_of(name) is not None and not any(part.startswith((".", "_")) for part in name.split("/"))


def _version(meta: Any) -> str:
    return str(meta["e_tag"] or meta["last_modified"].isoformat())


def _spooled(stream: IO[bytes], spool: Path) -> _Entry:
    """Keep standard input in a file, where it is not kept already; its version is its digest."""
    spool.parent.mkdir(parents=True, exist_ok=True)
    partial = spool.with_name(f".{spool.name}.partial-{os.urandom(6).hex()}")
    digest = hashlib.sha256()
    try:
        with partial.open("wb") as file:
            while block := stream.read(_READ_BYTES):
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(spool)
    finally:
        partial.unlink(missing_ok=True)
    return str(spool.absolute()), spool.stat().st_size, digest.hexdigest()


def _labels(places: Sequence[str]) -> list[str]:
    """Return places without the folders that all of them lie in: the same on every machine."""
    parts = [place.split("/") for place in places]
    shared = 0
    shortest = min(map(len, parts), default=1) - 1
    while shared < shortest and len({names[shared] for names in parts}) == 1:
        shared += 1
    return ["/".join(names[shared:]) for names in parts]
