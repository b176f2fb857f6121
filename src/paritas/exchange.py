"""Two directories exchanged in one step, where the system can."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # Linux, and macOS's RENAME_SWAP
# The kernel or the file system knows no such call, or not that flag of it.
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


def exchange(first: Path, second: Path) -> bool:
    """Give each of two directories the other's name, in one step; False where the system cannot.

    Raises:
        OSError: it can, and did not: one of them is missing, or there is no permission.
    """
    call = _call(os.fsencode(first), os.fsencode(second))
    if call is None or call == 0:
        return call == 0
    number = ctypes.get_errno()
    if number in _UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))


def _call(first: bytes, second: bytes) -> int | None:
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin":
        renamex = getattr(library, "renamex_np", None)
        return None if renamex is None else int(renamex(first, second, ctypes.c_uint(_RENAME_EXCHANGE)))
    renameat2 = getattr(library, "renameat2", None)  # glibc 2.28
    if renameat2 is None:
        return None
    return int(renameat2(_AT_FDCWD, first, _AT_FDCWD, second, ctypes.c_uint(_RENAME_EXCHANGE)))
