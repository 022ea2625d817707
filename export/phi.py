"""How much confidence, match and prior weigh in a ranking: a grid search for the largest drop under attribute removal."""

import dataclasses

import numpy as np

from engine.evaluate.bootstrap import Interval, bootstrap
from engine.evaluate.removal import first_named

PHI_STEPS = 10
"""Of each weight from 0 to 1."""
PHI_METHOD = (
    f"grid of 1/{PHI_STEPS} over phi_1 + phi_2 + phi_3 = 1 with phi_1 above 0; the largest mean drop in similarity over the "
    "pairs as the query loses the attribute named first (attribute removal), of equals the largest phi_1; held_out is the "
    "drop of weights chosen on one half of the pictures over pairs of the other, less that of confidence alone; "
    "prior and probabilities are from all pictures"
)
Phi = tuple[float, float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Search:
    """phi: the weights chosen; grid: every weighting with its mean drop

    best, confidence: the drop with the weights chosen, on the pairs that chose them, and with confidence alone; gain: their
    difference pair by pair; held_out: that difference by weights that other pairs chose
    """

    phi: Phi
    grid: tuple[tuple[Phi, float], ...]
    best: Interval
    confidence: Interval
    gain: Interval
    held_out: Interval


def weightings() -> tuple[Phi, ...]:
    """Of equals the one to prefer first: falling phi_1, then falling phi_2."""
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
    """The weights whose first attribute costs most.

    confidences, matches: (P, A) float, of the pairs' queries; prior: (A,); drops: (P, A) of `removal_drops`; threshold: of
    confidence, see `first_named`; clusters: (P,), pairs to resample together; first_half: (P,) bool, for `held_out`
    """
    rows = np.arange(len(drops))
    choices = tuple(w for w in weightings() if prior.any() or not w[2])  # a weight of nothing says nothing
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
    """(W, P) -> (W,): without those that are nan; 0 where that leaves none. Rounded, so that equals are equal."""
    known = np.isfinite(costs)
    return np.round(np.where(known, costs, 0).sum(1) / np.maximum(known.sum(1), 1), 12)
