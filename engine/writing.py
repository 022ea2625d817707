"""One process at a time writes a folder: it holds a lock, which ends with it."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from engine.errors import OptionError, OutputError

LOCK = "lock"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make a folder and hold its lock, which ends with the process. Raises OptionError if another process holds it."""
    if sys.platform == "win32":
        raise OptionError(f"{path} can be written on Linux and macOS; on Windows it can only be read")
    import fcntl  # noqa: PLC0415 - where there is one

    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OptionError(f"another process is writing {path}: wait until it ends") from error
        yield
    finally:
        os.close(descriptor)
