"""The pictures of a catalogue: a folder, or a table of ids and paths or URLs."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from engine.errors import ImageError, OptionError
from engine.pictures.fetching import fetched, named_source
from engine.pictures.folders import pictures_below
from engine.tables import PARQUET_SUFFIX, TABLE_SUFFIXES, parquet_texts, read_table, read_text

PATH_COLUMNS = ("path", "url")
LONGEST_ID = 1000
"""Characters of an id."""


@dataclasses.dataclass(frozen=True)
class Listed:
    """A picture of a catalogue. id: its name in the index; source: a path, or a URL that fsspec reads; "": none is named"""

    id: str
    source: str


Catalogue = Path | str | Mapping[str, str | Path]
"""A folder, a .csv or .parquet with the columns id and path or url, or sources by id."""


def listed_pictures(images: Catalogue) -> list[Listed]:
    """Return the pictures of a catalogue, sorted by id. Of a folder, ids are paths below it, with / between folders.

    Paths in a table are relative to its folder. Raises OptionError if there is none, or an id twice.
    """
    if isinstance(images, Mapping):
        found = [Listed(id_, str(source)) for id_, source in images.items()]
    elif Path(images).suffix.lower() in (*TABLE_SUFFIXES, PARQUET_SUFFIX):
        found = _of_table(Path(images))
    elif Path(images).is_dir():
        folder = Path(images).absolute()
        found = [Listed(path.relative_to(folder).as_posix(), str(path)) for path in pictures_below(folder)]
    else:
        raise OptionError(f"there is no folder {images}: give a folder of pictures, or a .csv or .parquet of id and path")
    if not found:
        raise OptionError(f"{images} has no pictures: at least one is needed")
    seen: set[str] = set()
    for one in found:
        if not one.id or len(one.id) > LONGEST_ID or one.id in seen:
            raise OptionError(
                f"{images}: ids must be distinct and have 1 to {LONGEST_ID} characters, got {one.id[:LONGEST_ID]!r}"
            )
        seen.add(one.id)
    return sorted(found, key=lambda one: one.id)


def _of_table(file: Path) -> list[Listed]:
    found = []
    for where, id_, source in _of_parquet(file) if file.suffix.lower() == PARQUET_SUFFIX else _of_text(file):
        if not id_:
            raise OptionError(f"{file}, {where}: an id is needed, and the cell is empty")
        found.append(Listed(id_, named_source(file.parent, source) if source else ""))
    return found


Cells = Iterator[tuple[str, str | None, str | None]]
"""Where a row is, for messages; its id; its path or URL."""


def _of_text(file: Path) -> Cells:
    table = read_table(file, read_text(file, "catalogue"), ("id",), PATH_COLUMNS, others=True)
    named = _path_column(file, table.columns)
    return ((f"line {number}", row["id"], row[named]) for number, row in table.rows)


def _of_parquet(file: Path) -> Cells:
    columns = parquet_texts(file, "index")
    named = _path_column(file, tuple(columns))
    rows = zip(columns["id"], columns[named], strict=True)
    return ((f"row {number}", id_, source) for number, (id_, source) in enumerate(rows, 1))


def _path_column(file: Path, columns: tuple[str, ...]) -> str:
    named = next((name for name in PATH_COLUMNS if name in columns), None)
    if "id" not in columns or named is None:
        raise OptionError(f"{file} needs the columns id and path, or id and url; it has {', '.join(columns) or 'none'}")
    return named


def is_unchanged(one: Listed, digest: bytes | None) -> bool:
    """Tell whether a picture's file still has this sha256. One that cannot be read has changed; None: none is known."""
    if digest is None:
        return False
    try:
        with fetched(one.source) as (_, now):
            return now == digest
    except ImageError:
        return False
