"""Read tables: CSV as spreadsheets of any country and system write it."""

import codecs
import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

from engine.errors import OptionError

COLUMN_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
TABLE_SUFFIXES = (".csv", ".tsv")


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of a table.

    columns: their names; separator: what is between them
    rows: by column, each with the number of its line; of rows that are too short some are None, and what is too much has
        the key None
    """

    columns: tuple[str, ...]
    separator: str
    rows: list[tuple[int, dict[str, str | None]]]


def read_text(file: Path, what: str) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with a byte order mark, as Excel's "Unicode text" is.

    what: the word for its contents in messages. Raises OptionError if it cannot be read.
    """
    try:
        data = file.read_bytes()
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if wide else "utf-8-sig")
    except OSError as error:
        raise OptionError(f"cannot read the {what} {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise OptionError(f"cannot read the {what} {file}: line {line} is not UTF-8; save it as CSV in UTF-8") from error


def read_table(file: Path, text: str, required: Sequence[str], optional: Sequence[str] = ()) -> Table:
    """Read a table whose first line names its columns; commas, semicolons or tabs separate them, whichever fit the names.

    text: the file's, see `read_text`; a first line `sep=;`, which Excel writes, is skipped
    required, optional: names of columns; others may not be there
    Raises OptionError, with what was found, if the columns are others or the text is no CSV.
    """
    lines = io.StringIO(text, newline="")
    first, skipped = lines.readline(), 0
    told = first.strip().lower()
    if told.startswith("sep=") and len(told) <= len("sep=;"):
        first, skipped = lines.readline(), 1
    try:
        separator, columns = _header(first, required)
    except csv.Error as error:
        raise OptionError(f"{file} is not a CSV file ({error})") from error
    if not set(required) <= set(columns) <= {*required, *optional} or len(set(columns)) < len(columns):
        wanted = ", ".join(required) + (f" and, if wanted, {', '.join(optional)}" if optional else "")
        got = f"{', '.join(columns)} (separated by {COLUMN_SEPARATORS[separator]})" if any(columns) else "nothing"
        raise OptionError(
            f"{file}, line {skipped + 1}: the columns must be {wanted}; got {got if len(got) < 200 else got[:200] + '...'}: "
            "the first line has the column names"
        )
    reader = csv.DictReader(lines, columns, delimiter=separator)
    try:
        return Table(columns, separator, [(reader.line_num + skipped + 1, row) for row in reader])
    except csv.Error as error:
        raise OptionError(f"{file} is not a CSV file: line {reader.reader.line_num + skipped + 1} ({error})") from error


def _header(line: str, required: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return the separator and the column names: those with all that is required, else with the most columns."""
    found = {}
    for separator in COLUMN_SEPARATORS:
        names = next(csv.reader([line], delimiter=separator), [])
        found[separator] = tuple(name.strip() for name in names)
    best = max(found, key=lambda separator: (set(required) <= set(found[separator]), len(found[separator])))
    return best, found[best]
