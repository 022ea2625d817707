"""Reading and writing files: a file appears whole or not at all. And where the engine keeps its own."""

import io
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from engine.errors import OutputError, first_line


def cache_folder() -> Path:
    """Calibrations and TensorRT engines: `sane-engine` in $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sane-engine"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside `path`, then rename it; raises OutputError where that fails."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            with open(beside, "xb") as file:
                file.write(content)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path, value: object) -> None:
    """Write JSON for people, one space an indent; raises OutputError. Half a character is escaped, as JSON does it."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_whole(path, text.encode(errors="backslashreplace"))


def check_writable(path: Path) -> None:
    """Raise OutputError where it is clear before the work begins that `write_whole` will fail."""
    folder = path.parent
    try:
        occupied = path.is_dir()
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    if occupied:
        raise OutputError(f"cannot write {path}: it is a folder")
    if not folder.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write {path}: no permission in {folder}")


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Every array of an .npz file, by name, without executing anything in it; raises OutputError."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as data:
            return {name: data[name] for name in data}
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # numpy and zlib raise almost anything on a broken archive
        raise OutputError(f"cannot read {path}: it is not an .npz archive ({first_line(error)})") from error


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], *, compressed: bool = False) -> None:
    """Write arrays by name, so that `read_npz` reads them; raises OutputError."""
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, allow_pickle=False, **arrays)
    write_whole(path, buffer.getvalue())
