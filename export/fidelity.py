"""How close a graph is to the fp32 graph: embeddings of masked pictures, and saliency maps of pairs of pictures."""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from engine.bundle.manifest import Manifest
from engine.methods.rise import Rise, RisePlan
from engine.runtime.session import Session
from engine.saliency import similarity
from export.errors import ExportError
from export.masked import masked_batches
from export.progress import progress_bar

SPEED_ROUNDS = 15
ROUNDING = 1e-5
"""Scores that vary by less than this, relative to the largest, differ by rounding only."""


@dataclasses.dataclass(frozen=True, eq=False)
class GraphEmbeddings:
    """One graph's embeddings of R pictures. masked: per picture (masks, D) float32; whole: (R, D) float32"""

    masked: list[np.ndarray]
    whole: np.ndarray


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Agreement of a graph with the fp32 graph. cosines: (R * masks,) of embeddings; correlations: (n,) of maps; float64"""

    cosines: np.ndarray
    correlations: np.ndarray

    @property
    def mean(self) -> float:
        """Mean correlation of the maps."""
        return float(self.correlations.mean())

    @property
    def p10(self) -> float:
        """Tenth percentile of the maps' correlations: nine of ten maps correlate at least this well."""
        return float(np.percentile(self.correlations, 10))


class Fp32Comparison:
    """Compares graphs with the fp32 graph, on pictures (H, W, 3) uint8 behind `masks` RISE masks drawn from `seed`."""

    def __init__(self, base: Session, manifest: Manifest, pictures: Sequence[np.ndarray], masks: int, seed: int) -> None:
        self._manifest, self._pictures = manifest, pictures
        self._plan: RisePlan = Rise(masks=masks, estimator="sane", seed=seed).plan(pictures[0])
        self._base = self._run(base, "fp32")

    def agreement(self, session: Session, name: str) -> Agreement:
        """Compare a graph with fp32: every picture's map against each other picture, without and with each condition.

        name: the graph's name in the progress bar
        Raises ExportError if all fp32 maps are constant.
        """
        other = self._run(session, name)
        conditions = self._manifest.conditions
        weights = [None, *(conditions.weights if conditions is not None else ())]
        cosines = [_cosines(a, b) for a, b in zip(self._base.masked, other.masked, strict=True)]
        correlations = [self._correlations(other, i, w) for i in range(len(self._pictures)) for w in weights]
        found = np.concatenate(correlations)
        if not found.size:
            raise ExportError("the fp32 maps of these pictures are constant, so nothing can be compared; use other pictures")
        return Agreement(np.concatenate(cosines), found)

    def _correlations(self, other: GraphEmbeddings, query: int, weights: np.ndarray | None) -> np.ndarray:
        """Return (n,) correlations of one picture's maps against the others, without maps that are constant in fp32."""
        p = self._manifest.preprocessing
        expected, got = (self._scores(embeddings, query, weights) for embeddings in (self._base, other))
        varied = np.ptp(expected, axis=0) > ROUNDING * np.abs(expected).max(0)
        # a common mean of the scores would only add a constant to the map, and rounding
        maps = [self._plan.maps((s - s.mean(0))[:, varied], p.height, p.width) for s in (expected, got)]
        flat = [m.reshape(len(m), p.height * p.width).astype(np.float64) for m in maps]
        return _cosines(*(f - f.mean(1, keepdims=True) for f in flat))

    def _scores(self, embeddings: GraphEmbeddings, query: int, weights: np.ndarray | None) -> np.ndarray:
        """Return the similarities (masks, R - 1) of the masked query to all other pictures."""
        metric = self._manifest.metric
        references = similarity.reference_features(np.delete(embeddings.whole, query, axis=0), metric, weights)
        return similarity.query_features(embeddings.masked[query], metric, weights) @ references.T

    def _run(self, session: Session, name: str) -> GraphEmbeddings:
        preprocessing = self._manifest.preprocessing
        masked = []
        with progress_bar(self._pictures, f"running {name}") as pictures:
            for picture in pictures:
                batches = [session.run(batch) for batch in masked_batches(preprocessing, picture, self._plan)]
                masked.append(np.concatenate(batches))
        whole = [session.run(preprocessing.normalised(picture[None])) for picture in self._pictures]
        return GraphEmbeddings(masked, np.concatenate(whole))


def speed(base: Session, other: Session, batch: np.ndarray) -> float:
    """Return CPU time of `base` divided by that of `other` for `batch` (n, ...) float32: the least of alternating rounds.

    base, other: sessions of one thread each; with more, the time in which threads wait for each other would count
    """
    least = [np.inf, np.inf]
    for _ in range(SPEED_ROUNDS):
        for i, session in enumerate((base, other)):
            started = time.process_time()
            session.run(batch)
            least[i] = min(least[i], time.process_time() - started)
    return least[0] / max(least[1], 1e-9)


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosines (n,) between the rows of two arrays (n, D): 1 if both rows are zero, 0 if one is."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    product = norms[0] * norms[1]
    equal = (norms[0] == norms[1]).astype(np.float64)
    return np.clip(np.divide((a * b).sum(1), product, out=equal, where=product > 0), -1, 1)
