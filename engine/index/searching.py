"""Search among the rows of an index: every embedding is compared with the query's, or in a large one those on a graph."""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from engine.index.graph import NearestGraph, current_graph, write_graph
from engine.index.table import LanceTable, ReadRows
from engine.model import LoadedModel

SEARCH_BYTES = 2**29
"""Embeddings and their factors of the similarity are kept up to this size; those of a larger index are read every time."""
SPARE = 16
"""So many more than asked for are compared in float64: float32 may put them in another order."""


class RowSearch:
    """Finds the rows whose similarity to a query is largest. Rows that are not `alive` are passed over."""

    def __init__(self, path: Path, table: LanceTable, model: LoadedModel, condition: int | None, alive: np.ndarray) -> None:
        """path: of the index; alive: (n,) bool, of each row of the table"""
        self._path, self._table, self._model, self._condition, self._alive = path, table, model, condition, alive

    @property
    def is_exact(self) -> bool:
        """Whether every row is compared. Raises OutputError if the graph is damaged, OptionError without usearch."""
        return self._graph is None

    def nearest(self, embedding: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return places (n,) int and similarities (n,) float64 of at most k rows, the largest first.

        embedding: (D,) float32; equal rows come in the order of the table
        """
        own = self._model.query_features(embedding[None], self._condition)[0]
        if self._graph is None:
            candidates = self._compared(own.astype(np.float32), k + SPARE)
        else:
            candidates = self._graph.nearest(self._vectors(embedding), k + SPARE)
        if not len(candidates):
            return candidates, np.zeros(0)
        exact = self._model.reference_features(self.embeddings_at(candidates.tolist()), self._condition) @ own
        order = np.argsort(-exact, kind="stable")[:k]
        return candidates[order], exact[order]

    def write_graph(self) -> None:
        """Make the graph that a large index is searched by, see `engine.index.graph`. For the writer, before any search."""
        vectors = map(self._vectors, self._table.embeddings())
        metric, threads = self._model.manifest.metric, self._model.threads
        write_graph(self._path, self._table, vectors, metric, self._alive, threads)

    def embeddings_at(self, places: Sequence[int]) -> np.ndarray:
        """Return the embeddings (n, D) float32 of rows."""
        return self._table.embeddings_at(places) if self._kept is None else self._kept[0][places]

    def read(self, places: Sequence[int], ids: Sequence[str]) -> ReadRows:
        """Return rows, see `LanceTable.read`; embeddings that are kept are not read."""
        return self._table.read(places, ids, None if self._kept is None else self._kept[0][places])

    @functools.cached_property
    def _graph(self) -> NearestGraph | None:
        file = current_graph(self._path, self._table)
        try:
            return None if file is None else NearestGraph(file)
        except FileNotFoundError:  # a writer has replaced it: there is none of these rows any more
            return None

    def _compared(self, own: np.ndarray, count: int) -> np.ndarray:
        """Return the places (n,) int, sorted, of the rows most similar to a query's factor (F,) float32."""
        places, scores, first = [np.zeros(0, int)], [np.zeros(0, np.float32)], 0
        for features in self._blocks():
            found = features @ own
            found[~self._alive[first : first + len(found)]] = -np.inf
            best = _largest(found, count)
            places.append(best + first)
            scores.append(found[best])
            first += len(found)
        candidates, rough = np.concatenate(places), np.concatenate(scores)
        candidates = np.sort(candidates[_largest(rough, count)])
        return candidates[self._alive[candidates]]

    def _blocks(self) -> Iterable[np.ndarray]:
        """The rows' factors of the similarity in float32, in blocks: kept, or read anew."""
        return map(self._features, self._table.embeddings()) if self._kept is None else [self._kept[1]]

    @functools.cached_property
    def _kept(self) -> tuple[np.ndarray, np.ndarray] | None:
        """All embeddings and their factors; None where they are too large to keep, or a graph makes them needless."""
        size = self._model.manifest.embedding
        if self._graph is not None or 2 * 4 * size * len(self._table) > SEARCH_BYTES:
            return None
        embeddings = np.concatenate([np.zeros((0, size), np.float32), *self._table.embeddings()])
        return embeddings, self._features(embeddings)

    def _features(self, embeddings: np.ndarray) -> np.ndarray:
        return self._model.reference_features(embeddings, self._condition).astype(np.float32)

    def _vectors(self, embeddings: np.ndarray) -> np.ndarray:
        """(n, D) or (D,) float32 -> the same, as the metric compares them."""
        return embeddings * self._model.weights(self._condition)


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the `count` largest scores, in no order."""
    return np.argpartition(-scores, count)[:count] if count < len(scores) else np.arange(len(scores))
