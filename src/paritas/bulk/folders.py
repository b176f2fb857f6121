"""Where a job writes: a directory, or a folder of an object store. What is there is whole, and stays."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import IO, Any

from paritas import files
from paritas.bulk.objects import ask, is_url, open_object, open_store
from paritas.errors import InputError

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Folder(ABC):
    """Files by name, such as "part-00000.parquet" or "_job/plan.json"; each comes into being whole."""

    def __init__(self, place: str) -> None:
        """Take its path or URL."""
        self.place = place

    @abstractmethod
    def names(self, below: str = "") -> set[str]:
        """Return the names of the files right below a folder in it, "" or such as "_job/"."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Say whether a file is there."""

    @abstractmethod
    def put_new(self, name: str, content: Any) -> bool:
        """Write a file unless one of that name is there; say whether it was written.

        Args:
            name: of the file.
            content: bytes, or what has a buffer of them.

        Raises:
            OSError, JobError: it cannot be written; nothing of it stays.
        """

    @abstractmethod
    def put(self, name: str, content: Any) -> None:
        """Write a file, in the place of one of that name; errors as `put_new`."""

    @abstractmethod
    def written(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Open a file to write that is too large for memory: it is there, whole, after the block.

        It takes the place of one of that name. Errors as `put_new`.
        """

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return what a file holds.

        Raises:
            FileNotFoundError: it is not there.
            OSError, JobError: it cannot be read.
        """

    @abstractmethod
    def open(self, name: str) -> BufferedReader:
        """Open a file to read; errors as `read`."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""


def open_folder(place: str) -> Folder:
    """Return a directory, which may not exist yet, or a folder of an object store.

    Raises:
        InputError: a file is in the place of the directory.
    """
    if is_url(place):
        return StoreFolder(place.rstrip("/"))
    path = Path(place)
    if path.exists() and not path.is_dir():
        raise InputError(f"{place}: is a file; expected a directory, which may not exist yet")
    return DirectoryFolder(path)


class DirectoryFolder(Folder):
    """A directory. A file is written aside, and has its name once the disk holds all of it."""

    def __init__(self, path: Path) -> None:
        """Take the directory, which may not exist yet."""
        super().__init__(str(path))
        self.path = path

    def names(self, below: str = "") -> set[str]:
        """As `Folder.names`."""
        try:
            with os.scandir(self.path / below) as entries:
                return {entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file()}
        except FileNotFoundError:
            return set()

    def has(self, name: str) -> bool:
        """As `Folder.has`."""
        return (self.path / name).is_file()

    def put_new(self, name: str, content: Any) -> bool:
        """As `Folder.put_new`."""
        target = self.path / name
        with self._written(target, content) as partial:
            try:
                os.link(partial, target)
            except FileExistsError:
                return False
            except OSError as error:  # a file system without links
                if error.errno not in _NO_LINKS:
                    raise
                with files.locked(target.parent):
                    if target.exists():
                        return False
                    partial.rename(target)
        files.sync(target.parent)
        return True

    def put(self, name: str, content: Any) -> None:
        """As `Folder.put`."""
        target = self.path / name
        with self._written(target, content) as partial:
            partial.replace(target)
        files.sync(target.parent)

    @contextmanager
    def written(self, name: str) -> Iterator[IO[bytes]]:
        """As `Folder.written`."""
        target = self.path / name
        with self._partial(target) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(target)
        files.sync(target.parent)

    @contextmanager
    def _written(self, target: Path, content: Any) -> Iterator[Path]:
        """Yield a file beside the target that the disk holds; it is gone afterwards."""
        with self._partial(target) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            yield Path(file.name)

    @contextmanager
    def _partial(self, target: Path) -> Iterator[BufferedWriter]:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial-{os.urandom(6).hex()}")
        try:
            # Its lock says that somebody is at it: see `clear`.
            with partial.open("xb") as file:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
                yield file
        except OSError as error:
            error.filename = error.filename or str(target)  # a full disk names no file
            raise
        finally:
            partial.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what killed processes left half-written."""
        for path in [*self.path.glob(".*.partial-*"), *self.path.glob("_job/**/.*.partial-*")]:
            with suppress(OSError), path.open("rb") as file:
                if files.lock_free(file.fileno()):
                    path.unlink()

    def read(self, name: str) -> bytes:
        """As `Folder.read`."""
        return (self.path / name).read_bytes()

    def open(self, name: str) -> BufferedReader:
        """As `Folder.open`."""
        return files.open_regular(self.path / name)

    def remove(self, name: str) -> None:
        """As `Folder.remove`."""
        (self.path / name).unlink(missing_ok=True)


class StoreFolder(Folder):
    """A folder of an object store, whose objects are whole or not there by nature."""

    def __init__(self, url: str) -> None:
        """Take its URL, without a slash at the end."""
        super().__init__(url)
        self._store = open_store(url)

    def names(self, below: str = "") -> set[str]:
        """As `Folder.names`."""
        import obstore

        listed: Any = ask(
            f"{self.place}/{below}", obstore.list_with_delimiter, self._store, below.rstrip("/") or None
        )
        return {meta["path"].rpartition("/")[2] for meta in listed["objects"]}

    def has(self, name: str) -> bool:
        """As `Folder.has`."""
        import obstore

        try:
            ask(f"{self.place}/{name}", obstore.head, self._store, name)
        except FileNotFoundError:
            return False
        return True

    def put_new(self, name: str, content: Any) -> bool:
        """As `Folder.put_new`."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            ask(f"{self.place}/{name}", obstore.put, self._store, name, bytes(content), mode="create")
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    def put(self, name: str, content: Any) -> None:
        """As `Folder.put`."""
        import obstore

        ask(f"{self.place}/{name}", obstore.put, self._store, name, bytes(content))

    @contextmanager
    def written(self, name: str) -> Iterator[IO[bytes]]:
        """As `Folder.written`; it lies in a temporary file until it is sent."""
        import obstore

        with tempfile.TemporaryFile() as file:
            yield file
            file.seek(0)
            ask(f"{self.place}/{name}", obstore.put, self._store, name, file)

    def read(self, name: str) -> bytes:
        """As `Folder.read`."""
        import obstore

        return ask(f"{self.place}/{name}", lambda: bytes(obstore.get(self._store, name).bytes()))

    def open(self, name: str) -> BufferedReader:
        """As `Folder.open`."""
        import obstore

        url = f"{self.place}/{name}"
        return open_object(url, ask(url, obstore.head, self._store, name)["size"])

    def remove(self, name: str) -> None:
        """As `Folder.remove`."""
        import obstore

        with suppress(FileNotFoundError):
            ask(f"{self.place}/{name}", obstore.delete, self._store, name)
