"""How well attributes are recognised: average precision, and how far confidences are from probabilities.

See docs/method.md, Attribute recognition and removal.
"""

import dataclasses
from typing import Any

import numpy as np

from engine.evaluate.bootstrap import Interval, interval, multiplicities

BINS = 10
"""Bins of confidence, of equal width."""


def average_precisions(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return one attribute's average precision, `sum_k precision_k (recall_k - recall_k-1)`, for R weightings: (R,) float64.

    truth: (n,) bool; scores: (n,) float, equal ones are counted together
    weights: (R, n) float32 >= 0, how often each picture counts; the result is nan if no picture with the attribute counts
    It computes all resamples of a bootstrap together, which scikit-learn's function cannot.
    """
    positive_scores = scores[truth]
    # both (R, positives): pictures, and positives, with at least the score; counts are exact in float32
    retrieved = weights @ (scores[:, None] >= positive_scores).astype(np.float32)
    counted = weights[:, truth]
    hits = counted @ (positive_scores[:, None] >= positive_scores).astype(np.float32)
    precision = np.divide(hits, retrieved, out=np.zeros_like(retrieved), where=retrieved > 0)
    total = counted.sum(1, dtype=np.float64)
    return np.divide((counted * precision).sum(1), total, out=np.full(len(total), np.nan), where=total > 0)


def mean_average_precision(
    truth: np.ndarray, scores: np.ndarray, clusters: np.ndarray | None = None
) -> tuple[Interval, np.ndarray]:
    """Return the mean over the attributes that some picture has, and each attribute's average precision (A,), else nan.

    truth: (n, A) bool; scores: (n, A) float
    clusters: (n,), equal for pictures that are resampled together; None: each alone
    """
    which = np.arange(len(truth)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    drawn = multiplicities(int(which.max()) + 1)[:, which]
    weights = np.concatenate([np.ones((1, len(truth))), drawn]).astype(np.float32)
    present = np.flatnonzero(truth.any(0))
    sums, counts = np.zeros(len(weights)), np.zeros(len(weights))
    single = np.full(truth.shape[1], np.nan)
    for i in present:
        found = average_precisions(truth[:, i], scores[:, i], weights)
        single[i] = found[0]
        sums += np.nan_to_num(found)
        counts += np.isfinite(found)
    means = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return interval(float(means[0]), means[1:]), single


@dataclasses.dataclass(frozen=True, eq=False)
class Reliability:
    """The reliability curve over equal bins of confidence, and the expected calibration error (Guo et al. 2017, equation 3).

    confidence: (BINS,) float64, mean confidence; share: (BINS,) float64, share that is true; both nan for an empty bin
    count: (BINS,) int
    """

    confidence: np.ndarray
    share: np.ndarray
    count: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error: mean distance of confidence and share, weighted by count."""
        gaps = np.abs(self.confidence - self.share)[self.count > 0]
        return float(gaps @ self.count[self.count > 0] / self.count.sum())

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the error; some values are arrays."""
        return {"error": self.error, **vars(self)}


def reliability(truth: np.ndarray, confidences: np.ndarray) -> Reliability:
    """Return the reliability of all entries together. truth: (n, A) bool; confidences: (n, A) float in [0, 1]"""
    bins = np.minimum((confidences.ravel() * BINS).astype(int), BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    sums = [np.bincount(bins, values.ravel().astype(np.float64), BINS) for values in (confidences, truth)]
    means = [np.divide(s, count, out=np.full(BINS, np.nan), where=count > 0) for s in sums]
    return Reliability(means[0], means[1], count)
