"""The rows on disk: a Lance table. Fragments are written first and committed later; readers keep their version."""

import ctypes
import dataclasses
import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import OptionError, OutputError, first_line
from engine.index.codec import COMPARED
from engine.index.rows import IndexRow, crc_of, longest_maps
from engine.index.settings import DIGEST, IndexSettings

SETTINGS = {"LANCE_IO_THREADS": "2", "LANCE_CPU_THREADS": "1", "LANCE_LOG": "error"}
"""Of the environment, unless the user has set them: few threads need little address space; it warns about what is meant."""
ARENAS, MOST_ARENAS = -8, 2
"""glibc's mallopt(M_ARENA_MAX, 2): each arena of a thread reserves 64 MB of address space."""
VERSIONS_KEPT = timedelta(hours=1)
"""Compaction keeps the files of versions that readers may still have open for so long."""
HINT = "latest_version_hint.json"
BLOCK_ROWS = 256
ROWS_KEPT_BYTES = 2**27
"""What explanations read of a table is kept in memory if it is surely no larger: most of the time of a read is Lance's."""
CORE = ("embedding", "record", "maps")
"""The columns that an explanation reads: few, because Lance's time goes by columns."""
CRC = 4
"""Bytes of the checksum before a row's activation maps."""


def lance_module() -> Any:
    """Return Lance, with settings made for it. Raises OptionError if it is not installed."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if sys.platform == "linux" and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(ARENAS, MOST_ARENAS)
    try:
        import lance  # noqa: PLC0415 - of the extra `index`
    except ImportError as error:
        raise OptionError("an index needs Lance: pip install 'sane-engine[index]'") from error
    return lance


@dataclasses.dataclass(frozen=True, eq=False)
class ReadRows:
    """What an explanation needs of rows, their checksums compared.

    places: in the table; embeddings: (n, D) float32; records: (n,) of `IndexSettings.dtype`; maps: see `packed_maps`
    """

    places: list[int]
    embeddings: np.ndarray
    records: np.ndarray
    maps: list[bytes]

    def part(self, which: slice) -> "ReadRows":
        """Return some of them."""
        return ReadRows(self.places[which], self.embeddings[which], self.records[which], self.maps[which])


class LanceTable:
    """One version of the table. Made by `open_table`; a row's place is its number in this version."""

    def __init__(self, dataset: Any, settings: IndexSettings) -> None:
        self._dataset, self._settings = dataset, settings

    @property
    def version(self) -> int:
        """Lance's number of it."""
        return int(self._dataset.version)

    def __len__(self) -> int:
        return int(self._dataset.count_rows())

    def read(self, places: Sequence[int], ids: Sequence[str], embeddings: np.ndarray | None = None) -> ReadRows:
        """Read rows by their places. Raises OutputError if one is damaged.

        ids, embeddings: theirs, (n, D) float32; None: they are read too
        """
        columns = CORE if embeddings is None else CORE[1:]
        if embeddings is not None and self._kept is not None:
            every, packed = self._kept
            records, cores = every[list(places)], [packed[place].as_py() for place in places]
        else:
            order = np.argsort(places, kind="stable")  # Lance reads in the table's order for less
            back = np.argsort(order)
            found = self._dataset.take([places[i] for i in order.tolist()], columns=list(columns))
            embeddings = self._embeddings_of(found)[back] if embeddings is None else embeddings
            records, cores = self._core(found)
            records, cores = records[back], [cores[i] for i in back.tolist()]
        maps = []
        for id_, embedding, record, core in zip(ids, embeddings, _bytes_of(records), cores, strict=True):
            own = crc_of((id_.encode(), embedding.data, record.data, core[CRC:]))
            if own != int.from_bytes(core[:CRC], "little"):
                raise OutputError(f"the row {id_!r} of the index is damaged: `python -m engine.index verify` says more")
            maps.append(core[CRC:])
        return ReadRows(list(places), embeddings, records, maps)

    @functools.cached_property
    def _kept(self) -> tuple[np.ndarray, Any] | None:
        """The records of all rows, and their activation maps as a column; None where they may be too large to keep."""
        settings = self._settings
        longest = settings.dtype.itemsize + CRC + longest_maps(settings.cells)
        if longest * len(self) > ROWS_KEPT_BYTES:
            return None
        record, maps = (_one_chunk(self._dataset.to_table(columns=[name])[name]) for name in CORE[1:])
        return _fixed(record, settings.dtype, None), maps

    def picture(self, place: int) -> tuple[str, bytes, bytes]:
        """Return source, sha256 and thumbnail of a row. Raises OutputError if it is damaged."""
        table = self._dataset.take([place])
        if any(True for _ in self._damaged(table)):
            raise OutputError(f"the row {table['id'][0]} of the index is damaged: `python -m engine.index verify` says more")
        return tuple(table[name][0].as_py() for name in ("source", "digest", "thumbnail"))

    def damaged(self) -> Iterator[str]:
        """Read every row, and give the ids of those whose checksum is not theirs."""
        for batch in self._dataset.to_batches(batch_size=BLOCK_ROWS):
            yield from self._damaged(batch)

    def _core(self, table: Any) -> tuple[np.ndarray, list[bytes]]:
        """Return records, and the activation maps behind their checksum."""
        record, maps = (_one_chunk(table[name]) for name in CORE[1:])
        return _fixed(record, self._settings.dtype, None), maps.to_pylist()

    def _embeddings_of(self, table: Any) -> np.ndarray:
        return _fixed(_one_chunk(table["embedding"]), np.dtype("<f4"), self._settings.embedding)

    def _damaged(self, table: Any) -> Iterator[str]:
        embeddings, (records, cores) = self._embeddings_of(table), self._core(table)
        names = ("id", "source", "digest", "thumbnail", "fidelity", "crc")
        rest = zip(*(_one_chunk(table[name]).to_pylist() for name in names), strict=True)
        for embedding, record, core, (id_, *others, crc) in zip(embeddings, _bytes_of(records), cores, rest, strict=True):
            source, digest, thumbnail, fidelity = others
            own = crc_of((id_.encode(), embedding.data, record.data, core[CRC:]))
            whole = crc_of((source.encode(), digest, thumbnail, fidelity), own)
            if (own, whole) != (int.from_bytes(core[:CRC], "little"), crc):
                yield id_

    def ids(self) -> list[str]:
        """The ids of all rows."""
        return list(self._dataset.to_table(columns=["id"])["id"].to_pylist())

    def digests(self) -> dict[str, bytes]:
        """The sha256 of the pictures' files by id."""
        found = self._dataset.to_table(columns=["id", "digest"])
        return dict(zip(found["id"].to_pylist(), found["digest"].to_pylist(), strict=True))

    def sources(self) -> list[str]:
        """Where the pictures of all rows were read."""
        return list(self._dataset.to_table(columns=["source"])["source"].to_pylist())

    def embeddings(self) -> Iterator[np.ndarray]:
        """All embeddings in blocks, (n, D) float32."""
        for batch in self._dataset.to_batches(columns=["embedding"], batch_size=64 * BLOCK_ROWS):
            yield _fixed(batch["embedding"], np.dtype("<f4"), self._settings.embedding)

    def embeddings_at(self, places: Sequence[int]) -> np.ndarray:
        """The embeddings (n, D) float32 of some rows."""
        return self._embeddings_of(self._dataset.take(list(places), columns=["embedding"]))

    def fingerprint(self) -> str:
        """sha256 (hex) of which rows there are, in their order: of their ids and checksums."""
        found = self._dataset.to_table(columns=["id", "crc"])
        names = "\0".join(found["id"].to_pylist())
        return hashlib.sha256(names.encode() + found["crc"].to_numpy().tobytes()).hexdigest()

    def fidelity(self) -> np.ndarray:
        """The fidelity of all rows, (n, COMPARED) float16."""
        found = self._dataset.to_table(columns=["fidelity"])["fidelity"]
        return _fixed(_one_chunk(found), np.dtype("<f2"), COMPARED)

    def files(self) -> list[str]:
        """The names of the data files that this version's rows are in."""
        return sorted(file.path for fragment in self._dataset.get_fragments() for file in fragment.data_files())

    def appended(self, fragments: Sequence[str]) -> "LanceTable":
        """Commit staged fragments, texts of `staged_fragments`; return the new version."""
        lance = lance_module()
        new = [lance.fragment.FragmentMetadata.from_json(text) for text in fragments]
        changed = lance.LanceOperation.Append(new)
        return LanceTable(lance.LanceDataset.commit(self._dataset.uri, changed, read_version=self.version), self._settings)

    def without(self, ids: Sequence[str], before: Sequence[int] | None = None) -> "LanceTable":
        """Commit that the rows of these ids are gone; return the new version. before: only rows at these places."""
        names = ", ".join("'" + id_.replace("'", "''") + "'" for id_ in ids)
        condition = f"id IN ({names})"
        if before is not None:
            addresses = self._dataset.to_table(columns=[], with_row_id=True)["_rowid"].to_pylist()
            condition = f"_rowid IN ({', '.join(str(addresses[i]) for i in before)})"
        self._dataset.delete(condition)
        return LanceTable(lance_module().dataset(self._dataset.uri), self._settings)

    def compacted(self) -> "LanceTable":
        """Commit the same rows in as few files as Lance likes; return the new version."""
        # first: what `state.json` names is the newest version now, and that one Lance never drops
        self._dataset.cleanup_old_versions(older_than=VERSIONS_KEPT)
        self._dataset.optimize.compact_files()
        return LanceTable(lance_module().dataset(self._dataset.uri), self._settings)


def open_table(path: Path, settings: IndexSettings, version: int | None) -> LanceTable:
    """Open one version of a table, or the newest. Raises OutputError if that fails."""
    try:
        return LanceTable(lance_module().dataset(str(path), version=version), settings)
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot open {path} ({first_line(error)}): `python -m engine.index verify` says why") from error


def create_table(path: Path, settings: IndexSettings) -> LanceTable:
    """Make an empty table, in place of what a build that was killed may have left."""
    table = _arrow([], settings)
    return LanceTable(lance_module().write_dataset(table, str(path), mode="overwrite"), settings)


def staged_fragments(path: Path, settings: IndexSettings, rows: Sequence[IndexRow]) -> list[str]:
    """Write rows into files of the table without committing them; return what `LanceTable.appended` takes."""
    lance_module()
    from lance.fragment import write_fragments  # noqa: PLC0415 - after the settings

    fragments = write_fragments(_arrow(rows, settings), str(path), mode="append")
    return [json.dumps(fragment.to_json()) for fragment in fragments]


def _arrow(rows: Sequence[IndexRow], settings: IndexSettings) -> Any:
    import pyarrow as pa  # noqa: PLC0415 - of the extra `index`

    fixed = {
        "digest": ([row.digest for row in rows], DIGEST),
        "embedding": ([row.embedding.astype("<f4").tobytes() for row in rows], 4 * settings.embedding),
        "record": ([row.record.tobytes() for row in rows], settings.dtype.itemsize),
        "fidelity": ([row.fidelity.astype("<f2").tobytes() for row in rows], 2 * COMPARED),
    }
    return pa.table(
        {
            "id": pa.array([row.id for row in rows], pa.string()),
            "source": pa.array([row.source for row in rows], pa.string()),
            **{name: pa.array(values, pa.binary(size)) for name, (values, size) in fixed.items()},
            "maps": pa.array([row.core_crc.to_bytes(CRC, "little") + row.maps for row in rows], pa.binary()),
            "thumbnail": pa.array([row.thumbnail for row in rows], pa.binary()),
            "crc": pa.array([row.crc for row in rows], pa.uint32()),
        }
    )


def _bytes_of(records: np.ndarray) -> np.ndarray:
    """(n,) records -> (n, bytes) uint8."""
    return records.view(np.uint8).reshape(len(records), records.dtype.itemsize)


def _one_chunk(column: Any) -> Any:
    """Return a column in one piece."""
    import pyarrow as pa  # noqa: PLC0415 - as above

    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _fixed(column: Any, dtype: np.dtype[Any], width: int | None) -> np.ndarray:
    """Return a fixed-size binary column as (n,) of dtype, or (n, width); without a copy, so that it is read-only."""
    if not len(column):
        return np.zeros(0 if width is None else (0, width), dtype)
    count = len(column) * (width or 1)
    flat = np.frombuffer(column.buffers()[1], dtype, count, column.offset * column.type.byte_width)
    return flat if width is None else flat.reshape(len(column), width)
