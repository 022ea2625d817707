"""One row per pair and method, kept as they are made: a run that was stopped goes on where it was."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.errors import OptionError, OutputError

Row = dict[str, Any]
ROW_FIELDS = {"pictures", "passes", "insertion_scores", "deletion_scores", "insertion_auc", "deletion_auc"}
"""Of every row, beside those of its key."""
Key = tuple[int, str, str]
"""Number of the pair, method, mode."""


class Rows:
    """JSON lines at `path`: first the settings, then a row each. A line that was cut off is dropped.

    Raises OptionError where the file holds rows of other settings, OutputError where it cannot be read or written.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path = path
        self._rows: dict[Key, Row] = {}
        try:
            lines = self._whole_lines()
            if lines and lines[0] != settings:
                other = [name for name in settings if lines[0].get(name) != settings[name]]
                raise OptionError(
                    f"{path} holds rows of other settings ({', '.join(other)} differ): choose another --out, or delete it"
                )
            self._rows = {_key(row): row for row in lines[1:]}
            if not lines:
                self._append(settings)
        except OSError as error:
            raise OutputError(f"cannot use {path}: {error.strerror or error}") from error

    def has(self, key: Key, pictures: str) -> bool:
        """Whether there is a row of this key and these pictures."""
        return key in self._rows and self._rows[key]["pictures"] == pictures

    def __getitem__(self, key: Key) -> Row:
        return self._rows[key]

    def add(self, row: Row) -> None:
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

    def _whole_lines(self) -> list[Row]:
        """What was written whole; a cut-off end is removed from the file."""
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
                row = json.loads(line)
                if number > 1 and (hash(_key(row)) is None or not row.keys() >= ROW_FIELDS):
                    raise KeyError
                row.keys()
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise OutputError(f"{self._path}, line {number}, is not a row; delete the file") from error
            yield row


def _key(row: Row) -> Key:
    return (row["pair"], row["method"], row["mode"])
