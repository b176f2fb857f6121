"""Where a bundle goes: what may be replaced there, and the directory beside it in which it is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from paritas.arguments import not_utf8
from paritas.engine.bundle.directory import file_names
from paritas.errors import BundleError, ExportError, StoreError
from paritas.workplace import workplace


def check_target(target: Path) -> None:
    """Refuse a place that holds anything but a bundle, since what is there will be replaced."""
    if fault := not_utf8(target):
        raise ExportError(fault)
    if target.exists() and not target.is_dir():
        raise ExportError(f"{target}: is a file; --out names the bundle's directory")
    if target.is_mount():
        raise ExportError(f"{target}: is a mount point, which cannot be exchanged; name a directory in it")
    if not target.is_dir() or not any(target.iterdir()):
        return
    try:
        known = file_names(target)
    except BundleError as error:
        raise ExportError(
            f"{target}: holds other files and no bundle ({error}); remove it or choose another --out"
        ) from error
    foreign = sorted({path.name for path in target.iterdir()} - known)
    if foreign:
        raise ExportError(
            f"{target}: holds {', '.join(foreign[:3])} beside the bundle, which replacing it would delete; "
            "move it away or choose another --out"
        )


@contextmanager
def workplace_beside(target: Path) -> Iterator[Path]:
    """Yield a new directory beside the target, with what happens to it in words; see `paritas.workplace`."""
    with ExitStack() as stack:
        try:
            work = stack.enter_context(workplace(target))
        except OSError as error:
            raise ExportError(f"{target}: cannot be written: {error}") from error
        try:
            yield work
        except StoreError:
            raise
        except OSError as error:
            raise ExportError(f"{target}: cannot be written: {error}; nothing was left there") from error
