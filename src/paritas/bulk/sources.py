"""The input of a job: files, directories, patterns, objects in a store, and standard input."""

from __future__ import annotations

import fcntl
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
from typing import IO, Any, NamedTuple

from paritas import files
from paritas.arguments import not_utf8
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
# What standard input is called, in ids too.
STDIN = "stdin"
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


def find_sources(
    inputs: Sequence[str], spool: Path, *, out: str | None = None, planned: bool = False
) -> list[Source]:
    """Return the files that inputs stand for, in the order given; those of one directory or pattern by name.

    Args:
        inputs: paths, directories, patterns such as "data/**/*.jsonl.gz", URLs of objects or of folders of
            them, or "-" for standard input.
        spool: where standard input is kept, for it cannot be read twice.
        out: a folder whose files are no input of a directory or pattern: the job's own.
        planned: a plan goes by what is kept of standard input already, which is left as it is.

    Raises:
        InputError: nothing is there, a directory has no file of a known kind, or a file is named twice.
        OSError, JobError: it cannot be read.
    """
    below = None if out is None else out if is_url(out) else str(Path(out).resolve())
    found = [entry for given in inputs for entry in _entries(given, spool, below, planned=planned)]
    seen: set[str] = set()
    for entry in found:
        if entry.identity in seen:
            raise InputError(f"{entry.place}: is named twice; expected each file of the input once")
        seen.add(entry.identity)
    labels = _labels([entry.place for entry in found if not entry.spooled])
    return [
        Source(STDIN if entry.spooled else next(labels), entry.place, entry.size_bytes, entry.version)
        for entry in found
    ]


def kind_of(name: str) -> str | None:
    """Return what a file's name says it holds: a value of `SUFFIXES`; None where it says nothing."""
    name = name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return SUFFIXES.get(os.path.splitext(name)[1])  # noqa: PTH122 - it may be a URL


class _Entry(NamedTuple):
    place: str
    size_bytes: int
    version: str
    identity: str
    """Of one file the same by whatever name."""
    spooled: bool = False


def _entries(given: str, spool: Path, out: str | None, *, planned: bool) -> Iterator[_Entry]:
    if given == "-":
        if sys.stdin is None:
            raise InputError("<stdin>: is closed; pipe documents into it, or name a file")
        yield _spooled(sys.stdin.buffer, spool, planned=planned)
    elif is_url(given):
        yield from _objects(given, out)
    elif Path(given).is_dir():
        below = sorted(path for path in Path(given).rglob("*") if _is_data(str(path.relative_to(given))))
        yield from _files(below, out, _empty(given))
    elif Path(given).exists():
        yield _file(Path(given))
    elif glob.has_magic(given):
        names = sorted(glob.glob(given, recursive=True))  # noqa: PTH207
        none = InputError(f"{given}: no file matches; expected files of the input")
        yield from _files(map(Path, names), out, none)
    else:
        raise InputError(f"{given}: no such file; expected a file, a directory, a pattern, a URL or -")


def _files(paths: Iterable[Path], out: str | None, none: InputError) -> Iterator[_Entry]:
    found = [
        path
        for path in paths
        if path.is_file() and (out is None or not path.resolve().is_relative_to(Path(out)))
    ]
    if not found:
        raise none
    yield from map(_file, found)


def _file(given: Path) -> _Entry:
    # Of a link its own name counts, which says what it holds.
    path = given.parent.resolve() / given.name
    if fault := not_utf8(path):
        raise InputError(fault)
    state = path.stat()
    return _Entry(str(path), state.st_size, str(state.st_mtime_ns), f"{state.st_dev} {state.st_ino}")


def _empty(given: str) -> InputError:
    known = ", ".join(SUFFIXES)
    return InputError(f"{given}: no file in it ends in {known} (.gz or .zst after it); name the files")


def _objects(given: str, out: str | None) -> Iterator[_Entry]:
    import obstore

    scheme, _, rest = given.partition("://")
    fixed, magic = rest.rstrip("/"), glob.has_magic(rest)
    if not given.endswith("/") and "/" in fixed:
        folder, _, key = fixed.rpartition("/")
        with suppress(FileNotFoundError):  # what is no object may be a folder of them, or a pattern
            yield _object(given, ask(given, obstore.head, open_store(f"{scheme}://{folder}"), key))
            return
    while glob.has_magic(fixed):
        fixed = fixed.rpartition("/")[0]
    if not fixed:
        raise InputError(f"{given}: has no bucket; expected {scheme}://bucket/folder/*.jsonl")
    base = f"{scheme}://{fixed}"
    store = open_store(base)
    metas: list[Any] = ask(given, lambda: [meta for page in obstore.list(store) for meta in page])
    found = [
        _object(f"{base}/{meta['path']}", meta)
        for meta in sorted(metas, key=lambda meta: meta["path"])
        if (fnmatch.fnmatchcase(f"{base}/{meta['path']}", given) if magic else _is_data(meta["path"]))
    ]
    found = [entry for entry in found if out is None or not entry.place.startswith(f"{out.rstrip('/')}/")]
    if not found:
        none = InputError(f"{given}: no object matches; expected objects of the input")
        raise none if magic else _empty(given)
    yield from found


def _object(url: str, meta: Any) -> _Entry:
    return _Entry(url, meta["size"], str(meta["e_tag"] or meta["last_modified"].isoformat()), url)


def _is_data(name: str) -> bool:
    return kind_of(name) is not None and not any(part.startswith((".", "_")) for part in name.split("/"))


def _spooled(stream: IO[bytes], spool: Path, *, planned: bool) -> _Entry:
    """Keep standard input in a file, where none is kept that a plan goes by; its version is its digest."""
    spool.parent.mkdir(parents=True, exist_ok=True)
    partial = spool.with_name(f".{spool.name}.partial-{os.urandom(6).hex()}")
    digest, size = hashlib.sha256(), 0
    keep = planned and spool.exists()
    try:
        with open(os.devnull if keep else partial, "wb") as file:  # noqa: PTH123
            if not keep:
                fcntl.flock(file, fcntl.LOCK_EX)  # it is no leftover
            while block := stream.read(_READ_BYTES):
                size += len(block)
                digest.update(block)
                file.write(block)
            file.flush()
            if not keep:
                os.fsync(file.fileno())
                partial.replace(spool)
    finally:
        partial.unlink(missing_ok=True)
    return _Entry(str(spool.absolute()), size, digest.hexdigest(), STDIN, spooled=True)


def _labels(places: Sequence[str]) -> Iterator[str]:
    """Return places without the folders that all of them lie in: the same on every machine."""
    parts = [place.split("/") for place in places]
    shared = 0
    shortest = min(map(len, parts), default=1) - 1
    while shared < shortest and len({names[shared] for names in parts}) == 1:
        shared += 1
    return iter(["/".join(names[shared:]) for names in parts])
