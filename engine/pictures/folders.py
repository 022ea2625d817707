"""Find pictures in a folder and its subfolders, and the files that a table or an index names, on every system."""

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from PIL import Image

from engine.errors import OptionError
from engine.pictures.opening import FORMATS

LEFT_BY_SYSTEMS = (
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"),
    *("__macosx", "@eadir", "$recycle.bin", "system volume information"),
)
"""Files and folders that Windows, macOS and network drives leave among pictures, in lower case; others begin with a dot."""
IN_JPEG = "MPO"
"""What Pillow calls a JPEG file with several pictures, of which the first is read."""


def files_below(folder: Path) -> list[Path]:
    """Return all files in a folder and its subfolders, sorted by their path, but for hidden ones and LEFT_BY_SYSTEMS.

    Linked folders are entered, each once. Raises OptionError if a folder cannot be read.
    """
    found = list(_walk(Path(folder), set()))
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def pictures_below(folder: Path) -> list[Path]:
    """Return those of `files_below` whose suffix, in capitals or not, is that of a format that is opened."""
    known = Image.registered_extensions()  # loads all of Pillow's formats
    suffixes = {suffix for suffix, kind in known.items() if kind in (*FORMATS, IN_JPEG)}
    return [path for path in files_below(folder) if path.suffix.lower() in suffixes]


def _walk(folder: Path, entered: set[Path]) -> Iterator[Path]:
    try:
        entered.add(folder.resolve())
        paths = list(folder.iterdir())
    except OSError as error:
        raise OptionError(f"cannot read the folder {folder}: {error.strerror or error}") from error
    for path in paths:
        if path.name.startswith(".") or path.name.lower() in LEFT_BY_SYSTEMS:
            continue
        if path.is_dir():
            if path.resolve() not in entered:
                yield from _walk(path, entered)
        elif path.is_file():
            yield path


def named_file(folder: Path, name: str) -> Path:
    r"""Return the file below `folder` that a table names; the path as it would be if there is no such file.

    name: with / or \ between folders, as the system writes it on which the table was made; letters with accents in
        one or in two characters, as macOS and others write them
    """
    own = [name, PureWindowsPath(name).as_posix()]
    written = [*own, *(unicodedata.normalize(form, text) for text in own for form in ("NFC", "NFD"))]
    own_bytes = (os.fsdecode(text.encode(errors="surrogatepass")) for text in dict.fromkeys(written))  # in any locale
    paths = [folder / text for text in own_bytes]
    # a name with \ is a folder's and a file's, unless a file is really called so
    return next((path for path in paths if file_is_there(path)), paths[min("\\" in name, len(paths) - 1)])


def leads_outside(name: str) -> bool:
    """Tell whether a name in a table is an absolute path, or has .. in it, on this system or on Windows."""
    windows = PureWindowsPath(name)
    return bool(Path(name).anchor) or windows.is_absolute() or ".." in windows.parts


def other_place(folder: Path, name: str) -> str:
    """Return ", but there is ..." for the end of a message, if a file of this name is elsewhere below `folder`, else ""."""
    wanted = PureWindowsPath(name).name.casefold()
    found = [path for path in files_below(folder) if path.name.casefold() == wanted] if folder.is_dir() else []
    return f", but there is {found[0].relative_to(folder).as_posix()}" if found else ""


def file_is_there(path: Path) -> bool:
    """Tell whether a file exists, whatever its name is."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with a character that no name may have
        return False
