"""From a fit's weights to a stored operator and back, for one size of maps, one basis and one format."""

import dataclasses
import functools

import numpy as np

from engine.index.embeddings import ReferenceBasis
from engine.index.operators import MapModes, OperatorFormat, Operators, encoded
from engine.saliency.geometry import Geometry

COMPARED = 5
"""References against which each picture's fidelity is measured: its nearest ones."""

StoredOperator = tuple[np.ndarray, np.ndarray | None]
"""The record of an operator, () of the format's dtype, and its offset (M,) float32; None where the metric has none."""
SAME_PICTURE = 1e-6
"""Embeddings whose cosine is 1 but for so much are of one picture, in batches of other sizes."""


@dataclasses.dataclass(frozen=True, eq=False)
class OperatorCodec:
    """Stores operators and reads them back.

    kept: the format; basis: of references; every: all modes of maps; some: those of the format
    """

    kept: OperatorFormat
    basis: ReferenceBasis
    every: MapModes
    some: MapModes

    @classmethod
    def of(cls, kept: OperatorFormat, basis: ReferenceBasis, geometry: Geometry) -> "OperatorCodec":
        """Make for maps of this geometry."""
        return cls(kept, basis, MapModes.largest(geometry, geometry.parts), MapModes.largest(geometry, kept.modes))

    def stored(self, weights: np.ndarray) -> StoredOperator:
        """Return the record of a fit's weights (T*T, F), () of the format's dtype, and its offset (M,) float32 or None."""
        linear, offset = self.basis.split(self.some.of_weights(weights))
        return encoded(linear, self.basis.basis, self.kept), offset

    def decoded(self, records: np.ndarray) -> Operators:
        """Return the operators of records (n,)."""
        return Operators.decoded(records, self.kept, self.basis.size)

    def coefficients(self, operators: Operators, offsets: np.ndarray | None, references: np.ndarray) -> np.ndarray:
        """Return the coefficients (n, M) float32 of each operator's map against its reference.

        offsets: (n, M), None where the metric has none; references: (n, F), factors of the similarity
        One operator goes with all references, and one reference with all operators.
        """
        varying = self.basis.varying(references)
        found = operators.coefficients(varying, self.basis.inside(varying))
        return found if offsets is None else found + self.basis.constants(references)[:, None] * offsets

    @functools.cached_property
    def tile_form(self) -> np.ndarray:
        """(M, M) float32, see `MapModes.tile_form`, of the modes that are kept."""
        return self.some.tile_form().astype(np.float32)

    @functools.cached_property
    def _every_tile_form(self) -> np.ndarray:
        return self.every.tile_form()

    def changed_form(self, weights: np.ndarray, stored: StoredOperator) -> np.ndarray:
        """Return what the form of the tiles' variance, as one of references in the basis, lost by storing: (r, r) float64.

        weights: (T*T, F), a fit's; stored: as `stored` returned it
        """
        whole, _ = self.basis.split(self.every.of_weights(weights))
        kept = self.decoded(stored[0][None]).matrices(self.basis.basis)[0].astype(np.float64)
        if self.basis.basis is not None:
            whole, kept = whole @ self.basis.basis, kept @ self.basis.basis
        return whole.T @ self._every_tile_form @ whole - kept.T @ self.tile_form @ kept

    def fidelity(
        self, weights: np.ndarray, stored: tuple[np.ndarray, np.ndarray | None], references: np.ndarray
    ) -> np.ndarray:
        """Return the correlations (COMPARED,) float64 of stored maps with those of the weights; NaN where references lack.

        stored: as `stored` returned it; references: (R, F), at most COMPARED
        """
        found = np.full(COMPARED, np.nan)
        if len(references):
            direct = references @ self.every.of_weights(weights).T
            own = np.zeros_like(direct)
            operator, offset = stored
            own[:, self.some.row * self.every.across.shape[1] + self.some.column] = self.coefficients(
                self.decoded(operator[None]), None if offset is None else offset[None], references
            )
            found[: len(references)] = self.every.correlations(direct, own)
        return found


def nearest(own: np.ndarray, others: np.ndarray, size: int) -> np.ndarray:
    """Return the COMPARED references of `others` (R, F) whose first `size` columns are most similar to a picture's (F,), by
    their angle; those that do not differ, which are the picture itself, are left out.
    """
    mine, theirs = own[:size], others[:, :size]
    lengths = np.linalg.norm(theirs, axis=1) * np.linalg.norm(mine)
    cosines = theirs @ mine / np.maximum(lengths, np.finfo(np.float64).tiny)
    cosines[cosines > 1 - SAME_PICTURE] = -np.inf
    order = np.argsort(-cosines, kind="stable")[:COMPARED]
    return others[order[np.isfinite(cosines[order])]]
