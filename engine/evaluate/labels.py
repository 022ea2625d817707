"""Files of labels: which attributes pictures have, and which pictures match each other."""

import csv
import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.errors import OptionError

LABEL_COLUMNS = ("image", "group", "attributes")
SEPARATOR = ";"
FEWEST_LABELLED, MOST_LABELLED = 4, 5000
"""Pictures: fewer say nothing, and of more the table of all similarities would not fit into memory."""


@dataclasses.dataclass(frozen=True, eq=False)
class Labelled:
    """files: n pictures; truth: (n, A) bool, which of the bundle's attributes each has

    groups: (n,) int, equal for pictures that match; grouped: whether the file said so, else each is in a group of its own
    unknown: attributes that the bundle does not name, and in how many rows
    """

    files: tuple[Path, ...]
    groups: np.ndarray
    truth: np.ndarray
    grouped: bool
    unknown: dict[str, int]


def read_labels(file: Path, images: Path, names: Sequence[str]) -> Labelled:
    """A CSV with header `image,group,attributes`, the column `group` optional.

    image: a file below `images`, once; group: any text, pictures of equal text match, empty: matches none; attributes: names
    with `;` between them, or empty. names: the bundle's attributes, in the columns of `truth`.

    Raises OptionError, with the line, for unknown columns, files that are missing, and pictures named twice.
    """
    try:
        reader = csv.DictReader(file.read_text(encoding="utf-8-sig").splitlines())
        columns = tuple(reader.fieldnames or ())
        rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot read the labels {file}: {getattr(error, 'strerror', None) or error}") from error
    except csv.Error as error:
        raise OptionError(f"{file} is not a CSV file ({error})") from error
    if (
        not {"image", "attributes"} <= set(columns)
        or not set(columns) <= set(LABEL_COLUMNS)
        or len(set(columns)) < len(columns)
    ):
        got = ",".join(columns) or "nothing"
        raise OptionError(f"{file}, line 1: the columns must be image,group,attributes or image,attributes, got {got}")
    files: dict[Path, int] = {}
    for number, row in rows:
        _add(files, file, number, row, images)
    if not FEWEST_LABELLED <= len(files) <= MOST_LABELLED:
        raise OptionError(f"{file} names {len(files)} pictures; from {FEWEST_LABELLED} to {MOST_LABELLED} are needed")
    said = [_attributes(row["attributes"]) for _, row in rows]
    unknown = Counter(name for one in said for name in one if name not in names)
    truth = np.array([[name in one for name in names] for one in said], bool).reshape(len(rows), len(names))
    if not truth.any():
        some = ", ".join([*list(unknown)[:3], *(["..."] if len(unknown) > 3 else [])]) or "no attributes at all"
        raise OptionError(f"{file} names none of the bundle's attributes ({', '.join(names[:3])}, ...), it has {some}")
    # a picture without a group shares it with none: its line is a name no other picture has
    groups = [("", row["group"]) if row.get("group") else ("line", str(number)) for number, row in rows]
    index = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    return Labelled(
        tuple(files), np.array([index[g] for g in groups]), truth, "group" in columns, dict(sorted(unknown.items()))
    )


def _add(files: dict[Path, int], file: Path, number: int, row: dict[str, str], images: Path) -> None:
    """Note a row's picture, and its line."""
    if None in row or None in row.values():
        raise OptionError(f"{file}, line {number}: {'too many' if None in row else 'too few'} columns")
    if not row["image"]:
        raise OptionError(f"{file}, line {number}: an image is needed")
    if Path(row["image"]).is_absolute() or ".." in Path(row["image"]).parts:
        raise OptionError(f"{file}, line {number}: an image must lie below {images}, got {row['image']}")
    path = images / row["image"]
    if path in files:
        raise OptionError(f"{file}, line {number}: {row['image']} is named in line {files[path]} already")
    if not path.is_file():
        raise OptionError(f"{file}, line {number}: there is no picture {path}")
    files[path] = number


def _attributes(text: str) -> set[str]:
    return {name.strip() for name in text.split(SEPARATOR)} - {""}
