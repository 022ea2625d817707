"""Reading and writing files: a file appears whole or not at all. And where the engine keeps its own."""

import errno
import hashlib
import io
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from engine.errors import OutputError, first_line

LONGEST_KEPT = 200
"""Bytes of a name that stays in the new one beside it: names may have 255, and what comes behind has fewer than 55. Of a
longer name an eighth as many characters stay, and a digest."""
OLD = ".old"
"""The end of the name that a folder has while another takes its place, where the system cannot do that in one step."""
NOT_FLUSHED = (errno.EACCES, errno.EINVAL)
"""What flushing a folder may answer: it is another user's, or its disk flushes files alone."""


def cache_folder() -> Path:
    """Calibrations and TensorRT engines: `sane-engine` in $XDG_CACHE_HOME or ~/.cache. Raises OutputError without a home."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "sane-engine"
    except RuntimeError as error:
        raise OutputError(f"there is no cache folder ({first_line(error)}): set HOME or XDG_CACHE_HOME") from error


def beside(path: Path) -> Path:
    """Return a new hidden name in the folder of `path`, no longer than names may be, for what is to take its place."""
    return path.with_name(f"{_hidden(path)}.{secrets.token_hex(4)}")


def found_beside(path: Path, end: str = "") -> list[Path]:
    """Return what has names that `beside` gave for `path`, with or without OLD, and that end in `end`."""
    pattern = re.compile(rf"{re.escape(_hidden(path))}\.[0-9a-f]{{8}}({re.escape(OLD)})?")
    try:
        found = sorted(path.parent.iterdir())
    except OSError:
        return []
    return [other for other in found if pattern.fullmatch(other.name) and other.name.endswith(end)]


def _hidden(path: Path) -> str:
    name = os.fsencode(path.name)
    if len(name) <= LONGEST_KEPT:
        return f".{path.name}"
    return f".{path.name[: LONGEST_KEPT // 8]}.{hashlib.sha256(name).hexdigest()[:16]}"


def write_whole(path: Path, content: bytes, *, lasting: bool = False) -> None:
    """Write a file beside `path`, then rename it; raises OutputError where that fails.

    lasting: content and name are on the disk when this returns, so that a loss of power takes neither
    """
    new = beside(path)
    try:
        try:
            with open(new, "xb") as file:
                file.write(content)
                if lasting:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(new, path)
        finally:
            new.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    if lasting:
        flush([path.parent])


def flush(paths: Iterable[Path]) -> None:
    """Return when files, and the names in folders, are on the disk, in this order. Raises OutputError. Not on Windows."""
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            if path.is_dir() and error.errno in NOT_FLUSHED:
                continue
            raise OutputError(f"cannot write {path} to the disk: {error.strerror or error}") from error


def sha256_of(path: Path) -> str:
    """Return the sha256 (hex) of a file. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write `json_bytes`; raises OutputError."""
    write_whole(path, json_bytes(value))


def json_bytes(value: object) -> bytes:
    """Return JSON for people, one space an indent. Half a character is escaped, as JSON does it."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace")


def check_writable(path: Path, reads: Iterable[Path | None] = ()) -> None:
    """Raise OutputError where it is clear before the work begins that `write_whole` will fail, or would destroy a file.

    reads: files that the same command reads, and folders whose files it reads
    """
    folder = path.parent
    try:
        occupied = path.exists()
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder")
    if occupied and not path.is_file():
        raise OutputError(f"cannot write {path}: it is a pipe or a device, not a file; choose another name")
    for read in reads if occupied else ():
        if read is not None and _is_or_holds(read, path):
            raise OutputError(f"cannot write {path}: this command reads it; choose another name")
    if not folder.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write {path}: no permission in {folder}")


def _is_or_holds(read: Path, path: Path) -> bool:
    try:
        return read.samefile(path) or (read.is_dir() and read.samefile(path.parent))
    except (OSError, ValueError):  # what cannot be read is said elsewhere
        return False


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], *, compressed: bool = False) -> None:
    """Write arrays by name, so that `engine.npz` reads them; raises OutputError."""
    write_whole(path, npz_bytes(arrays, compressed=compressed))


def npz_bytes(arrays: Mapping[str, np.ndarray], *, compressed: bool = False) -> bytes:
    """Return the bytes of an .npz file with arrays by name."""
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
