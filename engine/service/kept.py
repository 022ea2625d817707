"""What is kept for a while under an id that nobody guesses: prepared pictures, explanations, jobs."""

import collections
import contextlib
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from engine.errors import EngineError
from engine.service.limits import Refused

T = TypeVar("T")
KEY = re.compile(r"[\w-]{22}", re.ASCII)
"""Nothing else becomes the name of a file."""


def new_key() -> str:
    """Return an id that nobody guesses."""
    return secrets.token_urlsafe(16)


class Kept(Generic[T]):
    """Values by id, for some seconds and up to a number of bytes; the oldest go first. Threads may share it.

    what: one of them in words, for messages; size: bytes of a value
    shelf: where other processes find them too; None: there are none
    """

    def __init__(
        self, what: str, seconds: float, limit: int, size: Callable[[T], int], shelf: "Shelf[T] | None" = None
    ) -> None:
        self._what, self._seconds, self._limit, self._size, self._shelf = what, seconds, limit, size, shelf
        self._lock = threading.Lock()
        self._values: collections.OrderedDict[str, tuple[float, int, T]] = collections.OrderedDict()
        self._bytes = 0

    def put(self, value: T, key: str | None = None) -> str:
        """Keep a value; returns its id, a new one if none is given. Raises Refused if it is too large."""
        size, key = self._size(value), key or new_key()
        if size > self._limit:
            raise Refused(413, f"this {self._what} has {size:,} bytes, and at most {self._limit:,} are kept: send less")
        if self._shelf is not None:
            self._shelf.put(key, value)
        self._keep(key, value, size, self._seconds)
        return key

    def get(self, key: str) -> T:
        """Return what is kept under an id. Raises Refused if nothing is, or not any longer."""
        with self._lock:
            self._forget_old()
            if key in self._values:
                return self._values[key][2]
        found = None if self._shelf is None else self._shelf.get(key)
        if found is not None:
            value, left = found
            self._keep(key, value, self._size(value), left)
            return value
        raise Refused(404, f"there is no {self._what} with this id, or not any longer: send the pictures again")

    def __len__(self) -> int:
        with self._lock:
            self._forget_old()
            return len(self._values)

    @property
    def nbytes(self) -> int:
        """Memory of all that is kept."""
        with self._lock:
            self._forget_old()
            return self._bytes

    def _keep(self, key: str, value: T, size: int, seconds: float) -> None:
        with self._lock:
            self._forget_old()
            if key not in self._values:
                self._values[key] = (time.monotonic() + seconds, size, value)
                self._bytes += size
            while self._bytes > self._limit:
                self._drop(next(iter(self._values)))

    def _forget_old(self) -> None:
        now = time.monotonic()
        for key in [key for key, (until, _, _) in self._values.items() if until < now]:
            self._drop(key)

    def _drop(self, key: str) -> None:
        self._bytes -= self._values.pop(key)[1]


class Shelf(Generic[T]):
    """Values as files in a folder that several processes share; the oldest go first.

    seconds, limit: as in `Kept`; write, read: to and from a file; what `read` raises means that there is no such value
    """

    def __init__(
        self,
        folder: Path,
        seconds: float,
        limit: int,
        write: Callable[[T, Path], None],
        read: Callable[[Path], T],
    ) -> None:
        self._folder, self._seconds, self._limit, self._write, self._read = folder, seconds, limit, write, read
        folder.mkdir(exist_ok=True)
        self._forget_old()

    def put(self, key: str, value: T) -> None:
        """Write a file, and remove what is too old or too much."""
        self._write(value, self._file(key))
        self._forget_old()

    def _forget_old(self) -> None:
        total, now = 0, time.time()
        for modified, size, file in sorted(self._files(), reverse=True):
            total += size
            if total > self._limit or modified + self._seconds < now:
                file.unlink(missing_ok=True)

    def get(self, key: str) -> tuple[T, float] | None:
        """Return a value and the seconds for which it is kept still; None if there is none."""
        if KEY.fullmatch(key) is None:
            return None
        file = self._file(key)
        with contextlib.suppress(OSError, EngineError):
            left = file.stat().st_mtime + self._seconds - time.time()
            return (self._read(file), left) if left > 0 else None
        return None

    def _file(self, key: str) -> Path:
        return self._folder / f"{key}.npz"

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        for file in self._folder.glob("*.npz"):
            with contextlib.suppress(OSError):  # another process removed it
                found = file.stat()
                yield found.st_mtime, found.st_size, file
