"""Files of pairs: CSV, or the paper authors' (docs/method.md, Data layouts)."""

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from engine.errors import OptionError

PAIR_COLUMNS = ("query", "reference", "condition", "label")
MATCHING = "1"


@dataclasses.dataclass(frozen=True)
class Pair:
    """condition: index or name as text, None for none"""

    query: Path
    reference: Path
    condition: str | None = None


@dataclasses.dataclass(frozen=True)
class Pairs:
    """pairs: those that match; left_out: how many are labelled as not matching"""

    pairs: tuple[Pair, ...]
    left_out: int


def read_pairs(file: Path, images: Path | None) -> Pairs:
    """Pairs of a `.csv` with a header of `query,reference` and, where wanted, `condition` and `label`; of any other file
    lines of `query_id reference_id label`, as the authors have them.

    images: where the pictures are: paths of a CSV are relative to it (None: to the CSV); ids name files anywhere below it,
    by name without suffix. Pairs with a label other than 1 are left out. Raises OptionError.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot read the pairs {file}: {getattr(error, 'strerror', None) or error}") from error
    read = _csv if file.suffix.lower() == ".csv" else _authors
    rows = read(file, text, images)
    matching = tuple(pair for pair, label in rows if label in (None, "", MATCHING))
    if not matching:
        raise OptionError(f"{file} has no pairs that match (label 1, or none)")
    return Pairs(matching, len(rows) - len(matching))


def _csv(file: Path, text: str, images: Path | None) -> list[tuple[Pair, str | None]]:
    try:
        reader = csv.DictReader(text.splitlines())
        names = set(reader.fieldnames or ())
    except csv.Error as error:
        raise OptionError(f"{file} is not a CSV file ({error})") from error
    if not {"query", "reference"} <= names or not names <= set(PAIR_COLUMNS):
        raise OptionError(
            f"{file} must begin with a line of column names, query and reference among {', '.join(PAIR_COLUMNS)}"
        )
    folder = file.parent if images is None else images
    found = []
    for number, row in enumerate(_lines(file, reader), 2):
        if not row["query"] or not row["reference"]:
            raise OptionError(f"{file}, line {number}: a query and a reference are needed")
        pair = Pair(folder / row["query"], folder / row["reference"], row.get("condition") or None)
        found.append((pair, row.get("label")))
    return found


def _lines(file: Path, reader: "csv.DictReader[str]") -> Iterator[dict[str, str | None]]:
    try:
        yield from reader
    except csv.Error as error:
        raise OptionError(f"{file}, line {reader.line_num}, is not CSV ({error})") from error


def _authors(file: Path, text: str, images: Path | None) -> list[tuple[Pair, str | None]]:
    if images is None:
        raise OptionError(f"{file} names pictures by their ids: --images says in which folder they are")
    if not images.is_dir():
        raise OptionError(f"there is no folder {images}")
    found: list[tuple[Pair, str | None]] = []
    known: dict[str, list[Path]] = {}
    for path in sorted(images.rglob("*")):
        if path.suffix.lower() in Image.registered_extensions():
            known.setdefault(path.stem, []).append(path)
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 3:
            raise OptionError(f"{file}, line {number}: 'query_id reference_id label' is needed, got {line!r}")
        missing = [name for name in parts[:2] if name not in known]
        if missing:
            raise OptionError(f"{file}, line {number}: no picture {missing[0]} below {images}")
        several = next((name for name in parts[:2] if len(known[name]) > 1), None)
        if several:
            raise OptionError(f"{file}, line {number}: {several} is {' and '.join(map(str, known[several]))}: which one?")
        found.append((Pair(known[parts[0]][0], known[parts[1]][0]), parts[2]))
    return found
