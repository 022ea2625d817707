"""How close a graph comes to the fp32 one: embeddings of masked pictures, and maps over pairs of pictures."""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from engine.bundle.manifest import Manifest
from engine.methods.rise import Rise, RisePlan
from engine.runtime.session import Session
from engine.saliency import similarity
from export.errors import ExportError
from export.masked import rows, shown

SPEED_ROUNDS = 15
ROUNDING = 1e-5
"""Scores that vary by less, in parts of the largest, are equal but for rounding."""


@dataclasses.dataclass(frozen=True, eq=False)
class Passes:
    """One graph over some pictures. masked: per picture (masks, D) float32; whole: (R, D) float32"""

    masked: list[np.ndarray]
    whole: np.ndarray


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Of a graph with fp32. cosines: (R * masks,) of embeddings; correlations: (n,) of maps; float64"""

    cosines: np.ndarray
    correlations: np.ndarray

    @property
    def mean(self) -> float:
        """Of the maps' correlations."""
        return float(self.correlations.mean())

    @property
    def p10(self) -> float:
        """Nine of ten maps correlate at least so well."""
        return float(np.percentile(self.correlations, 10))


class Yardstick:
    """The fp32 graph over pictures (H, W, 3) uint8 behind `masks` RISE masks: what other graphs are compared with."""

    def __init__(self, base: Session, manifest: Manifest, pictures: Sequence[np.ndarray], masks: int, seed: int) -> None:
        self._manifest, self._pictures = manifest, pictures
        self._plan: RisePlan = Rise(masks=masks, estimator="sane", seed=seed).plan(pictures[0])
        self._base = self._run(base, "fp32")

    def agreement(self, session: Session, name: str) -> Agreement:
        """How close `session` comes: every picture's map against each other picture, without and with each condition.

        name: what the progress bar says
        """
        other = self._run(session, name)
        conditions = self._manifest.conditions
        weights = [None, *(conditions.weights if conditions is not None else ())]
        cosines = [_cosines(a, b) for a, b in zip(self._base.masked, other.masked, strict=True)]
        correlations = [self._correlations(other, i, w) for i in range(len(self._pictures)) for w in weights]
        found = np.concatenate(correlations)
        if not found.size:
            raise ExportError("the fp32 maps of these pictures are constant: nothing can be compared; give other pictures")
        return Agreement(np.concatenate(cosines), found)

    def _correlations(self, other: Passes, query: int, weights: np.ndarray | None) -> np.ndarray:
        """(n,) of one picture's maps against all other pictures; those left out that fp32 finds constant."""
        p = self._manifest.preprocessing
        expected, got = (self._scores(passes, query, weights) for passes in (self._base, other))
        varied = np.ptp(expected, axis=0) > ROUNDING * np.abs(expected).max(0)
        # the mean adds a constant to a map, and its rounding with it
        maps = [self._plan.maps((s - s.mean(0))[:, varied], p.height, p.width) for s in (expected, got)]
        flat = [m.reshape(len(m), p.height * p.width).astype(np.float64) for m in maps]
        return _cosines(*(f - f.mean(1, keepdims=True) for f in flat))

    def _scores(self, passes: Passes, query: int, weights: np.ndarray | None) -> np.ndarray:
        """(masks, R - 1): the masked query against all other pictures."""
        metric = self._manifest.metric
        references = similarity.reference_features(np.delete(passes.whole, query, axis=0), metric, weights)
        return similarity.query_features(passes.masked[query], metric, weights) @ references.T

    def _run(self, session: Session, name: str) -> Passes:
        preprocessing = self._manifest.preprocessing
        masked = []
        for picture in shown(self._pictures, f"running {name}"):
            batches = [session.run(batch) for batch in rows(preprocessing, picture, self._plan)]
            masked.append(np.concatenate(batches))
        whole = [session.run(preprocessing.normalised(picture[None])) for picture in self._pictures]
        return Passes(masked, np.concatenate(whole))


def speed(base: Session, other: Session, batch: np.ndarray) -> float:
    """CPU time of `base` over that of `other` for (n, ...) float32: the least of rounds that alternate.

    base, other: of one thread; more would count the time in which they wait for each other
    """
    least = [np.inf, np.inf]
    for _ in range(SPEED_ROUNDS):
        for i, session in enumerate((base, other)):
            started = time.process_time()
            session.run(batch)
            least[i] = min(least[i], time.process_time() - started)
    return least[0] / max(least[1], 1e-9)


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) between the rows of two (n, D); 1 where both are zero, 0 where one is."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    product = norms[0] * norms[1]
    equal = (norms[0] == norms[1]).astype(np.float64)
    return np.clip(np.divide((a * b).sum(1), product, out=equal, where=product > 0), -1, 1)
