"""Read files of labels: which attributes pictures have, and which pictures match (docs/method.md, Data layouts)."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.errors import OptionError, shortened
from engine.pictures.folders import file_is_there, leads_outside, named_file, other_place
from engine.tables import read_table, read_text

SEPARATOR = ";"
FEWEST_LABELLED, MOST_LABELLED = 4, 5000
"""Numbers of pictures: fewer say nothing, and with more the table of all similarities does not fit into memory."""


@dataclasses.dataclass(frozen=True, eq=False)
class Labelled:
    """n labelled pictures.

    files: one each; groups: (n,) int, equal for pictures that match
    truth: (n, A) bool, which of the bundle's attributes each picture has
    grouped: whether the file has groups; if not, each picture is in a group of its own
    unknown: attributes that the bundle does not have, with the number of rows that name them
    """

    files: tuple[Path, ...]
    groups: np.ndarray
    truth: np.ndarray
    grouped: bool
    unknown: dict[str, int]


def read_labels(file: Path, images: Path, names: Sequence[str]) -> Labelled:
    r"""Read a CSV with the columns `image,group,attributes`, where `group` may be left out.

    The column image names a file below the folder `images`, each once, with / or \ between folders. Pictures with the same
    text in group match; a picture with an empty group matches none. The column attributes has names separated by `;`, or is
    empty. See `read_table` for what may be between columns.
    names: the bundle's attributes, in the order of the columns of `truth`

    Raises OptionError, with the line, for unknown columns, missing files, and pictures that are named twice.
    """
    table = read_table(file, read_text(file, "labels"), ("image", "attributes"), ("group",))
    files: dict[Path, int] = {}
    for number, row in table.rows:
        _add_picture(files, file, number, row, images)
    if not FEWEST_LABELLED <= len(files) <= MOST_LABELLED:
        raise OptionError(f"{file} names {len(files)} pictures; from {FEWEST_LABELLED} to {MOST_LABELLED} are needed")
    attributes = [_attributes(row["attributes"] or "") for _, row in table.rows]
    unknown = Counter(name for one in attributes for name in one if name not in names)
    truth = np.array([[name in one for name in names] for one in attributes], bool).reshape(len(files), len(names))
    if not truth.any():
        got = ", ".join([*list(unknown)[:3], *(["..."] if len(unknown) > 3 else [])]) or "no attributes at all"
        raise OptionError(f"{file} names none of the bundle's attributes ({', '.join(names[:3])}, ...), but {got}")
    # a picture without a group matches none: its line number becomes a group that no other picture has
    groups = [("", row["group"]) if row.get("group") else ("line", str(number)) for number, row in table.rows]
    index = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    return Labelled(
        tuple(files), np.array([index[g] for g in groups]), truth, "group" in table.columns, dict(sorted(unknown.items()))
    )


def names_in(file: Path) -> tuple[str, ...]:
    """Return the attributes that a file of labels names, sorted. Raises OptionError if it is none or names no attribute."""
    table = read_table(file, read_text(file, "labels"), ("image", "attributes"), ("group",))
    found = {name for _, row in table.rows for name in _attributes(row["attributes"] or "")}
    if not found:
        raise OptionError(f"{file} names no attributes: write them into that column, with {SEPARATOR} between them")
    return tuple(sorted(found))


def _add_picture(files: dict[Path, int], file: Path, number: int, row: dict[str, str | None], images: Path) -> None:
    """Add a row's picture and line number to `files`. Raises OptionError if the row is not valid."""
    if None in row.values():
        raise OptionError(f"{file}, line {number}: too few columns")
    name = row["image"]
    if not name:
        raise OptionError(f"{file}, line {number}: a picture is needed in the column image")
    if leads_outside(name):
        raise OptionError(f"{file}, line {number}: a picture must lie below {images}, got {shortened(name)}")
    path = named_file(images, name)
    if path in files:
        raise OptionError(f"{file}, line {number}: {name} is already named in line {files[path]}")
    if not file_is_there(path):
        raise OptionError(f"{file}, line {number}: there is no picture {path}{other_place(images, name)}")
    files[path] = number


def _attributes(text: str) -> set[str]:
    return {name.strip() for name in text.split(SEPARATOR)} - {""}
