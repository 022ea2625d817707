"""How close a graph is to the fp32 graph: embeddings of masked pictures, and saliency maps of pairs of pictures."""

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from engine.bundle.manifest import Manifest
from engine.bundle.report import GraphFidelity
from engine.methods.rise import Rise, RisePlan
from engine.methods.tokens import TokenPlan
from engine.protocol import Runner
from engine.saliency import similarity
from engine.saliency.map_fits import MapFits
from engine.saliency.regression import differences
from export.errors import ExportError
from export.masked import masked_batches

SPEED_ROUNDS, SPEED_SECONDS = 15, 10.0
LEAST_SPEED_ROUNDS = 3
ROUNDING = 1e-5
"""Scores that vary by less than this, relative to the largest, differ by rounding only."""
ESTIMATOR = "regression"
"""How maps are made that decide: as the engine makes them unless it is asked otherwise."""


MaskPlan = RisePlan | TokenPlan
"""What pictures are compared behind."""


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

    @property
    def worse(self) -> float:
        """The lower of the two, which decides whether a graph passes."""
        return min(self.mean, self.p10)

    def reported(self, speed: float | None, calibration: str, kept_fp32: tuple[str, ...] = ()) -> GraphFidelity:
        """Return what the report says of the graph. speed, calibration, kept_fp32: see `GraphFidelity`"""
        return GraphFidelity(
            embedding_cosine_mean=float(self.cosines.mean()),
            embedding_cosine_least=float(self.cosines.min()),
            map_correlation_mean=self.mean,
            map_correlation_p10=self.p10,
            map_correlation_least=float(self.correlations.min()),
            speed=speed,
            calibration=calibration,
            kept_fp32=kept_fp32,
        )


class Batched(Protocol):
    """What runs batches. See `engine.protocol.Runner`."""

    def run(self, batch: np.ndarray) -> np.ndarray: ...


class GraphRuns:
    """One graph's embeddings of R pictures (H, W, 3) uint8, whole and behind a plan's masks, each run when first needed."""

    def __init__(
        self, session: Runner, manifest: Manifest, pictures: Sequence[np.ndarray], plan: MaskPlan, kept: int
    ) -> None:
        """kept: the fits of so many masks are kept, for further conditions and graphs"""
        self._session, self._manifest, self._pictures, self._plan = session, manifest, pictures, plan
        self._masked: dict[int, np.ndarray] = {}
        self._kept, self._fits = kept, dict[int, MapFits]()

    def masked(self, query: int, masks: int) -> np.ndarray:
        """Return the embeddings (masks, D) float32 of one picture behind the plan's first masks."""
        done = self._masked.get(query, np.empty((0, self._manifest.embedding), np.float32))
        if len(done) < masks:
            picture = self._pictures[query]
            batches = masked_batches(self._manifest.preprocessing, picture, self._plan, len(done), masks)
            done = self._masked[query] = np.concatenate([done, *(self._session.run(batch) for batch in batches)])
        return done[:masks]

    def scores(self, query: int, condition: int | None, masks: int) -> np.ndarray:
        """Return the similarities (masks, R - 1) of a masked picture to all others."""
        return self._features(query, masks, condition) @ self._references(query, condition).T

    def maps(self, query: int, condition: int | None, chosen: np.ndarray, estimator: str, masks: int) -> np.ndarray:
        """Return maps (n, H * W) float64 of a masked picture, as the engine makes them of the plan's first masks.

        chosen: (R - 1,) bool, the other pictures that the maps are against; estimator: regression or sane
        """
        preprocessing, plan = self._manifest.preprocessing, self._plan.first(masks)
        if estimator == "sane":
            scores = self.scores(query, condition, masks)[:, chosen]
            found = plan.maps(scores, preprocessing.height, preprocessing.width)
            return found.reshape(len(found), -1).astype(np.float64)
        fits = self._fits.get(query) if masks == self._kept else None
        if fits is None:
            design = plan.design((preprocessing.height, preprocessing.width))
            fits = MapFits(design, functools.partial(self._features, query, masks), self._manifest.embedding)
        if masks == self._kept:
            self._fits[query] = fits
        estimates = fits.estimates(self._references(query, condition)[chosen], condition)
        return np.array([one.saliency for one in estimates], np.float64).reshape(len(estimates), -1)

    @functools.cached_property
    def _whole(self) -> np.ndarray:
        """(R, D) float32: the embeddings of all pictures."""
        preprocessing = self._manifest.preprocessing
        return np.concatenate([self._session.run(preprocessing.normalised(p[None])) for p in self._pictures])

    def _features(self, query: int, masks: int, condition: int | None) -> np.ndarray:
        """Return the features (masks, F) of a masked picture."""
        return similarity.query_features(self.masked(query, masks), self._manifest.metric, self._weight(condition))

    def _references(self, query: int, condition: int | None) -> np.ndarray:
        """Return the features (R - 1, F) of all pictures but the query."""
        whole = np.delete(self._whole, query, axis=0)
        return similarity.reference_features(whole, self._manifest.metric, self._weight(condition))

    def _weight(self, condition: int | None) -> np.ndarray | None:
        conditions = self._manifest.conditions
        return None if condition is None or conditions is None else conditions.weights[condition]


class MapComparison:
    """Compares graphs' maps of the same pictures behind the same masks with those of fp32.

    base: runs of the fp32 graph; masks: so many of the plan's decide
    """

    def __init__(self, base: GraphRuns, manifest: Manifest, masks: int) -> None:
        self.base, self._manifest, self.masks = base, manifest, masks

    def agreement(self, other: GraphRuns, queries: Sequence[int]) -> Agreement:
        """Compare the maps of each query against each other picture, without and with each condition.

        queries: indices of the pictures that are masked. Raises ExportError if all fp32 maps are constant.
        """
        cosines = [_cosines(self.base.masked(i, self.masks), other.masked(i, self.masks)) for i in queries]
        conditions = () if self._manifest.conditions is None else range(len(self._manifest.conditions.weights))
        every = [(i, c) for i in queries for c in (None, *conditions)]
        found = np.concatenate([self.correlations(other, i, c, ESTIMATOR, self.masks) for i, c in every])
        if not found.size:
            raise ExportError("the fp32 maps of these pictures are constant, so nothing can be compared; use other pictures")
        return Agreement(np.concatenate(cosines), found)

    def correlations(self, other: GraphRuns, query: int, condition: int | None, estimator: str, masks: int) -> np.ndarray:
        """Return (n,) correlations of one picture's maps against the others, without maps that are constant in fp32."""
        scores = self.base.scores(query, condition, masks)
        varied = np.ptp(scores, axis=0) > ROUNDING * np.abs(scores).max(0)
        if not varied.any():
            return np.empty(0)
        maps = [runs.maps(query, condition, varied, estimator, masks) for runs in (self.base, other)]
        return _cosines(*(m - m.mean(1, keepdims=True) for m in maps))

    def score_error(self, other: GraphRuns, queries: Sequence[int]) -> float:
        """Return the error of the score differences that maps are fitted to, as a share of these differences (squares).

        Without a condition; 0 if the scores do not vary
        """
        errors = []
        for query in queries:
            expected, got = (differences(runs.scores(query, None, self.masks)) for runs in (self.base, other))
            size = float(np.square(expected).sum())
            errors.append(float(np.square(expected - got).sum()) / size if size > 0 else 0.0)
        return float(np.mean(errors))


class Fp32Comparison(MapComparison):
    """Compares graphs with the fp32 graph, on pictures (H, W, 3) uint8 behind masks drawn from `seed` in pairs.

    masks: so many decide; most: of the plan, for `correlations` behind more
    """

    def __init__(
        self,
        base: Runner,
        manifest: Manifest,
        pictures: Sequence[np.ndarray],
        masks: int,
        seed: int,
        most: int | None = None,
    ) -> None:
        self._pictures = pictures
        self._plan: RisePlan = Rise(masks=most or masks, estimator=ESTIMATOR, seed=seed).plan(pictures[0])
        super().__init__(GraphRuns(base, manifest, pictures, self._plan, masks), manifest, masks)

    def runs(self, session: Runner) -> GraphRuns:
        """Return the embeddings of a graph on the same pictures and masks, to be compared."""
        return GraphRuns(session, self._manifest, self._pictures, self._plan, self.masks)


def speed(base: Batched, other: Batched, batch: np.ndarray) -> float:
    """Return CPU time of `base` divided by that of `other` for `batch` (n, ...) float32: the least of alternating rounds.

    base, other: sessions of one thread each; with more, the time in which threads wait for each other would count
    """
    least = [np.inf, np.inf]
    began = time.monotonic()
    for done in range(SPEED_ROUNDS):
        if done >= LEAST_SPEED_ROUNDS and time.monotonic() - began > SPEED_SECONDS:
            break
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
