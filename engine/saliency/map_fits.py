"""The regressions of one prepared picture: fitted when first needed, then kept for later references."""

import dataclasses
import functools
import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from engine.saliency.correspondence import tile_features
from engine.saliency.designs import Design
from engine.saliency.flatness import Extent, judged
from engine.saliency.operator import Operator
from engine.saliency.posterior import Posterior
from engine.saliency.regression import Estimate, Regression, contrasts
from engine.saliency.stopping import PUBLISHED, PUBLISHED_OTHERS, Convergence
from kernels.rise import RiseRenderer

LEAST_FOR_HALVES = 8
"""With fewer masks, comparing two halves of them says nothing."""
LEADING_DIRECTIONS = 12
"""So many leading directions of the masked embeddings stand for references that are not known yet."""
SURE = 90
"""Percentile of those that must be as close to their limits as published maps."""
KEPT_CONDITIONS = 4
"""A picture keeps the fits of the conditions used last: a model may have dozens of conditions."""


@dataclasses.dataclass(frozen=True, eq=False)
class KnownReferences:
    """References of one condition that are known while the passes run.

    features: (R, F) float64, their factor of the similarity
    masked: for each reference that is masked too, (K, F), the factor of each of its masks
    """

    features: np.ndarray
    masked: Sequence[np.ndarray] = ()


class MapFits:
    """One picture's maps against any reference, under any condition, from its masks. Threads may share it.

    design: of the masks that were run
    features: condition -> (N, F) float64, the masked picture's factor of the similarity
    embedding: D; the first D of the F columns belong to the embedding itself
    """

    def __init__(
        self,
        design: Design,
        features: Callable[[int | None], np.ndarray],
        embedding: int,
    ) -> None:
        self._design = design
        self._features, self._embedding = features, embedding
        self._regressions: dict[int | None, Regression] = {}
        self._extents: dict[int | None, Extent] = {}
        self._lock = threading.Lock()

    def estimates(self, references: np.ndarray, condition: int | None) -> list[Estimate]:
        """Return a map for each reference, judged. references: (R, F) float64, their factors of the similarity.

        Raises BundleError where float32 cannot hold a map.
        """
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused
            found = self.regression(condition).estimates(references)
        return judged(found, self._extents[condition].flat(references))

    def convergence(self, known: Mapping[int | None, KnownReferences] | None) -> Convergence:
        """Return how close the maps are to their limits: the mean over the references.

        known: the references by condition; None if none is known yet: then leading directions of the masked embeddings
            stand for them, of which nine in ten must reach what the published procedure would
        """
        unknown = known is None
        if known is None:
            known = {None: KnownReferences(self.regression(None).leading(LEADING_DIRECTIONS))}
        found = []
        for condition, references in known.items():
            regression = self.regression(condition)
            variances = (self._features(condition) @ references.features.T).var(0)
            # if the reference is masked too, the published procedure adds noise: its mean over few masks of the reference
            over_masks = [regression.map_variance(masked) for masked in references.masked]
            extra_noise = np.array(over_masks) / PUBLISHED_OTHERS if over_masks else 0.0
            found.append(regression.convergence(references.features, variances, PUBLISHED, extra_noise))
        if not found:
            return Convergence(1.0, 1.0)
        each = np.concatenate(found, axis=1)
        reliability, published = each.mean(1).tolist()
        short = float(np.percentile(each[1] - each[0], SURE)) - (published - reliability)
        behind = max(short, 0.0) if unknown else 0.0
        return Convergence(reliability, published, behind)

    @property
    def side(self) -> int:
        """Tiles a side of `tile_effects`."""
        return self._design.side

    def tile_effects(self, features: np.ndarray) -> list[np.ndarray]:
        """Return the effect of showing each tile of the grid on the features (N, F): (s*s, F) from all masks, then from each
        half if there are enough masks.
        """
        (effects,) = self.effects_by_side(features, [self.side])
        return effects

    def effects_by_side(self, features: np.ndarray, sides: Sequence[int]) -> list[list[np.ndarray]]:
        """Return `tile_effects` for each number of tiles a side."""
        z, wanted = contrasts(features, self._design.parts), all_and_halves(len(features))
        parts = zip([self._operator, *(self._halves if len(wanted) > 1 else ())], wanted, strict=True)
        weights = [operator.coefficients(z[part]).T for operator, part in parts]  # (F, T*T)
        return [[self._design.geometry.coarse_tiles(w, side).T for w in weights] for side in sides]

    def nbytes(self, conditions: int) -> int:
        """Return the bytes that this object keeps after explanations. conditions: the model's, and 1 for "no condition"

        Rows that pictures share count for each of them: those of a seed that nobody else uses are kept by one alone.
        """
        operator, kept = self._operator, min(conditions, KEPT_CONDITIONS)
        half = min(len(operator.gain), len(operator.rows.basis) // 2)
        sizes = operator.gain[:half].nbytes, operator.explained[:half, :half].size * operator.gain.itemsize
        halves = 2 * (sum(sizes) + operator.variances.nbytes)
        rows = 2 * operator.rows.nbytes  # with those of the halves
        return operator.nbytes + halves + rows + kept * self.regression(None).nbytes

    def regression(self, condition: int | None) -> Regression:
        """Return the fit under a condition, made now or kept from before."""
        with self._lock:
            found = self._regressions.pop(condition, None)
            if found is None:
                features = self._features(condition)
                z, geometry = contrasts(features, self._design.parts), self._design.geometry
                posterior = None
                if geometry.centred and len(z):  # of tokens
                    posterior = Posterior(self._design.matrix(), z, geometry, self._operator.variances)
                found = Regression(self._operator, geometry, z, posterior)
                self._extents[condition] = Extent.of(features)
            self._regressions[condition] = found  # puts it last: the first is the least recently used
            if len(self._regressions) > KEPT_CONDITIONS:
                del self._regressions[next(iter(self._regressions))]
            return found

    @functools.cached_property
    def _operator(self) -> Operator:
        return Operator.fitted(self._design.rows(), self._embedding_differences)

    @functools.cached_property
    def _halves(self) -> list[Operator]:
        """Two operators: fitted to every other pair of masks, and to the rest."""
        parts = slice(0, None, 2), slice(1, None, 2)
        return [Operator.fitted(self._design.rows(part), self._embedding_differences[part]) for part in parts]

    @property
    def _embedding_differences(self) -> np.ndarray:
        """(P, D): the operators are fitted to these under every condition."""
        features = self._features(None)[:, : self._embedding]
        return contrasts(features, self._design.parts)  # without the squares that distances add


def published_tile_effects(
    grids: np.ndarray, shifts: np.ndarray, size: tuple[int, int], features: np.ndarray
) -> list[np.ndarray]:
    """`MapFits.tile_effects` by the published estimator: sums over independent masks (docs/method.md, Correspondence).

    grids: (N, s, s) bool; shifts: (N, 2) int; size: (H, W) of the picture; features: (N, F)
    """
    tiles = RiseRenderer(grids, shifts, *size).tiles(grids.shape[1])
    return [tile_features(tiles[part], features[part]) for part in all_and_halves(len(features))]


def all_and_halves(masks: int) -> list[slice]:
    """Return slices of masks (or pairs): all; then, if there are enough, every other one, and the rest."""
    return [slice(None), slice(0, None, 2), slice(1, None, 2)] if masks >= LEAST_FOR_HALVES else [slice(None)]
