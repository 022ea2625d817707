"""Make maps of one method on one network, and say how alike two maps are (docs/method.md, Sanity checks)."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from engine.assemble import Naming
from engine.explain_learned import explain_learned
from engine.methods import Method
from engine.methods.learned_mask import LearnedMask
from engine.model import LoadedModel
from engine.passed import PassOptions
from engine.picture import Picture
from engine.prepared import prepare_picture
from engine.protocol import FIXED
from engine.references import References
from engine.saliency.stopping import Budget

FLAT_BELOW = 1e-6
"""A map whose values differ by less, in units of the similarity, is flat: what is left is rounding."""
UNNAMED = Naming(top=0)


@dataclasses.dataclass(frozen=True, eq=False)
class MapMaker:
    """A network and a method. method: with a seed: all maps of one picture have the same masks"""

    model: LoadedModel
    method: Method

    def maps(self, query: Picture, references: Sequence[Picture], condition: int | None) -> np.ndarray:
        """Return the maps of one query against each of R references shown whole, (R, H, W) float64.

        condition: index, or None. Raises BundleError if the network gives a number that is not finite.
        """
        shown = References(list(references), self.model.embed(list(references)), [None] * len(references))
        conditions = [condition] * len(references)
        passes = PassOptions(self.method.baseline, Budget.of(self.method, True, None, None))
        if isinstance(self.method, LearnedMask):
            found = explain_learned(self.model, query, shown, conditions, self.method, FIXED, passes, UNNAMED)
        else:
            prepared = prepare_picture(self.model, query, self.method, None, passes)
            found = prepared.explain_whole(shown, conditions, UNNAMED)
        return np.stack([explanation.saliency for explanation in found]).astype(np.float64)


def similarity_of(model: LoadedModel, query: Picture, reference: Picture, condition: int | None) -> float:
    """Return the similarity of two pictures. condition: index, or None"""
    ours, theirs = model.embed([query, reference])
    return (model.query_features(ours[None], condition) @ model.reference_features(theirs[None], condition).T).item()


def rank_correlation(map_: np.ndarray, other: np.ndarray) -> float:
    """Return Spearman's rank correlation of two maps (H, W) float; nan if the first is flat, 0 if only the other is."""
    if np.ptp(map_) < FLAT_BELOW:
        return math.nan
    if np.ptp(other) < FLAT_BELOW:
        return 0.0
    a, b = (average_ranks(m) - (m.size + 1) / 2 for m in (map_, other))
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks of n values of any shape, from 1 up, (n,) float64; equal values share their mean rank."""
    _, which, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]
