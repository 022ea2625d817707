"""How sure a mean is: percentile bootstrap intervals, over pairs or over clusters of them."""

import dataclasses
import math
from typing import Any

import numpy as np

RESAMPLES, SEED, CONFIDENCE = 2000, 0, 0.95


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and its bootstrap interval; all three nan where there was nothing to average."""

    mean: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """Ready for JSON, which has no nan."""
        return {k: v if math.isfinite(v) else None for k, v in dataclasses.asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


def bootstrap(values: np.ndarray, clusters: np.ndarray | None = None, seed: int = SEED) -> Interval:
    """The mean of values (n,) float, those that are nan left out, with the 95% interval of means over resampled clusters.

    clusters: (n,), equal where values belong together (pairs that share a picture): drawn together; None: each alone
    """
    kept = np.isfinite(values)
    if not kept.any():
        return Interval(math.nan, math.nan, math.nan)
    which = np.arange(len(values)) if clusters is None else clusters
    _, which = np.unique(which[kept], return_inverse=True)
    drawn = multiplicities(int(which.max()) + 1, seed)
    means = (drawn @ np.bincount(which, values[kept])) / (drawn @ np.bincount(which))
    return interval(float(values[kept].mean()), means)


def interval(mean: float, resampled: np.ndarray) -> Interval:
    """resampled: (R,) what the same figure is on each resample; nan ones are left out"""
    finite = resampled[np.isfinite(resampled)]
    if not finite.size:
        return Interval(mean, math.nan, math.nan)
    low, high = np.quantile(finite, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(mean, float(low), float(high))


def multiplicities(count: int, seed: int = SEED) -> np.ndarray:
    """(RESAMPLES, count) float64: how often each of `count` clusters is drawn in each resample; rows sum to `count`."""
    random = np.random.Generator(np.random.Philox(key=seed))
    drawn = random.integers(0, count, (RESAMPLES, count)) + count * np.arange(RESAMPLES)[:, None]
    return np.bincount(drawn.ravel(), minlength=RESAMPLES * count).reshape(RESAMPLES, count).astype(np.float64)


def plain(value: Any) -> Any:
    """Intervals, other dataclasses, arrays and nan, within lists and dictionaries, made ready for JSON."""
    if isinstance(value, Interval):
        return value.to_dict()
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(vars(value))
    return None if isinstance(value, float) and not math.isfinite(value) else value
