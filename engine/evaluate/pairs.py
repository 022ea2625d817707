"""Read files of pairs: CSV, or the paper authors' format (docs/method.md, Data layouts)."""

import dataclasses
from pathlib import Path

from engine.errors import OptionError, shortened
from engine.pictures.folders import named_file, pictures_below
from engine.tables import TABLE_SUFFIXES, read_table, read_text

MATCHING = "1"


@dataclasses.dataclass(frozen=True)
class Pair:
    """A query and a reference that match. condition: index or name, as text; None for no condition"""

    query: Path
    reference: Path
    condition: str | None = None


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The pairs of a file. pairs: those that match; non_matching: number of pairs that are labelled as not matching"""

    pairs: tuple[Pair, ...]
    non_matching: int


def read_pairs(file: Path, images: Path | None) -> Pairs:
    r"""Read the pairs of a `.csv` or `.tsv` with the columns `query,reference` and, if wanted, `condition` and `label`; or
    of any other file with lines of `query_id reference_id label`, the authors' format.

    images: folder of the pictures. Paths of a CSV are relative to it (None: to the CSV's own folder), with / or \ between
        folders. Ids are names of files anywhere below it, without suffix
    Pairs with a label other than 1 are left out. Raises OptionError, with the line, if the file or a line is not valid.
    """
    text = read_text(file, "pairs")
    table = file.suffix.lower() in TABLE_SUFFIXES
    rows = _read_csv(file, text, images) if table else _read_authors(file, text, images)
    matching = tuple(pair for pair, label in rows if label in (None, "", MATCHING))
    if not matching:
        raise OptionError(f"{file} has no pairs that match: their label must be 1, or left out")
    return Pairs(matching, len(rows) - len(matching))


def _read_csv(file: Path, text: str, images: Path | None) -> list[tuple[Pair, str | None]]:
    """Return the pairs and their labels."""
    folder = file.parent if images is None else images
    found = []
    for number, row in read_table(file, text, ("query", "reference"), ("condition", "label")).rows:
        query, reference = row["query"], row["reference"]
        if not query or not reference:
            raise OptionError(f"{file}, line {number}: a query and a reference are needed")
        pair = Pair(named_file(folder, query), named_file(folder, reference), row.get("condition") or None)
        found.append((pair, row.get("label")))
    return found


def _read_authors(file: Path, text: str, images: Path | None) -> list[tuple[Pair, str | None]]:
    """Return the pairs and their labels."""
    if images is None:
        raise OptionError(f"{file} names pictures by their ids: name their folder with --images")
    if not images.is_dir():
        raise OptionError(f"there is no folder {images}")
    found: list[tuple[Pair, str | None]] = []
    known: dict[str, list[Path]] = {}
    for path in pictures_below(images):
        known.setdefault(path.stem, []).append(path)
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 3:
            raise OptionError(f"{file}, line {number}: 'query_id reference_id label' is needed, got {shortened(line)!r}")
        missing = [name for name in parts[:2] if name not in known]
        if missing:
            raise OptionError(f"{file}, line {number}: no picture {shortened(missing[0])} below {images}")
        several = next((name for name in parts[:2] if len(known[name]) > 1), None)
        if several:
            files = " and ".join(map(str, known[several]))
            raise OptionError(f"{file}, line {number}: {several} could be {files}: keep only one of them below {images}")
        found.append((Pair(known[parts[0]][0], known[parts[1]][0]), parts[2]))
    return found
