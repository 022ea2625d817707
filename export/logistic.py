"""Logistic regressions of many attributes at once, with an L2 penalty that is chosen by cross-validation over groups."""

import dataclasses
import math

import numpy as np

from engine.attributes.probability import sigmoid

RIDGES = (100.0, 30.0, 10.0)
"""Tried in this order, strongest first; in units of the log loss, for features of unit spread."""
FOLDS = 3
MOST_STEPS = 400
SMALLEST_MOVE = 1e-4
"""A fit ends when no weight moves by more in a step."""
ROUGH_MOVE = 1e-2
"""The same for fits that only compare penalties."""
LOGISTIC_METHOD = (
    "logistic regression of each attribute with an L2 penalty on the weights of standardised features: one of "
    f"{', '.join(f'{penalty:g}' for penalty in RIDGES)} for all, the one with the least log loss in {FOLDS}-fold "
    "cross-validation over groups"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
    """confidence = sigmoid(features @ weights.T + bias). weights: (A, F) float64; bias: (A,) float64; penalty: as fitted"""

    weights: np.ndarray
    bias: np.ndarray
    penalty: float

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(n, F) float -> (n, A) float64."""
        return features.astype(np.float64) @ self.weights.T + self.bias


def logistic(features: np.ndarray, truth: np.ndarray, penalty: float, rough: bool = False) -> Probe:
    """Fit each column of truth (n, A) bool to features (n, F) float.

    Least `sum of log losses + penalty / 2 |w|^2`, w the weights of features of unit spread, the bias free. Steps of Nesterov
    on the bound of Boehning (1992), X^T X / 4 above every Hessian: one inverse serves all attributes. rough: in float32, and
    ended early, to compare penalties.
    """
    x = features.astype(np.float64)
    centre, spread = x.mean(0), x.std(0)
    spread = np.where(spread > 1e-9 * (1 + np.abs(centre)), spread, np.inf)  # a constant says nothing
    kind: type[np.float32 | np.float64] = np.float32 if rough else np.float64
    tolerance = ROUGH_MOVE if rough else SMALLEST_MOVE
    design: np.ndarray = np.column_stack([(x - centre) / spread, np.ones(len(x))]).astype(kind)
    targets = truth.astype(kind)
    ridge = np.full(design.shape[1], penalty, kind)
    ridge[-1] = 1e-9 * len(x)
    gram = (design.T @ design).astype(np.float64)
    inverse = np.linalg.inv(gram / 4 + np.diag(ridge).astype(np.float64)).astype(kind)
    base = np.clip(targets.mean(0), 1 / (len(x) + 2), 1 - 1 / (len(x) + 2))
    w = np.zeros((design.shape[1], targets.shape[1]), kind)
    w[-1] = np.log(base / (1 - base))
    ahead, pace = w.copy(), 1.0
    for _ in range(MOST_STEPS):
        slope = design.T @ (sigmoid(design @ ahead) - targets) + ridge[:, None] * ahead
        new = ahead - inverse @ slope
        if ((ahead - new) * (new - w)).sum() > 0:  # it has overshot: begin to gather pace anew
            pace = 1.0
        faster = (1 + math.sqrt(1 + 4 * pace * pace)) / 2
        ahead = new + kind((pace - 1) / faster) * (new - w)
        moved = np.abs(new - w).max()
        w, pace = new, faster
        if moved < tolerance:
            break
    weights = w[:-1].T.astype(np.float64) / spread
    return Probe(weights, w[-1] - weights @ centre, penalty)


@dataclasses.dataclass(frozen=True, eq=False)
class CrossFitted:
    """probe: fitted to everything; logits: (n, A) float64, of each picture by a probe that saw no picture of its group"""

    probe: Probe
    logits: np.ndarray


def cross_fit(features: np.ndarray, truth: np.ndarray, groups: np.ndarray, seed: int) -> CrossFitted:
    """Choose the penalty, then fit. features: (n, F) float; truth: (n, A) bool; groups: (n,) int; seed: of the folds"""
    which = folds(groups, seed)
    found = {}
    for penalty in RIDGES:
        logits = np.empty(truth.shape)
        for fold in range(FOLDS):
            held = which == fold
            logits[held] = logistic(features[~held], truth[~held], penalty, rough=True).logits(features[held])
        found[penalty] = logits
    best = min(found, key=lambda penalty: log_loss(found[penalty], truth))
    return CrossFitted(logistic(features, truth, best), found[best])


def folds(groups: np.ndarray, seed: int) -> np.ndarray:
    """Return the fold of each picture, (n,) int; pictures of one group share it."""
    _, which = np.unique(groups, return_inverse=True)
    count = int(which.max()) + 1
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(count)
    return order[which] % FOLDS


def log_loss(logits: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean log loss of logits (n, A) float against truth (n, A) bool."""
    return float((np.logaddexp(0, logits) - truth * logits).mean())
