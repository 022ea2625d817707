"""Pictures where they are: a path on this machine, or a URL that fsspec reads."""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from engine.errors import ImageError, OutputError, first_line
from engine.pictures.folders import named_file


def is_url(source: str) -> bool:
    """Tell whether a source is a URL for fsspec, such as s3://bucket/a.jpg, and no path."""
    scheme, separator, _ = source.partition("://")
    return bool(separator) and scheme.isascii() and scheme.replace("+", "").isalnum()


def named_source(folder: Path, given: str) -> str:
    """Return the source that a table names: a URL as it is, or the absolute path of a file below `folder`."""
    return given if is_url(given) else str(named_file(folder.absolute(), given))


@contextlib.contextmanager
def fetched(source: str) -> Iterator[tuple[Path, bytes]]:
    """Give a source as a file, and the sha256 of its content. Raises ImageError if it cannot be read.

    "" is the source of a picture whose table names none. Raises OutputError if there is no room for a copy of a URL's.
    """
    if not source:
        raise ImageError("its table names no path and no URL")
    if not is_url(source):
        yield Path(source), _digest(Path(source))
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"picture{PurePosixPath(source.partition('?')[0]).suffix[:10]}"
        content = _download(source)
        try:
            copy.write_bytes(content)
        except OSError as error:
            raise OutputError(f"cannot keep a copy of {source} in {folder}: {error.strerror or error}") from error
        yield copy, _digest(copy)


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read {path}: {getattr(error, 'strerror', None) or first_line(error)}") from error


def _download(source: str) -> bytes:
    try:
        import fsspec  # noqa: PLC0415 - for URLs alone
    except ImportError as error:
        raise ImageError(f"{source} is a URL, which fsspec reads: pip install fsspec") from error
    try:
        with fsspec.open(source, "rb") as file:
            content: bytes = file.read()
    except Exception as error:  # every file system raises its own
        raise ImageError(f"cannot read {source}: {first_line(error)}") from error
    return content
