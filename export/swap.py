"""Put a new folder in the place of another, so that a process that is killed leaves the old one there or the new one.

Linux exchanges two names in one step. Elsewhere there are two renames: between them nothing is at the name, and the old
folder is beside it under a name that ends in OLD, which `engine.bundle.load_bundle` points to.
"""

import contextlib
import ctypes
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from engine.files import OLD, beside, found_beside

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Of Linux's renameat2: paths are as given; the two names exchange what they name."""


@contextlib.contextmanager
def folder_for(out: Path) -> Iterator[Path]:
    """Give a new folder beside `out`, which takes the place of `out` if the block ends without an error, else is deleted.

    Then also what killed processes left beside `out` is deleted. Raises OSError.
    """
    folder = beside(out)
    folder.mkdir()
    held = _hold(folder)
    try:
        yield folder
        swap(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # after an exchange it is the old one
        _let_go(held)
    for left in found_beside(out):
        held = _hold(left)
        if held is not None:  # else another process works in it
            shutil.rmtree(left, ignore_errors=True)
            _let_go(held)


def swap(folder: Path, out: Path) -> None:
    """Put `folder` in the place of `out`; what was there is deleted, or has the name of `folder` then. Raises OSError."""
    if not out.exists():
        folder.rename(out)
        return
    if exchanged(folder, out):
        return
    old = folder.with_name(folder.name + OLD)
    out.rename(old)
    try:
        folder.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def exchanged(one: Path, other: Path) -> bool:
    """Exchange two names in one step; tell whether the system and the disk can do that."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no such function; Windows has no such library
        exchange = ctypes.CDLL(None, use_errno=True).renameat2
        return bool(exchange(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0)
    return False


def _hold(folder: Path) -> int | None:
    """Hold a folder until `_let_go` or the end of the process; None where another process holds it, or nothing tells."""
    if fcntl is None:
        return None
    try:
        opened = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        return None
    return opened


def _let_go(held: int | None) -> None:
    if held is not None:
        os.close(held)
