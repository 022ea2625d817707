"""What the matches of single queries say, for an audit: attributes beside chance, and where the maps lie."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from engine.assemble import Naming
from engine.attributes.probability import joint_probability
from engine.errors import ImageError
from engine.explanation import Explanation
from engine.index.explaining import RowExplainer
from engine.index.regions import background, density, reduced
from engine.index.rows import confidences_of
from engine.index.searching import RowSearch
from engine.index.stored_explanation import picture_reader
from engine.index.table import ReadRows

SPARE_MATCHES = 10
"""So many rows more are looked at than asked for: near-duplicates are left out."""
ALIKE, ALIKE_LEVELS = 0.98, 8
"""Near-duplicates: embeddings have such a cosine, and reduced pictures differ by so few levels in the mean."""
EXAMPLE_ATTRIBUTES = 3
"""Attributes of a kind of an example."""


@dataclasses.dataclass(frozen=True, eq=False)
class AskedRow:
    """A query that is a row, and its k best matches that are no near-duplicates of it.

    place: its own; best: that of the best match; duplicates: left out of the first k
    shared, chance: (A,) float64, probability that it and a match, or a random row, both have an attribute
    confidences: (A,) float64 in [0, 1]; where: see `density`; small, behind: see `reduced` and `background`
    steady, random_steady: correlation of two of its maps, against two matches, or two random rows
    """

    place: int
    best: int
    duplicates: int
    shared: np.ndarray
    chance: np.ndarray
    confidences: np.ndarray
    where: np.ndarray | None
    small: np.ndarray | None
    behind: np.ndarray | None
    steady: float
    random_steady: float


@dataclasses.dataclass(frozen=True, eq=False)
class RowAsker:
    """Asks rows of one version.

    rows: explains them, with maps of REGION_SIDE; shown: the same with maps for examples
    search: among them; names: their ids by place; k: matches of each; pool: random rows
    """

    rows: RowExplainer
    shown: RowExplainer
    search: RowSearch
    names: Mapping[int, str]
    k: int
    pool: ReadRows

    def asked(self, place: int) -> AskedRow | None:
        """Return what a row's matches say; None if it has none."""
        (embedding,) = self.search.embeddings_at([place])
        near, _ = self.search.nearest(embedding, self.k + 1 + SPARE_MATCHES)
        near, small = near[near != place], self._picture(place)
        others = self._unlike(place, near, small)[: self.k]
        if not len(others):
            return None
        read = self.read([place, *others.tolist()])
        query, ours, pool = read.part(slice(1)), confidences_of(read.records), self.pool
        strangers = [i for i, stranger in enumerate(pool.places) if stranger != place]
        table = self.rows.model.bundle.attributes
        joint = None if table is None else table.joint
        against = self._coefficients(query, read.embeddings[1:])
        random = self._coefficients(query, pool.embeddings[strangers[: len(others)]])
        return AskedRow(
            place=place,
            best=int(others[0]),
            duplicates=int(np.isin(near[: self.k], others, invert=True).sum()),
            shared=joint_probability(ours[0], ours[1:], joint).mean(0),
            chance=joint_probability(ours[0], confidences_of(pool.records)[strangers], joint).mean(0),
            confidences=ours[0],
            where=density(self.rows.algebra.shown.maps(against)),
            small=small,
            behind=None if small is None else background(small),
            steady=self._steadiness(against),
            random_steady=self._steadiness(random),
        )

    def example(self, one: AskedRow) -> Explanation:
        """Return why a row matches its best match."""
        read = self.read([one.place, one.best])
        others = self.shown.others(read.part(slice(1, None)), True)
        return self.shown.explain(read.part(slice(1)), others, Naming(top=EXAMPLE_ATTRIBUTES))[0]

    def read(self, places: list[int]) -> ReadRows:
        """Read rows by their places."""
        return self.search.read(places, [self.names[place] for place in places])

    def _coefficients(self, query: ReadRows, embeddings: np.ndarray) -> np.ndarray:
        features = self.rows.model.reference_features(embeddings, self.rows.condition)
        return self.rows.algebra.coefficients(query.records, features)

    def _steadiness(self, coefficients: np.ndarray) -> float:
        """Return the mean correlation of neighbouring maps; NaN for a single one."""
        modes = self.rows.algebra.codec.some
        found = modes.correlations(coefficients[:-1], coefficients[1:])
        return float(found.mean()) if len(found) else float("nan")

    def _picture(self, place: int) -> np.ndarray | None:
        """Return a row's picture, `reduced`; None if its file is gone or has changed."""
        try:
            return reduced(picture_reader(self.rows.model, self.rows.table, place)())
        except ImageError:
            return None

    def _unlike(self, place: int, near: np.ndarray, small: np.ndarray | None) -> np.ndarray:
        """Return the places without near-duplicates of the query."""
        vectors = self.search.embeddings_at([place, *near.tolist()]).astype(np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)
        kept = []
        for other, cosine in zip(near.tolist(), vectors[1:] @ vectors[0], strict=True):
            theirs = self._picture(other) if cosine >= ALIKE and small is not None else None
            kept.append(theirs is None or small is None or np.abs(theirs - small).mean() > ALIKE_LEVELS)
        return near[np.array(kept, bool)]
