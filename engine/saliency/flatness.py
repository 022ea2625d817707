"""Maps that say nothing: hiding changes no more than rounding, or float32 cannot hold what it changes.

(docs/method.md, Flat maps)
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from engine.errors import BundleError
from engine.saliency.regression import Estimate

ROUNDED = 2.0**-20
"""Share of the similarity's terms below which its changes are rounding: sixteen steps of float32."""
LOST = 4 * float(np.finfo(np.float32).eps)
"""A map that varies by less than this share of its values has lost what it varied by."""
LEAST_HELD = float(np.finfo(np.float32).tiny)
HIDING_CHANGES_NOTHING = "hiding parts of the query changes nothing beyond rounding: its map is 0 everywhere"
VANISHED = "what hiding parts of the query changes is too small for float32: its map is 0 everywhere"
OF_REFERENCE = {note: note.replace("query", "reference") for note in (HIDING_CHANGES_NOTHING, VANISHED)}
"""The same notes about the reference."""
TOO_LARGE = (
    "the similarities of this model are too large for a map in float32: export it with metric cosine, or divide what its "
    "network gives by a constant"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Extent:
    """How far a masked picture's factor of the similarity reaches over its masks, column by column.

    largest, spread: (F,) float64, the largest size, and the largest difference of two masks
    """

    largest: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Extent":
        """Return the extent of features (N, F) float64."""
        return cls(np.abs(features).max(0), np.ptp(features, axis=0))

    def flat(self, references: np.ndarray) -> np.ndarray:
        """Return for which references (R, F) hiding changes the similarity by rounding alone: (R,) bool."""
        sizes = np.abs(references)
        return np.asarray(sizes @ self.spread <= ROUNDED * (sizes @ self.largest))


def judged(estimates: Sequence[Estimate], flat: np.ndarray, *, offset: bool = False) -> list[Estimate]:
    """Return maps and what a reader should know: 0 everywhere, with reliability 0, where a map says nothing.

    flat: (R,) bool, from `Extent.flat`; offset: whether the maps have a constant part beside what the parts of the picture
        do, next to which small numbers are lost
    Raises BundleError where float32 cannot hold a map.
    """
    return [_judged(estimate, bool(nothing), offset) for estimate, nothing in zip(estimates, flat, strict=True)]


def require_held(array: np.ndarray | None) -> None:
    """Raise BundleError if a number of an array of float32 is not finite: what it was computed from is."""
    if array is not None and not np.isfinite(array).all():
        raise BundleError(TOO_LARGE)


def _judged(estimate: Estimate, nothing: bool, offset: bool) -> Estimate:
    if nothing:
        return flattened(estimate, HIDING_CHANGES_NOTHING)
    require_held(estimate.saliency)
    require_held(estimate.error)
    largest, varied = float(np.abs(estimate.saliency).max()), float(np.ptp(estimate.saliency))
    if largest < LEAST_HELD or (offset and varied <= LOST * largest):
        return flattened(estimate, VANISHED)
    return estimate


def flattened(estimate: Estimate, note: str) -> Estimate:
    """Return a map that is 0 everywhere, in place of one that says nothing."""
    error = None if estimate.error is None else np.zeros_like(estimate.error)
    return Estimate(np.zeros_like(estimate.saliency), error, 0.0, note)
