"""Turn attribute scores into probabilities: a sigmoid per attribute (Platt 1999)."""

import dataclasses

import numpy as np

from engine.attributes.probability import sigmoid
from engine.attributes.table import AttributeTable

FEWEST_EXAMPLES = 5
"""Fewest pictures with an attribute, and fewest without it, for a sigmoid of its own."""
FLAT = 1e-3
"""Slope, per standard deviation of the scores, for an attribute whose fitted slope is not positive."""
NEWTON_STEPS = 100
HALVINGS = 30
PLATT_METHOD = (
    "Platt scaling per attribute, confidence = sigmoid(scale * score + bias), with Platt's smoothed targets (fitted); a "
    "slope at or below 0 is replaced by one of nearly 0, so that the confidence is the attribute's frequency (flat); an "
    f"attribute with fewer than {FEWEST_EXAMPLES} pictures with it, or without it, keeps its earlier sigmoid (kept), or, if "
    "the confidence was a softmax, takes the median slope of the fitted ones (1 if there are none) and a bias of its own "
    "(pooled)"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Scaling:
    """confidence = sigmoid(scale * score + bias). scale, bias: (A,) float64, scale above 0

    how: (A,) str, how they were found: fitted, flat, kept or pooled (see PLATT_METHOD)
    """

    scale: np.ndarray
    bias: np.ndarray
    how: np.ndarray

    def confidences(self, scores: np.ndarray) -> np.ndarray:
        """Return the confidences (n, A) float64 of scores (n, A)."""
        return sigmoid(self.scale * scores + self.bias)


def fit(scores: np.ndarray, truth: np.ndarray, table: AttributeTable) -> Scaling:
    """Fit the most likely sigmoid of each attribute to scores (n, A) float and truth (n, A) bool (see PLATT_METHOD).

    table: has the earlier scale and bias. The targets for 1 and 0 are (N+ + 1) / (N+ + 2) and 1 / (N- + 2), so that the
    slope is finite even if the scores separate the pictures perfectly.
    """
    have = truth.sum(0)
    lack = len(truth) - have
    targets = np.where(truth, (have + 1) / (have + 2), 1 / (lack + 2))
    centre, spread = scores.mean(0), scores.std(0)
    spread = np.where(spread > 0, spread, 1)
    x = (scores - centre) / spread
    slope, bias = _newton(x, targets, np.zeros(len(have)), True)
    enough, rising = np.minimum(have, lack) >= FEWEST_EXAMPLES, slope > 0
    fitted = enough & rising
    pooled = np.median((slope / spread)[fitted]) if fitted.any() else 1.0
    given = np.where(enough, FLAT, pooled * spread)
    how = np.where(enough, np.where(rising, "fitted", "flat"), "kept" if table.confidence == "sigmoid" else "pooled")
    slope, bias = np.where(fitted, slope, given), np.where(fitted, bias, _newton(x, targets, given, False)[1])
    scale = slope / spread
    kept = how == "kept"
    return Scaling(np.where(kept, table.slopes, scale), np.where(kept, table.bias, bias - scale * centre), how)


def _newton(x: np.ndarray, targets: np.ndarray, slope: np.ndarray, free: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return slopes and biases (A,), (A,) of least cross entropy, by Newton's method; a step is halved while the loss rises.

    x: (n, A); targets: (n, A) in (0, 1); slope: (A,), the slopes to begin with; free: whether they are fitted too
    """
    base = targets.mean(0)
    bias = np.log(base / (1 - base)) - slope * x.mean(0)
    loss = _loss(slope * x + bias, targets)
    for _ in range(NEWTON_STEPS):
        found = sigmoid(slope * x + bias)
        gap, weight = found - targets, found * (1 - found)
        steps = _step(x, gap, weight, free)
        size = np.ones(len(slope))
        for _ in range(HALVINGS):
            tried = slope - size * steps[0], bias - size * steps[1]
            after = _loss(tried[0] * x + tried[1], targets)
            if (after <= loss).all():
                break
            size = np.where(after > loss, size / 2, size)
        better = after < loss
        if not better.any():
            break
        slope, bias = np.where(better, tried[0], slope), np.where(better, tried[1], bias)
        loss = np.where(better, after, loss)
    return slope, bias


def _step(x: np.ndarray, gap: np.ndarray, weight: np.ndarray, free: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the inverse Hessian times the gradient, per attribute; a tiny ridge keeps it defined if scores are constant."""
    ridge = 1e-12 * len(x)
    aa, ab, bb = (weight * x * x).sum(0) + ridge, (weight * x).sum(0), weight.sum(0) + ridge
    ga, gb = (gap * x).sum(0), gap.sum(0)
    if not free:
        return np.zeros_like(gb), gb / bb
    determinant = aa * bb - ab * ab
    return (bb * ga - ab * gb) / determinant, (aa * gb - ab * ga) / determinant


def _loss(z: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the cross entropy (A,) of logits (n, A)."""
    return (np.logaddexp(0, z) - targets * z).sum(0)
