"""The folder of a batch: tables that appear part by part, each whole and once.

batch.json       what all rows have in common; a run goes on only with the same
explanations/    a Parquet file for each part, which is done when that is there
failed/          a Parquet file for each part of which pairs failed
pictures/        a folder for each part, if pictures were asked for
failed.parquet   all pairs that failed, when the batch is done
lock             held by the process that the parts are given out by
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.batch.pairs import ListedPair
from engine.batch.table import ExplanationRows, failed_table, parquet_bytes, read_failed
from engine.errors import OptionError, OutputError, first_line
from engine.explanation import Explanation
from engine.files import flush, found_beside, json_bytes, write_whole
from engine.writing import LOCK

BATCH_FILE, EXPLAINED_FOLDER, FAILED_FOLDER, PICTURES_FOLDER, FAILED_TABLE = (
    "batch.json",
    "explanations",
    "failed",
    "pictures",
    "failed.parquet",
)
LEFT_OVER = ".*.????????"
"""Names of files that a process was writing when it was killed."""


@dataclasses.dataclass(frozen=True)
class BatchFolder:
    """Made by `open_folder`, for the process that holds its lock; others write parts that they are given."""

    path: Path

    def done(self, number: int) -> bool:
        """Tell whether a part is written."""
        return self._file(EXPLAINED_FOLDER, number).is_file()

    @contextlib.contextmanager
    def writing_part(self, number: int) -> "Iterator[WrittenPart]":
        """Give what a part's rows are added to; its table, which says that it is done, comes last. Raises OutputError."""
        part = WrittenPart(self.path, f"{PICTURES_FOLDER}/{number:06}")
        yield part
        flush([*part.drawn, *{folder for file in part.drawn[:1] for folder in list(file.parents)[:2]}])
        if part.failed:
            write_whole(self._file(FAILED_FOLDER, number), parquet_bytes(failed_table(part.failed)), lasting=True)
        else:  # of an attempt that was killed after it
            self._file(FAILED_FOLDER, number).unlink(missing_ok=True)
        write_whole(self._file(EXPLAINED_FOLDER, number), parquet_bytes(part.rows.table()), lasting=True)

    def finish(self, parts: int) -> int:
        """Write the table of all pairs that failed, or remove it if there are none; returns their number."""
        files = [file for number in range(parts) if (file := self._file(FAILED_FOLDER, number)).is_file()]
        found = read_failed(files)
        if len(found):
            write_whole(self.path / FAILED_TABLE, parquet_bytes(found))
        else:
            (self.path / FAILED_TABLE).unlink(missing_ok=True)
        return len(found)

    def _file(self, kind: str, number: int) -> Path:
        return self.path / kind / f"{number:06}.parquet"


class WrittenPart:
    """A part that is being written. rows: of its explanations; failed: reasons by pair; drawn: its pictures"""

    def __init__(self, path: Path, pictures: str) -> None:
        self._path, self._pictures = path, pictures
        self.rows, self.failed, self.drawn = ExplanationRows(), dict[ListedPair, str](), list[Path]()

    def add(self, pair: ListedPair, explanation: Explanation, *, draw: bool) -> None:
        """Add a pair's explanation. draw: write it as a picture, too"""
        name = None
        if draw:
            name = f"{self._pictures}/{pair.row:08}.png"
            (self._path / self._pictures).mkdir(exist_ok=True)
            explanation.save(self._path / name)
            self.drawn.append(self._path / name)
        self.rows.add(pair, explanation, name)


def open_folder(path: Path, settings: Mapping[str, Any]) -> BatchFolder:
    """Begin a batch in a folder whose lock is held, or go on with the one that is there.

    Raises OptionError if that is another one, OutputError if the folder holds other things.
    """
    ours = (BATCH_FILE, EXPLAINED_FOLDER, FAILED_FOLDER, PICTURES_FOLDER, FAILED_TABLE, LOCK)
    beside = [left for name in (BATCH_FILE, FAILED_TABLE) for left in found_beside(path / name)]
    begun = path / BATCH_FILE
    if begun.is_file():
        _require_same(begun, settings)
    else:
        others = sorted(one.name for one in path.iterdir() if one.name not in ours[-1:] and one not in beside)
        if others:
            raise OutputError(f"{path} is no batch and holds {others[0]!r}: give an empty folder, or a name that is free")
        write_whole(begun, json_bytes(settings), lasting=True)
    try:
        for leftover in beside:
            leftover.unlink()
        for kind in (EXPLAINED_FOLDER, FAILED_FOLDER, PICTURES_FOLDER):
            (path / kind).mkdir(exist_ok=True)
            for leftover in (path / kind).rglob(LEFT_OVER):
                leftover.unlink()
        flush([path, path.parent])
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    return BatchFolder(path)


def _require_same(begun: Path, settings: Mapping[str, Any]) -> None:
    try:
        found = json.loads(begun.read_text(encoding="utf-8"))
        differing = [name for name in settings if found[name] != json.loads(json.dumps(settings[name]))]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise OutputError(f"{begun} is damaged ({first_line(error)}): choose another --out") from error
    if differing:
        raise OptionError(
            f"{begun.parent} is a batch with other settings ({', '.join(differing)} differ): choose another --out"
        )
