"""Files appear whole or not at all; where the engine keeps its own."""

import os
import secrets
from pathlib import Path

from engine.errors import OutputError


def cache_folder() -> Path:
    """Calibrations and TensorRT engines: `sane-engine` in $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sane-engine"


def write_whole(path: Path, content: bytes) -> None:
    """Write beside `path`, then rename; raises OutputError where that fails."""
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


def check_writable(path: Path) -> None:
    """Raise OutputError now where `write_whole` would fail for a reason that is known before the work is done."""
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
