"""Search the weights (phi) of confidence, match and prior for the largest drop under attribute removal, on a grid."""

import dataclasses

import numpy as np

from engine.evaluate.bootstrap import Interval, bootstrap
from engine.evaluate.removal import first_named

PHI_STEPS = 10
"""Steps of each weight from 0 to 1."""
PHI_METHOD = (
    f"grid of 1/{PHI_STEPS} over phi_1 + phi_2 + phi_3 = 1 with phi_1 above 0; the weights with the largest mean drop in "
    "similarity over the pairs when the query loses the attribute that is named first (attribute removal), and of equal "
    "ones the largest phi_1; held_out is the drop over the pairs of one half of the pictures, with weights chosen on the "
    "other half, minus the drop with confidence alone; prior and probabilities are from all pictures"
)
Phi = tuple[float, float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Search:
    """phi: the chosen weights; grid: every choice of weights with its mean drop

    best, confidence: the drop with the chosen weights, on the pairs that chose them, and with confidence alone; gain: their
    difference pair by pair; held_out: that difference with weights that other pairs chose
    """

    phi: Phi
    grid: tuple[tuple[Phi, float], ...]
    best: Interval
    confidence: Interval
    gain: Interval
    held_out: Interval


def weightings() -> tuple[Phi, ...]:
    """Return every choice of weights, in the order of preference if drops are equal: falling phi_1, then falling phi_2."""
    whole = range(PHI_STEPS, -1, -1)
    return tuple(
        (a / PHI_STEPS, b / PHI_STEPS, (PHI_STEPS - a - b) / PHI_STEPS)
        for a in whole
        if a
        for b in whole
        if a + b <= PHI_STEPS
    )


def search(
    confidences: np.ndarray,
    matches: np.ndarray,
    prior: np.ndarray,
    drops: np.ndarray,
    threshold: float,
    clusters: np.ndarray,
    first_half: np.ndarray,
) -> Search:
    """Find the weights whose first attribute costs the most similarity when it is removed.

    confidences, matches: (P, A) float, of the pairs' queries; prior: (A,); drops: (P, A), from `removal_drops`; threshold:
    lowest confidence of a named attribute (see `first_named`); clusters: (P,), pairs that are resampled together;
    first_half: (P,) bool, the halves for `held_out`
    """
    rows = np.arange(len(drops))
    choices = tuple(w for w in weightings() if prior.any() or not w[2])  # without a prior its weight must be 0
    costs = np.array(
        [drops[rows, first_named(a * confidences + b * matches + c * prior, confidences, threshold)] for a, b, c in choices]
    )  # (W, P)
    means = _means(costs)
    best, alone = int(means.argmax()), costs[choices.index((1.0, 0.0, 0.0))]
    held_out = np.full(len(drops), np.nan)
    for half in (first_half, ~first_half):
        chosen = int(_means(costs[:, ~half]).argmax())
        held_out[half] = (costs[chosen] - alone)[half]
    return Search(
        choices[best],
        tuple(zip(choices, means.tolist(), strict=True)),
        bootstrap(costs[best], clusters),
        bootstrap(alone, clusters),
        bootstrap(costs[best] - alone, clusters),
        bootstrap(held_out, clusters),
    )


def _means(costs: np.ndarray) -> np.ndarray:
    """Return the means (W,) of (W, P) over finite entries, 0 if there are none; rounded, so that equal means are equal."""
    known = np.isfinite(costs)
    return np.round(np.where(known, costs, 0).sum(1) / np.maximum(known.sum(1), 1), 12)
