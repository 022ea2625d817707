"""The regressions of one prepared picture: fitted when they are first needed, and kept for the references that follow."""

import dataclasses
import functools
import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from engine.saliency.correspondence import tile_features
from engine.saliency.regression import TILES, Estimate, Geometry, Operator, Regression, differences
from engine.saliency.stopping import PUBLISHED, PUBLISHED_OTHERS, Convergence
from kernels.rise import RiseRenderer

LEAST_FOR_HALVES = 8
"""Masks below which two halves of them say nothing."""
DIRECTIONS = 12
"""Leading directions of the masked embeddings that stand for references not known yet."""
KEPT_CONDITIONS = 4
"""Conditions whose fits a picture keeps, last used first: a model may have dozens."""


@dataclasses.dataclass(frozen=True, eq=False)
class KnownReferences:
    """References of one condition that are known while the passes run.

    features: (R, F) float64, their factor of the similarity
    masked: where they are masked too, the factor (K, F) of each of their masks
    """

    features: np.ndarray
    masked: Sequence[np.ndarray] = ()


class MapFits:
    """What RISE masks of one picture say of maps against any reference, under any condition. Threads may share it.

    grids (N, s, s) bool, shifts (N, 2) int: of the masks that were run, each followed by its complement
    size: (H, W) of the picture
    features: condition -> (N, F) float64, the masked picture's factor of the similarity
    embedding: D; of a factor's F columns, the first D are the embedding's
    """

    def __init__(
        self,
        grids: np.ndarray,
        shifts: np.ndarray,
        size: tuple[int, int],
        features: Callable[[int | None], np.ndarray],
        embedding: int,
    ) -> None:
        self._grids, self._shifts, self._size = grids, shifts, size
        self._features, self._embedding = features, embedding
        self._regressions: dict[int | None, Regression] = {}
        self._lock = threading.Lock()

    def estimates(self, references: np.ndarray, condition: int | None) -> list[Estimate]:
        """A map for each of the references (R, F) float64, factors of the similarity under this condition."""
        return self.regression(condition).estimates(references)

    def convergence(self, known: Mapping[int | None, KnownReferences] | None) -> Convergence:
        """How far the maps have come, mean over the references.

        known: by condition; None where no reference is known yet: the leading directions of the masked embeddings then
            stand for them
        """
        if known is None:
            known = {None: KnownReferences(self.regression(None).leading(DIRECTIONS))}
        found = []
        for condition, references in known.items():
            regression = self.regression(condition)
            variances = (self._features(condition) @ references.features.T).var(0)
            # the published mean over few masks of the reference is noise too
            spreads = [regression.spread(masked) for masked in references.masked]
            further = np.array(spreads) / PUBLISHED_OTHERS if spreads else 0.0
            found.append(regression.convergence(references.features, variances, PUBLISHED, further))
        if not found:
            return Convergence(1.0, 1.0)
        reliability, published = np.concatenate(found, axis=1).mean(1).tolist()
        return Convergence(reliability, published)

    def tile_effects(self, features: np.ndarray) -> list[np.ndarray]:
        """What showing a tile does to the features (N, F): (s*s, F) by all masks, then by halves if there are enough."""
        z, operators = differences(features), [self._operator, *self._halves]
        parts = all_and_halves(len(features))
        side = self._grids.shape[1]
        return [Regression(o, self._geometry, z[part]).tiles(side) for o, part in zip(operators, parts, strict=False)]

    def nbytes(self, conditions: int) -> int:
        """Memory that explaining makes it keep. conditions: of the model, none included"""
        operator, kept = self._operator, min(conditions, KEPT_CONDITIONS)
        return operator.nbytes + operator.factor.nbytes + kept * self.regression(None).nbytes  # with both `_halves`

    def regression(self, condition: int | None) -> Regression:
        """The fit under a condition, made now or kept from before."""
        with self._lock:
            found = self._regressions.pop(condition, None)
            if found is None:
                found = Regression(self._operator, self._geometry, differences(self._features(condition)))
            self._regressions[condition] = found  # the last used come last
            if len(self._regressions) > KEPT_CONDITIONS:
                del self._regressions[next(iter(self._regressions))]
            return found

    @functools.cached_property
    def _geometry(self) -> Geometry:
        return Geometry.of(*self._size, self._grids.shape[1])

    @functools.cached_property
    def _operator(self) -> Operator:
        first = slice(0, len(self._grids) // 2 * 2, 2)  # of each pair
        tiles = RiseRenderer(self._grids[first], self._shifts[first], *self._size).tiles(TILES)
        tiles -= 0.5
        return Operator.fitted(tiles, self._plain_differences)

    @functools.cached_property
    def _halves(self) -> list[Operator]:
        """Fitted to every other pair, and to the rest."""
        parts = slice(0, None, 2), slice(1, None, 2)
        return [Operator.fitted(self._operator.design[part], self._plain_differences[part]) for part in parts]

    @property
    def _plain_differences(self) -> np.ndarray:
        """(P, D): what the operators are fitted to, whatever the condition."""
        return differences(self._features(None)[:, : self._embedding])  # for squared distances, the vectors alone


def published_tile_effects(
    grids: np.ndarray, shifts: np.ndarray, size: tuple[int, int], features: np.ndarray
) -> list[np.ndarray]:
    """`MapFits.tile_effects` by the published estimator: sums over independent masks (docs/method.md, Correspondence)."""
    tiles = RiseRenderer(grids, shifts, *size).tiles(grids.shape[1])
    return [tile_features(tiles[part], features[part]) for part in all_and_halves(len(features))]


def all_and_halves(masks: int) -> list[slice]:
    """All masks, or all pairs; then, if there are enough, every other one, and the rest."""
    return [slice(None), slice(0, None, 2), slice(1, None, 2)] if masks >= LEAST_FOR_HALVES else [slice(None)]
