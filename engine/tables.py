"""Read tables: CSV as spreadsheets of any country and system write it, and Parquet."""

import codecs
import csv
import dataclasses
import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from engine.errors import OptionError, first_line

COLUMN_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
TABLE_SUFFIXES, PARQUET_SUFFIX = (".csv", ".tsv"), ".parquet"
LARGEST_TEXT = 50_000_000
"""Bytes of a table: its rows take many times as much memory."""
MOST_ROWS = 10**6


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of a table.

    columns: their names
    rows: by column, each with the number of the line where it begins; of rows that are too short some are None
    """

    columns: tuple[str, ...]
    rows: list[tuple[int, dict[str, str | None]]]


def read_text(file: Path, what: str) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with a byte order mark, as Excel's "Unicode text" is.

    what: the word for its contents in messages. Raises OptionError if it cannot be read, or is larger than LARGEST_TEXT.
    """
    try:
        if file.stat().st_size > LARGEST_TEXT:
            raise OptionError(
                f"cannot read the {what} {file}: it has more than {LARGEST_TEXT // 10**6} MB; split it, or write it as "
                "Parquet where that is taken"
            )
        data = file.read_bytes()
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if wide else "utf-8-sig")
    except OSError as error:
        raise OptionError(f"cannot read the {what} {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise OptionError(f"cannot read the {what} {file}: line {line} is not UTF-8; save it as CSV in UTF-8") from error


def read_table(
    file: Path, text: str, required: Sequence[str], optional: Sequence[str] = (), *, others: bool = False
) -> Table:
    """Read a table whose first line names its columns; commas, semicolons or tabs separate them, whichever fit the names.

    text: the file's, see `read_text`; a first line `sep=;`, which Excel writes, is skipped
    required, optional: names of columns; others: whether the table may have more
    Raises OptionError, with what was found, if the columns are others, a row has more, the text is no CSV, or there are more
    than MOST_ROWS rows.
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
    known = {*required, *optional, *(columns if others else ())}
    if not set(required) <= set(columns) <= known or len(set(columns)) < len(columns):
        wanted = ", ".join(required) + (f" and, if wanted, {', '.join(optional)}" if optional else "")
        got = f"{', '.join(columns)} (separated by {COLUMN_SEPARATORS[separator]})" if any(columns) else "nothing"
        raise OptionError(
            f"{file}, line {skipped + 1}: the columns must be {wanted}; got {got if len(got) < 200 else got[:200] + '...'}: "
            "the first line has the column names"
        )
    reader = csv.DictReader(lines, columns, delimiter=separator, strict=True)
    try:
        read = itertools.islice(reader, MOST_ROWS + 1)
        rows = [(reader.line_num + skipped + 1 - _line_ends(row), row) for row in read]
    except csv.Error as error:
        raise OptionError(f"{file} is not a CSV file: line {reader.reader.line_num + skipped + 1} ({error})") from error
    if len(rows) > MOST_ROWS:
        raise OptionError(f"{file} has more than {MOST_ROWS:,} rows: split it, or write it as Parquet where that is taken")
    for number, row in rows:
        if None in row:
            raise OptionError(
                f"{file}, line {number}: too many columns: put what has {COLUMN_SEPARATORS[separator]} in it into quotes"
            )
    return Table(columns, rows)


def parquet_texts(file: Path, extra: str) -> dict[str, list[str | None]]:
    """Return the columns of a Parquet file by name, every value as text; None where it has none, or NaN.

    extra: what to install for it. Raises OptionError if it is no such file, or pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: PLC0415 - for such tables alone
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise OptionError(f"{file} is a Parquet file, which pyarrow reads: pip install 'sane-engine[{extra}]'") from error
    try:
        table = pyarrow.parquet.read_table(file)
    except OSError as error:
        raise OptionError(f"cannot read {file}: {error.strerror or first_line(error)}") from error
    except (pyarrow.ArrowException, ValueError) as error:
        raise OptionError(f"{file} is not a Parquet file ({first_line(error)})") from error
    columns = {name: table[name].to_pylist() for name in table.column_names}
    return {name: [_text_of(value) for value in values] for name, values in columns.items()}


def _text_of(value: object) -> str | None:
    missing = value is None or (isinstance(value, float) and math.isnan(value))  # as pandas writes what is missing
    return None if missing else str(value)


def _line_ends(row: dict[str, str | None]) -> int:
    """Return how many lines a row has besides its first: names in quotes may have several."""
    return sum(value.count("\n") for value in row.values() if isinstance(value, str))


def _header(line: str, required: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return the separator and the column names: those with all that is required, else with the most columns."""
    found = {}
    for separator in COLUMN_SEPARATORS:
        names = next(csv.reader([line], delimiter=separator), [])
        found[separator] = tuple(name.strip() for name in names)
    best = max(found, key=lambda separator: (set(required) <= set(found[separator]), len(found[separator])))
    return best, found[best]
