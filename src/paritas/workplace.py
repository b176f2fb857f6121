"""Where a bundle is made: a directory beside the target, put in the target's place once it is whole.

    <parent>/.<target>.partial-<12 digits>   under construction; whoever makes it holds its lock
    <parent>/.<target>.former-<12 digits>    a former bundle, for a moment, where two cannot be exchanged

A process that is killed leaves such a directory and no lock. The next export into the same parent removes it,
or gives a former bundle its name back.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from paritas import files
from paritas.exchange import exchange

_NAME = re.compile(r"\.(?P<target>.+)\.(?P<kind>partial|former)-([0-9a-f]{12}|[a-z0-9_]{8})", re.DOTALL)
# All that an export ever writes there. A directory that holds anything else is somebody else's.
_CONTENT = re.compile(
    r"manifest\.json|probes\.json|reference\.npy|tokenizer\.json|modules\.npz|"
    r"model\.[\w.-]+\.onnx(\.data)?|(calibration|mask)\.onnx"
)
# And the one folder, of whatever optimum writes.
_FOLDER = re.compile(r"traced-\w+")


@contextmanager
def workplace(target: Path) -> Iterator[Path]:
    """Yield a new directory beside the target; whatever goes wrong, it does not outlive the block.

    What killed processes left in the same parent is cleared first.

    Raises:
        OSError: it cannot be made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.parent / f".{target.name}.partial-{os.urandom(6).hex()}"
    # Made and locked in one step for others, who would take it for left over in between.
    with files.locked(target.parent):
        _clear(target.parent)
        work.mkdir()
        descriptor = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
        files.lock(descriptor, work)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        files.unlock(descriptor)


def put(work: Path, target: Path) -> None:
    """Give a finished directory the target's name, in one step where the system can; on the disk afterwards.

    One process at a time does so in a parent: what came to the target meanwhile is a former one too.

    Raises:
        OSError: it cannot be renamed; the target is as it was.
    """
    files.sync_all(work)
    with files.locked(target.parent):
        if not target.exists():
            work.rename(target)
        elif not exchange(work, target):
            _rename_in_turn(work, target)
        files.sync(target.parent)
    shutil.rmtree(work, ignore_errors=True)  # the former one, if there was


def _rename_in_turn(work: Path, target: Path) -> None:
    """Exchange two directories by three renames; after each of them `_clear` knows what to do."""
    former = work.with_name(work.name.replace(".partial-", ".former-"))
    target.rename(former)
    try:
        work.rename(target)
    except BaseException:  # a signal between the renames must not cost the former bundle either
        former.rename(target)
        raise
    former.rename(work)


def leftovers(parent: Path) -> list[Path]:
    """Return what killed processes left in a directory: what is of ours and no living process's."""
    try:
        directories = sorted(path for path in parent.iterdir() if _is_ours(path))
    except OSError:
        return []
    return [path for path in directories if _is_free(path)]


def _clear(parent: Path) -> None:
    """Remove what is left over, under the parent's lock; a former bundle whose name is free has it back."""
    for path in leftovers(parent):
        name = _NAME.fullmatch(path.name)
        assert name is not None
        target = parent / name["target"]
        if name["kind"] == "former" and not target.exists():
            path.rename(target)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _is_ours(path: Path) -> bool:
    """Say whether an export made a directory: by its name, and by every name in it."""
    if _NAME.fullmatch(path.name) is None or path.is_symlink() or not path.is_dir():
        return False
    with suppress(OSError), os.scandir(path) as entries:
        return all(
            (_FOLDER if entry.is_dir(follow_symlinks=False) else _CONTENT).fullmatch(entry.name)
            for entry in entries
        )
    return False


def _is_free(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return files.lock_free(descriptor)
    finally:
        os.close(descriptor)
