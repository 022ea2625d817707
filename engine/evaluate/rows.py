"""One row per pair and method, saved as soon as it is computed, so that a stopped run continues where it was."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.errors import OptionError, OutputError

Row = dict[str, Any]
KEY_FIELDS = {"pair": int, "method": str, "mode": str}
VALUE_FIELDS = {"pictures", "passes", "insertion_scores", "deletion_scores", "insertion_auc", "deletion_auc"}
"""The fields of every row: those of its key, with their types, and the others."""
Key = tuple[int, str, str]
"""(number of the pair, method, mode)."""


class Rows:
    """A file of JSON lines: first the settings, then one row per line. A last line that is incomplete is dropped.

    Raises OptionError if the file has rows of other settings, OutputError if it cannot be read or written.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path = path
        self._rows: dict[Key, Row] = {}
        try:
            lines = self._complete_lines()
            if lines and lines[0] != settings:
                differing = [name for name in settings if lines[0].get(name) != settings[name]]
                raise OptionError(
                    f"{path} has rows of other settings ({', '.join(differing)} differ): choose another --out, or delete it"
                )
            self._rows = {_key(row): row for row in lines[1:]}
            if not lines:
                self._append(settings)
        except OSError as error:
            raise OutputError(f"cannot use {path}: {error.strerror or error}") from error

    def has(self, key: Key, pictures: str) -> bool:
        """Whether there is a row with this key and this digest of the pictures."""
        return key in self._rows and self._rows[key]["pictures"] == pictures

    def __getitem__(self, key: Key) -> Row:
        """Return the row with this key. Raises KeyError."""
        return self._rows[key]

    def add(self, row: Row) -> None:
        """Append a row to the file. Raises OutputError if it cannot be written."""
        try:
            self._append(row)
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror or error}") from error
        self._rows[_key(row)] = row

    def _append(self, line: Row) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _complete_lines(self) -> list[Row]:
        """Return the lines that were written completely; remove an incomplete end from the file."""
        if not self._path.exists():
            return []
        content = self._path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.truncate(self._path, end)
        return list(self._parsed(content[:end]))

    def _parsed(self, content: bytes) -> Iterator[Row]:
        for number, line in enumerate(content.splitlines(), 1):
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                found = None
            if not isinstance(found, dict) or not (number == 1 or _is_row(found)):
                raise OutputError(f"{self._path}, line {number}, is not a row; delete the file")
            yield found


def _is_row(line: Row) -> bool:
    """Whether a line has every field of a row, and can be found by its key."""
    return line.keys() >= VALUE_FIELDS and all(isinstance(line.get(name), kind) for name, kind in KEY_FIELDS.items())


def _key(row: Row) -> Key:
    return (row["pair"], row["method"], row["mode"])
