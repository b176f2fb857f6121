"""Object stores (S3, Google Cloud Storage, Azure), as obstore reaches them."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from paritas.errors import JobError, MissingExtraError

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<rest>.+)", re.DOTALL)
# Fetched at a time. A request waits some 50 ms, and a connection gives about 100 MB/s.
_READ_BYTES = 8 * 2**20


def is_url(place: str) -> bool:
    """Say whether a place is in an object store: scheme://..., and no path."""
    return _URL.fullmatch(place) is not None


@lru_cache(maxsize=64)
def open_store(url: str) -> Any:
    """Return the store of all that begins with a URL; the environment says how to reach it.

    Args:
        url: scheme://bucket/folder, without a slash at its end.

    Raises:
        MissingExtraError: obstore is not installed.
        JobError: no such scheme, or a setting in the environment is not known.
    """
    try:
        from obstore import exceptions
        from obstore.store import from_url
    except ImportError as error:
        raise MissingExtraError(
            f"{url}: object stores need obstore; type: pip install 'paritas[bulk]'"
        ) from error
    # A store of one's own (MinIO and others) that has no TLS is asked for by this very address.
    plain = os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", "")).startswith("http://")
    options: Any = {"allow_http": True} if plain or url.startswith("http://") else {}
    try:
        return from_url(url, client_options=options)
    except (exceptions.BaseError, ValueError) as error:
        raise JobError(f"{url}: {_first_line(error)}; expected s3://, gs:// or az://") from error


@contextmanager
def told(place: str) -> Iterator[None]:
    """Raise what a store answers as one line that names the place.

    Raises:
        FileNotFoundError: there is no such object.
        JobError: anything else: no permission, no such bucket, no connection.
    """
    from obstore import exceptions

    try:
        yield
    except (exceptions.NotFoundError, FileNotFoundError) as error:
        raise FileNotFoundError(2, "no such object", place) from error
    except exceptions.BaseError as error:
        raise JobError(f"{place}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """Return what an error of obstore says, without the debugging output that follows."""
    return str(error).strip().splitlines()[0].rstrip(":") if str(error).strip() else type(error).__name__


class ObjectFile(io.RawIOBase):
    """An object to read, by ranges; each range is asked for again where the connection breaks."""

    def __init__(self, url: str, size_bytes: int) -> None:
        """Open nothing yet.

        Args:
            url: the object.
            size_bytes: as the store lists it.
        """
        super().__init__()
        folder, _, self._key = url.rpartition("/")
        self._url, self._store, self._size, self._at = url, open_store(folder), size_bytes, 0

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        """Return the byte that is next."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, or what is left of the object."""
        import obstore

        view = memoryview(buffer).cast("B")
        length = min(len(view), self._size - self._at)
        if length <= 0:
            return 0
        with told(self._url):
            content = obstore.get_range(self._store, self._key, start=self._at, length=length)
        view[:length] = memoryview(content)
        self._at += length
        return length


def open_object(url: str, size_bytes: int) -> io.BufferedReader:
    """Return an object as a file; errors as `told` when it is read."""
    return io.BufferedReader(ObjectFile(url, size_bytes), buffer_size=_READ_BYTES)
