"""Percentile bootstrap intervals of means, over pairs or clusters of pairs (docs/method.md, Insertion and deletion)."""

import dataclasses
import math
from typing import Any

import numpy as np

RESAMPLES, SEED, CONFIDENCE = 2000, 0, 0.95


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and its bootstrap interval; all three are nan if there was nothing to average."""

    mean: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """Return the fields ready for JSON, which has no nan: None stands for it."""
        return {k: v if math.isfinite(v) else None for k, v in dataclasses.asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


def bootstrap(values: np.ndarray, clusters: np.ndarray | None = None) -> Interval:
    """Return the mean of values (n,) float, without those that are nan, and the 95% interval of means over resamples.

    clusters: (n,), equal for values that are resampled together (of pairs that share a picture); None: each alone
    """
    kept = np.isfinite(values)
    if not kept.any():
        return Interval(math.nan, math.nan, math.nan)
    which = np.arange(len(values)) if clusters is None else clusters
    _, which = np.unique(which[kept], return_inverse=True)
    drawn = multiplicities(int(which.max()) + 1)
    means = (drawn @ np.bincount(which, values[kept])) / (drawn @ np.bincount(which))
    return interval(float(values[kept].mean()), means)


def interval(mean: float, resampled: np.ndarray) -> Interval:
    """Return the 95% interval of a mean. resampled: (R,) float, the same figure on each resample; nan is left out"""
    finite = resampled[np.isfinite(resampled)]
    if not finite.size:
        return Interval(mean, math.nan, math.nan)
    low, high = np.quantile(finite, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(mean, float(low), float(high))


def multiplicities(count: int) -> np.ndarray:
    """Return how often each of `count` clusters is drawn in each resample: (RESAMPLES, count) float64."""
    random = np.random.Generator(np.random.Philox(key=SEED))
    drawn = random.integers(0, count, (RESAMPLES, count)) + count * np.arange(RESAMPLES)[:, None]
    return np.bincount(drawn.ravel(), minlength=RESAMPLES * count).reshape(RESAMPLES, count).astype(np.float64)


def json_ready(value: Any) -> Any:
    """Return a value as JSON can hold it. Converts dataclasses, arrays and nan, also inside lists and dictionaries."""
    if isinstance(value, Interval):
        return value.to_dict()
    if isinstance(value, dict):
        return {k: json_ready(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [json_ready(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return json_ready(vars(value))
    return None if isinstance(value, float) and not math.isfinite(value) else value
