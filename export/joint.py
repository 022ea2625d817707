"""Fit the probability that an attribute is true of both pictures of a pair to pairs whose truth is known."""

import dataclasses

import numpy as np

from engine.attributes.probability import joint_probability, logits, sigmoid
from engine.attributes.table import Joint
from engine.evaluate.recognition import reliability
from export.logistic import log_loss

NEWTON_STEPS_OF_JOINT = 50
HALVINGS_OF_JOINT = 30
LEAST_PAIRS_OF_JOINT = 20
"""With fewer pairs nothing is fitted."""
JOINT_METHOD = (
    "sigmoid(a min + b max + c) of the two confidences' logits, the most likely a, b, c over all pairs and attributes; "
    "kept, if neither a nor b is below 0, where they fit pairs of the other half of the groups better than the product does "
    "(log loss)"
)


@dataclasses.dataclass(frozen=True)
class JointFit:
    """joint: a, b, c; None: the product fits other pairs as well, or there are too few pairs

    pairs: how many; product_error, fitted_error: calibration error of the product and of the fit on pairs of the half of the
    groups that it was not fitted to; None where nothing was fitted
    """

    joint: Joint | None
    pairs: int
    product_error: float | None = None
    fitted_error: float | None = None


def fit_joint(query: np.ndarray, reference: np.ndarray, both: np.ndarray, first_half: np.ndarray) -> JointFit:
    """Fit a, b and c. query, reference: (P, A) float, confidences; both: (P, A) bool; first_half: (P,) bool

    Pairs with the same group lie in one half, by `first_half`.
    """
    halves = (first_half, ~first_half)
    if len(both) < LEAST_PAIRS_OF_JOINT or not all(half.any() for half in halves):
        return JointFit(None, len(both))
    product = joint_probability(query, reference, None)
    held_out = np.empty(both.shape)
    for half in halves:
        held_out[half] = joint_probability(
            query[half], reference[half], most_likely(query[~half], reference[~half], both[~half])
        )
    errors = reliability(both, product).error, reliability(both, held_out).error
    better = log_loss(logits(held_out), both) < log_loss(logits(product), both)
    fitted = most_likely(query, reference, both)
    grows = min(fitted[:2]) >= 0  # with either confidence; else these confidences say nothing
    return JointFit(fitted if better and grows else None, len(both), *errors)


def most_likely(query: np.ndarray, reference: np.ndarray, both: np.ndarray) -> Joint:
    """Return the most likely a, b and c, by Newton's method; a step is halved while the loss rises.

    Arguments as in `fit_joint`.
    """
    ours, theirs = logits(query).ravel(), logits(reference).ravel()
    x = np.column_stack([np.minimum(ours, theirs), np.maximum(ours, theirs), np.ones(len(ours))])
    y, w = both.ravel().astype(np.float64), np.zeros(3)
    ridge = 1e-6 * np.eye(3)
    loss = log_loss(x @ w, y)
    for _ in range(NEWTON_STEPS_OF_JOINT):
        p = sigmoid(x @ w)
        hessian = (x * (p * (1 - p))[:, None]).T @ x / len(y) + ridge
        step = np.linalg.solve(hessian, x.T @ (p - y) / len(y))
        now = log_loss(x @ (w - step), y)
        for _ in range(HALVINGS_OF_JOINT):
            if now <= loss:
                break
            step /= 2
            now = log_loss(x @ (w - step), y)
        if loss - now < 1e-12:
            break
        w, loss = w - step, now
    a, b, c = (float(np.float32(v)) for v in w)
    return a, b, c
