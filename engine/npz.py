"""Reading numpy's files, .npz and .npy: what nobody asks for is not read, and nothing in them is executed.

An array's type and shape are judged from its header before its numbers are read: a file of a few kilobytes can say that
it has gigabytes of zeros.
"""

import contextlib
import dataclasses
import json
import math
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from engine.errors import EngineError, OutputError, first_line, shortened

MOST_UNPACKED, MOST_GROWTH = 2**29, 4
"""What is read of a file may have so many bytes, or be so many times as large as the file, whichever is more."""
NPY = ".npy"
"""Suffix of the members of an .npz."""
PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
HEADERS: dict[tuple[int, int], Callable[[IO[bytes]], tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}
"""By version of the format. Others are of arrays whose entries have several fields."""
LETTERS = {"b": "bool", "i": "whole numbers", "u": "whole numbers", "f": "floating-point numbers", "U": "text", "S": "text"}
"""Types of arrays that are read, by numpy's letter."""
ANY = "".join(LETTERS)
SOME_NAMES = 3
"""Arrays that a message names."""
ArrayShape = tuple[int | None, ...]
"""None for a size that may be anything."""


@dataclasses.dataclass(frozen=True)
class ArrayHeader:
    """What an array says of itself. nbytes: of its numbers"""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    nbytes: int

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


class NpzFile:
    """An open .npz, made by `open_npz`, whose errors name the file.

    names: of the arrays in it
    """

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._archive, self._left = archive, max(MOST_UNPACKED, MOST_GROWTH * size)
        self._members = {member.filename.removesuffix(NPY): member for member in archive.infolist()}
        if len(self._members) < len(archive.infolist()):
            raise OutputError("two of its arrays have the same name")

    @property
    def names(self) -> list[str]:
        """The arrays' names, in their order."""
        return list(self._members)

    def refuse_others(self, names: Iterable[str]) -> None:
        """Raise OutputError if the file has an array that is none of these."""
        unknown = sorted(set(self._members) - set(names))
        if unknown:
            more = ", ..." if len(unknown) > SOME_NAMES else ""
            raise OutputError(f"it has unknown {shortened(', '.join(unknown[:SOME_NAMES]))}{more}")

    def header(self, name: str) -> ArrayHeader:
        """Return what an array says of itself; raises OutputError where the archive does not hold that."""
        member = self._members.get(name)
        if member is None:
            raise OutputError(f"it has no array {name!r}")
        if member.compress_type not in PACKINGS:
            raise OutputError(f"its array {name!r} is packed in another way than numpy packs")
        with self._archive.open(member) as file:
            return _header(file, member.file_size, f"its array {name!r}")

    def read(self, name: str, kinds: str = ANY, shape: ArrayShape | None = None) -> np.ndarray:
        """Return an array; raises OutputError where it is another one. kinds: letters of LETTERS; shape: None for any"""
        header = self.header(name)
        _require(header, kinds, shape, f"its array {name!r}")
        self._left -= header.nbytes
        if self._left < 0:
            raise OutputError(f"its array {name!r}, {header}, is larger than what a file of its size may hold")
        with self._archive.open(self._members[name]) as file:
            array: np.ndarray = npy.read_array(file, allow_pickle=False)
        return array

    def read_float32(self, name: str, shape: ArrayShape) -> np.ndarray:
        """Return an array of floating-point numbers as float32; raises OutputError unless all are finite in it."""
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused
            array = self.read(name, "f", shape).astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            raise OutputError(f"its {name} are not finite in float32")
        return array

    def read_uint8(self, name: str, shape: ArrayShape) -> np.ndarray:
        """Return an array of whole numbers from 0 to 255; raises OutputError where it is another one."""
        array = self.read(name, "u", shape)
        if array.dtype != np.uint8:
            raise OutputError(f"its array {name!r} must be uint8, got {array.dtype}")
        return array

    def read_json(self, name: str) -> Any:
        """Return what a text of JSON says; raises OutputError where it is none."""
        try:
            return json.loads(str(self.read(name, "U", ())))
        except (ValueError, RecursionError) as error:
            raise OutputError(f"its {name} are not JSON ({shortened(first_line(error))})") from error


@contextlib.contextmanager
def open_npz(path: Path) -> Iterator[NpzFile]:
    """Open an .npz to read some of its arrays. Raises OutputError, which names the file, also for one inside the block."""
    try:
        with _opened(path) as (file, size), zipfile.ZipFile(file) as archive:
            yield NpzFile(archive, size)
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}") from error
    except OutputError as error:
        raise OutputError(f"cannot read {path}: {error}") from error
    except EngineError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise almost anything on a broken archive
        raise OutputError(f"cannot read {path}: it is not an .npz archive ({shortened(first_line(error))})") from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return every array of an .npz file of numbers and texts, by name; raises OutputError."""
    with open_npz(path) as file:
        return {name: file.read(name) for name in file.names}


def read_npy(path: Path) -> np.ndarray:
    """Return the array of an .npy file, of numbers or texts; raises OutputError."""
    try:
        with _opened(path) as (file, size):
            _require(_header(file, size, "it"), ANY, None, "it")
            file.seek(0)
            array: np.ndarray = npy.read_array(file, allow_pickle=False)
            return array
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}") from error
    except OutputError as error:
        raise OutputError(f"cannot read {path}: {error}") from error
    except Exception as error:  # as in `open_npz`
        reason = f"it is not an array of numbers that numpy wrote ({shortened(first_line(error))})"
        raise OutputError(f"cannot read {path}: {reason}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """Open a file; give its size too. What is no plain file, such as a pipe, could keep the reader waiting for ever."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OutputError("it is not a file")
    with path.open("rb") as file:
        yield file, status.st_size


def _header(file: IO[bytes], size: int, what: str) -> ArrayHeader:
    """Read the header of an array. size: bytes of header and numbers together, which it must agree with"""
    version = npy.read_magic(file)
    if version not in HEADERS:
        raise OutputError(f"{what} is of version {version} of numpy's format, (1, 0) or (2, 0) is read")
    shape, _, dtype = HEADERS[version](file)
    nbytes = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and file.tell() + nbytes != size:
        missing = f"{nbytes} bytes of numbers are wanted, there are {size - file.tell()}"
        raise OutputError(f"{what} is not an array of numbers that numpy wrote ({missing})")
    return ArrayHeader(dtype, shape, nbytes)


def _require(header: ArrayHeader, kinds: str, shape: ArrayShape | None, what: str) -> None:
    fits = shape is None or (
        len(shape) == len(header.shape) and all(w in (None, g) for w, g in zip(shape, header.shape, strict=True))
    )
    if header.dtype.kind in kinds and fits:
        return
    if header.dtype.hasobject:
        raise OutputError(f"{what} is not an array of numbers that numpy wrote (it holds Python objects)")
    wanted = " or ".join(dict.fromkeys(LETTERS[kind] for kind in kinds))
    sizes = "" if shape is None else f" ({', '.join('any' if s is None else str(s) for s in shape)})"
    raise OutputError(f"{what} must be {wanted}{sizes}, got {header}")
