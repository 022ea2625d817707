"""From scores to confidences, and from those of two pictures to what holds for both (docs/method.md, Attributes of both)."""

import numpy as np

from engine.attributes.table import Joint

LEAST = 1e-7
"""Confidences nearer to 0 or 1 count as this near: their logits stay finite."""


def joint_probability(query: np.ndarray, reference: np.ndarray, joint: Joint | None) -> np.ndarray:
    """Return the probability that an attribute is true of both pictures, float64 in [0, 1], in the shape of the two.

    query, reference: (..., A) float, confidences in [0, 1], which numpy can broadcast
    joint: a, b, c of sigmoid(a min(l_q, l_r) + b max(l_q, l_r) + c), l the logits of the two; None: their product
    """
    if joint is None:
        return np.asarray(query, np.float64) * reference
    ours, theirs = logits(query), logits(reference)
    a, b, c = joint
    return sigmoid(a * np.minimum(ours, theirs) + b * np.maximum(ours, theirs) + c)


def only_probability(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Return here * (1 - there), confidences (..., A) float in [0, 1]: true of this picture and not of the other."""
    return np.asarray(here, np.float64) * (1 - there)


def logits(confidences: np.ndarray) -> np.ndarray:
    """Return log(p / (1 - p)), float64, of confidences p of any shape, clipped to [LEAST, 1 - LEAST]."""
    clipped = np.clip(np.asarray(confidences, np.float64), LEAST, 1 - LEAST)
    return np.log(clipped) - np.log1p(-clipped)


def sigmoid(scores: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-scores)), float of any shape; it does not overflow."""
    return (1 + np.tanh(scores / 2)) / 2


def softmax(rows: np.ndarray) -> np.ndarray:
    """(n, k) -> (n, k) float64, each row summing to 1."""
    raised = np.exp(rows.astype(np.float64) - rows.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)
