"""Approximate search of a large index: usearch's graph of its embeddings, in a file that is derived from the rows.

The file's name has two digests: of the rows that it is made of, so that it is never used for others, and of its own content.
"""

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import OptionError, OutputError, first_line
from engine.files import beside, flush, sha256_of
from engine.index.table import LanceTable

GRAPHS, SUFFIX = "search", ".usearch"
APPROXIMATE_ABOVE = 300_000
"""Rows up to which every embedding is compared."""
USEARCH_METRICS = {"cosine": "cos", "dot": "ip", "euclidean": "l2sq"}
EXPANSION = 128
"""Rows that a search looks at, at least: more are slower, and miss fewer (docs/index.md, Large indexes)."""


def usearch_module() -> Any:
    """Return usearch's `index`. Raises OptionError if it is not installed."""
    try:
        from usearch import index  # noqa: PLC0415 - of the extra `index`, for large ones alone
    except ImportError as error:
        raise OptionError(
            f"an index of more than {APPROXIMATE_ABOVE} rows needs usearch: pip install 'sane-engine[index]'"
        ) from error
    return index


def current_graph(path: Path, table: LanceTable) -> Path | None:
    """Return the graph of a table's rows; None if it is small, or none was made of these rows. path: of the index"""
    if len(table) <= APPROXIMATE_ABOVE:
        return None
    return next((path / GRAPHS).glob(f"{table.fingerprint()}-*{SUFFIX}"), None)


def write_graph(
    path: Path, table: LanceTable, vectors: Iterable[np.ndarray], metric: str, alive: np.ndarray, threads: int
) -> None:
    """Make the graph of a large table, unless it is there and whole; others are removed. For the writer alone.

    vectors: of all rows in blocks, (n, D) float32; metric: of their similarity; alive: (n,) bool, rows that can be found
    Raises OutputError, OptionError without usearch.
    """
    folder, wanted = path / GRAPHS, current_graph(path, table)
    if wanted is not None and not _is_whole(wanted):
        wanted.unlink()
        wanted = None
    if wanted is None and len(table) > APPROXIMATE_ABOVE:
        wanted = _written(folder, table.fingerprint(), _made(vectors, metric, alive, threads))
    for file in folder.iterdir() if folder.is_dir() else ():
        if file != wanted and (file.suffix == SUFFIX or file.name.startswith(f".{SUFFIX}.")):
            file.unlink()


def _made(vectors: Iterable[np.ndarray], metric: str, alive: np.ndarray, threads: int) -> Any:
    made: Any = None
    first = 0
    for block in vectors:
        if made is None:
            made = usearch_module().Index(ndim=block.shape[1], metric=USEARCH_METRICS[metric], dtype="f32")
        places = np.arange(first, first + len(block), dtype=np.uint64)
        here = alive[first : first + len(block)]
        made.add(places[here], block[here], threads=threads)
        first += len(block)
    return made


def _written(folder: Path, fingerprint: str, made: Any) -> Path:
    new = beside(folder / SUFFIX)
    try:
        folder.mkdir(exist_ok=True)
        made.save(str(new))
        flush([new])
        return new.rename(folder / f"{fingerprint}-{sha256_of(new)}{SUFFIX}")
    except (OSError, RuntimeError) as error:
        raise OutputError(f"cannot write the graph of a search to {folder}: {first_line(error)}") from error


def damaged_graphs(path: Path) -> Iterator[str]:
    """Give the graphs of an index that are not as they were written, a line each."""
    for file in sorted((path / GRAPHS).glob(f"*{SUFFIX}")):
        try:
            whole = _is_whole(file)
        except FileNotFoundError:  # a writer has replaced it
            continue
        if not whole:
            yield f"{GRAPHS}/{file.name} was changed: its sha256 is not the one in its name; `add` makes another"


def _is_whole(file: Path) -> bool:
    return file.stem.endswith(f"-{sha256_of(file)}")


class NearestGraph:
    """A graph that is open. Threads may share it. Raises OutputError if its file was changed, FileNotFoundError if gone."""

    def __init__(self, file: Path) -> None:
        if not _is_whole(file):  # usearch may do anything with a damaged file
            raise OutputError(f"{file} is damaged: `python -m engine.index add` makes another")
        self._graph = usearch_module().Index.restore(str(file), view=True)
        if self._graph is None:
            raise FileNotFoundError(file)
        self._graph.expansion_search = EXPANSION
        self._lock = threading.Lock()

    def nearest(self, vector: np.ndarray, count: int) -> np.ndarray:
        """Return the places (n,) int of about `count` rows whose vectors are the most similar to one (D,) float32."""
        with self._lock:
            found = self._graph.search(vector, count)
        return np.sort(found.keys.astype(np.int64))
