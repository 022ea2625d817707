"""An index's folder: what is committed, with a sha256 of every file, and what is staged. One writer at a time.

index.json    what all rows have in common (`engine.index.settings`)
basis.npz     `basis` (D, r), if the format has one; `pool` (R, D) float32, embeddings that no basis was fitted to
state.json    what is committed: the table's version, the sha256 of every file, failed pictures; replaced whole
rows.lance/   the table
staged/       a file for each shard that was prepared and is not committed yet
search/       the graph that a large index is searched by, which is derived from the rows
lock          held by the writer
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import EngineError, OutputError, first_line
from engine.files import flush, found_beside, sha256_of, write_npz, write_whole
from engine.index.graph import APPROXIMATE_ABOVE, damaged_graphs, usearch_module
from engine.index.settings import IndexSettings
from engine.index.table import HINT, LanceTable, create_table, open_table
from engine.npz import read_npz
from engine.writing import writing

SETTINGS_FILE, BASIS, STATE, ROWS, STAGED = "index.json", "basis.npz", "state.json", "rows.lance", "staged"
DATA, VERSIONS = "data", "_versions"
LAST_VERSION = 2**64 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class State:
    """What is committed.

    version: of the table; rows: how many it has; files: sha256 (hex) by path below the index
    failed: why a picture has no row, by id
    """

    version: int
    rows: int
    files: Mapping[str, str]
    failed: Mapping[str, str]

    def to_json(self) -> str:
        """Return the text of `state.json`, which ends in the sha256 of what precedes it."""
        fields = {**vars(self), "files": dict(self.files), "failed": dict(self.failed)}
        return json.dumps({**fields, "sha256": _digest_of(fields)}, indent=0) + "\n"

    @classmethod
    def read(cls, path: Path) -> "State":
        """Read `state.json`. Raises OutputError if it is missing, or not what was written."""
        try:
            content = path.read_bytes()
            fields = json.loads(content)
            stated = fields.pop("sha256")
            if stated != _digest_of(fields):
                raise OutputError(f"{path} is damaged: its sha256 is not the one that it ends in")
            state = cls(**fields)
            if state.to_json().encode() != content:  # a flipped space or escape means the same, and is damage nevertheless
                raise OutputError(f"{path} is damaged: it is not as it was written")
            return state
        except OSError as error:
            raise OutputError(f"cannot read {path}: {error.strerror or error}") from error
        except EngineError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise OutputError(f"{path} is damaged ({first_line(error)})") from error


@dataclasses.dataclass(frozen=True)
class StagedShard:
    """A shard whose rows are written and not committed.

    name: the hash of its sorted ids and their pictures' digests; fragments: see `LanceTable.appended`
    files: sha256 (hex) by data file; ids: of its rows; failed: why a picture has no row, by id
    """

    name: str
    fragments: list[str]
    files: dict[str, str]
    ids: list[str]
    failed: dict[str, str]

    def write(self, folder: Path) -> None:
        """Write it to the folder of staged shards. Raises OutputError."""
        write_whole(folder / f"{self.name}.json", json.dumps(dataclasses.asdict(self)).encode())

    @classmethod
    def read(cls, path: Path) -> "StagedShard | None":
        """Read it; None if a file of it is damaged or gone: then it must be prepared again."""
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
            data = path.parent.parent / ROWS / DATA
            return found if all(sha256_of(data / name) == sha for name, sha in found.files.items()) else None
        except (OSError, ValueError, TypeError, AttributeError):
            return None


class IndexStore:
    """An index's folder. Raises OutputError if it is not one, or damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = _state(path)
        version = f"{LAST_VERSION - self.state.version}.manifest"  # as Lance names them
        small = [name for name in self.state.files if name in (SETTINGS_FILE, BASIS) or name.endswith(f"/{version}")]
        for problem in _changed(path, self.state, small):
            raise OutputError(f"{path} is damaged: {problem}")
        self.settings = IndexSettings.from_json(_text(path / SETTINGS_FILE), path)
        arrays = read_npz(path / BASIS)
        self.basis: np.ndarray | None = arrays.get("basis")
        self.pool = arrays["pool"]
        self.table = open_table(path / ROWS, self.settings, self.state.version)

    @classmethod
    def create(cls, path: Path, settings: IndexSettings, basis: np.ndarray | None, pool: np.ndarray) -> "IndexStore":
        """Make an index without rows; `state.json` comes last, and without it there is none."""
        write_npz(path / BASIS, {"pool": pool, **({} if basis is None else {"basis": basis})})
        write_whole(path / SETTINGS_FILE, settings.to_json().encode())
        table = create_table(path / ROWS, settings)
        (path / STAGED).mkdir(exist_ok=True)
        files = {name: sha256_of(path / name) for name in (SETTINGS_FILE, BASIS)}
        _write_state(path, table, files, {}, {})
        flush([path.parent])
        return cls(path)

    @property
    def staged(self) -> Path:
        """The folder of staged shards."""
        return self.path / STAGED

    def recover(self) -> None:
        """Take over what a writer that was killed left: finished shards are committed, each once, and the rest is dropped.

        For the writer alone.
        """
        versions = self.path / ROWS / VERSIONS
        (versions / HINT).unlink(missing_ok=True)
        for manifest in versions.glob("*.manifest"):  # not ours, and what a loss of power leaves of it may be torn
            if manifest.stem.isdecimal() and LAST_VERSION - int(manifest.stem) > self.state.version:
                manifest.unlink()
        for file in sorted(self.staged.glob("*.json")):
            shard = StagedShard.read(file)
            if shard is not None:
                self.add_shard(shard)
            file.unlink(missing_ok=True)
        if not all((self.path / name).is_file() for name in self.state.files):  # a compaction was killed
            self.commit(self.table, {}, self.state.failed)
        own = [left for name in (SETTINGS_FILE, BASIS, STATE) for left in found_beside(self.path / name)]
        for leftover in (*own, *self.staged.glob(".*.json.????????")):
            leftover.unlink()  # of `write_whole`
        self.drop_older_rows()

    def add_shard(self, shard: StagedShard) -> None:
        """Commit a staged shard, unless it is committed already."""
        table = self.table
        if not set(shard.files) <= set(table.files()):
            table = table.appended(shard.fragments) if shard.fragments else table
        failed = {k: v for k, v in self.state.failed.items() if k not in shard.ids} | shard.failed
        self.commit(table, {f"{ROWS}/{DATA}/{name}": sha for name, sha in shard.files.items()}, failed)
        (self.staged / f"{shard.name}.json").unlink(missing_ok=True)

    def drop_older_rows(self) -> None:
        """Commit that of rows with one id only the last stays: the others are of pictures that have changed since."""
        ids = self.table.ids()
        last = {id_: place for place, id_ in enumerate(ids)}
        older = [place for place, id_ in enumerate(ids) if last[id_] != place]
        if older:
            self.commit(self.table.without([], older), {}, self.state.failed)

    def compact(self) -> None:
        """Commit the same rows in few files. Raises OutputError if one is damaged: it would get a new checksum."""
        problems = damage(self.path)
        if problems:
            raise OutputError(f"{problems[0]}; compact only what is whole")
        self.commit(self.table.compacted(), {}, self.state.failed)

    def remove(self, ids: list[str]) -> None:
        """Commit that these rows, and failed pictures, are gone."""
        if len(self.table) - len(ids) > APPROXIMATE_ABOVE:
            usearch_module()  # makes the graph of what is left: it must be there before anything is changed
        failed = {k: v for k, v in self.state.failed.items() if k not in ids}
        self.commit(self.table.without(ids) if ids else self.table, {}, failed)

    def commit(self, table: LanceTable, known: Mapping[str, str], failed: Mapping[str, str]) -> None:
        """Make a version of the table the one that readers open. known: sha256 by path of files that were hashed before."""
        (self.path / ROWS / VERSIONS / HINT).unlink(missing_ok=True)  # it changes, and is only a hint
        self.state = _write_state(self.path, table, known, failed, self.state.files)
        self.table = table

    def problems(self) -> list[str]:
        """Return what is wrong with the rows, a line each, where the files are whole."""
        found = [f"the row {id_!r} was changed: its crc32 is not the one stored with it" for id_ in self.table.damaged()]
        if len(self.table) != self.state.rows:
            found.append(f"{STATE} counts {self.state.rows} rows, the table has {len(self.table)}")
        return found


def compact_index(path: Path) -> None:
    """Write the rows of an index into few files. Raises OutputError if it is damaged, OptionError if it is being written."""
    with writing(path):
        store = IndexStore(path)
        store.recover()
        store.compact()


def damage(path: Path) -> list[str]:
    """Return what is wrong with an index, a line each; [] if every byte is as it was written."""
    try:
        state = _state(path)
        # Lance may do anything with a damaged file: rows are read where there is none
        rows = _changed(path, state, state.files) or IndexStore(path).problems()
        return [*rows, *damaged_graphs(path)]
    except OutputError as error:
        return [str(error)]


def _state(path: Path) -> State:
    if not (path / STATE).is_file():
        raise OutputError(f"there is no index at {path}: `python -m engine.index build {path} --images DIR` makes one")
    return State.read(path / STATE)


def _changed(path: Path, state: State, names: Iterable[str]) -> list[str]:
    """Return those of the files that are not as they were written, a line each."""
    found = []
    for name in names:
        try:
            if sha256_of(path / name) != state.files[name]:
                found.append(f"{name} was changed: its sha256 is not the one in {STATE}")
        except OSError as error:
            found.append(f"{name} cannot be read: {error.strerror or error}")
    return found


def _write_state(
    path: Path, table: LanceTable, new: Mapping[str, str], failed: Mapping[str, str], before: Mapping[str, str]
) -> State:
    """Write `state.json` about a version of the table, when all that it names is on the disk.

    before: sha256 by path of the files that the last one names; new: of others that were hashed already
    """
    rows, known = path / ROWS, {**before, **new}
    data = {f"{ROWS}/{DATA}/{name}" for name in table.files()}
    others = {
        file.relative_to(path).as_posix()
        for file in rows.rglob("*")
        if file.is_file() and file.parent.name != DATA and not file.name.startswith(".")
    }
    old = {name for name in known if name not in data and (path / name).is_file()}
    files = {name: known.get(name) or sha256_of(path / name) for name in sorted(data | others | old)}
    added = [path / name for name in files if name not in before]
    folders = {folder for file in added for folder in file.parents if folder.is_relative_to(rows)}
    flush([*added, *sorted(folders), path])
    state = State(table.version, len(table), files, dict(failed))
    write_whole(path / STATE, state.to_json().encode(), lasting=True)
    return state


def _digest_of(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"cannot read {path} ({first_line(error)})") from error
