"""Object stores (S3, Google Cloud Storage, Azure), as obstore reaches them."""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

from paritas.errors import JobError, MissingExtraError

T = TypeVar("T")

_MESSAGE = re.compile("<Message>(.*?)</Message>", re.DOTALL)
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<rest>.+)", re.DOTALL)
# Where a machine of Amazon's own would be asked for credentials, when none are given.
_METADATA = "169.254.169.254"
# What an error says where the connection broke in an answer; for how long it is asked for again, as obstore
# does where no answer began; and after what pause first, and at most.
_BROKEN, _PATIENCE_S, _PAUSE_S, _LONGEST_PAUSE_S = "response body", 180.0, 0.1, 5.0
# How often and how long a request that fails is tried again; where empty 10 times, for 3 minutes.
RETRY: dict[str, Any] = {}
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
        retry: Any = RETRY
        return from_url(url, client_options=options, retry_config=retry)
    except (exceptions.BaseError, ValueError) as error:
        raise JobError(f"{url}: {_first_line(error)}; expected s3://, gs:// or az://") from error


def ask(place: str, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Return what a call of obstore returns; where the connection breaks in the answer, ask again.

    obstore does so itself before an answer begins, and for the answer's content in some calls only.

    Args:
        place: what errors name.
        call: it, with its arguments and options.

    Raises:
        FileNotFoundError: there is no such object.
        JobError: anything else: no permission, no such bucket, no connection.
    """
    from obstore import exceptions

    end, pause_s = time.monotonic() + _PATIENCE_S, _PAUSE_S
    while True:
        try:
            return call(*arguments, **options)
        except (exceptions.NotFoundError, FileNotFoundError) as error:
            raise FileNotFoundError(2, "no such object", place) from error
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            raise
        except exceptions.BaseError as error:
            if _BROKEN not in _own_line(error) or time.monotonic() > end:
                raise JobError(f"{place}: {_first_line(error)}") from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _own_line(error: Exception) -> str:
    """Return what obstore says, without the store's answer and the debugging output that follow."""
    whole = str(error).strip() or type(error).__name__
    return whole.splitlines()[0].partition(": <?xml")[0]


def _first_line(error: Exception) -> str:
    """Return what an error says, and the store's own message."""
    if _METADATA in str(error):
        return "no credentials were found; type: export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=..."
    message = _MESSAGE.search(str(error))
    return _own_line(error) + (f": {message[1]}" if message else "")


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
        content = ask(self._url, obstore.get_range, self._store, self._key, start=self._at, length=length)
        view[:length] = memoryview(content)
        self._at += length
        return length


def open_object(url: str, size_bytes: int) -> io.BufferedReader:
    """Return an object as a file; errors as `ask` when it is read."""
    return io.BufferedReader(ObjectFile(url, size_bytes), buffer_size=_READ_BYTES)
