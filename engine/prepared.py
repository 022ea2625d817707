"""Prepare once, explain many: a picture whose passes were run, and the algebra that makes maps of them."""

import dataclasses
import functools
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.answer import assembled, said
from engine.attributes import Seen, Words
from engine.correspondence import correspondence, reliability, tile_features
from engine.errors import OptionError
from engine.explanation import Explanation
from engine.images import ImageLike
from engine.methods import Planned
from engine.model import Condition, LoadedModel, Picture, Running
from engine.passes import Progress
from engine.protocol import LARGEST_PLAN, Plan, require_whole
from engine.regression import TILES, Estimate, Geometry, Operator, Regression, differences
from engine.rise import BLOCK, PUBLISHED, PUBLISHED_OTHERS, Rise, RisePlan
from engine.stopping import DIRECTIONS, Budget, Fidelity

LEAST_FOR_HALVES = 8
"""Masks below which two halves of them say nothing."""
KEPT_CONDITIONS = 4
"""Conditions whose fits a prepared picture keeps, last used first: a model may have dozens."""


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """References of one condition that are known while the passes run.

    features: (R, F), their factor of the similarity; masked: where they are masked too, that of each of their masks
    """

    features: np.ndarray
    masked: Sequence[np.ndarray] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A picture whose passes were run. Made by `Explainer.prepare`.

    options: the method; drawn: whether its seed drew the masks, or they were handed in; baseline: what hidden pixels became
    plan: the masks that were run; embeddings: (N, D) float32 of the masked picture, as the network gave them; whole: (D,)
    float32 of the picture itself; seen: what the attribute network says of it
    running: how the network ran; seconds: what it took; late: whether a deadline ended the passes
    """

    model: LoadedModel = dataclasses.field(repr=False)
    picture: Picture = dataclasses.field(repr=False)
    options: Planned
    drawn: bool
    baseline: str
    plan: Plan = dataclasses.field(repr=False)
    embeddings: np.ndarray = dataclasses.field(repr=False)
    whole: np.ndarray = dataclasses.field(repr=False)
    seen: Seen | None = dataclasses.field(repr=False)
    running: Running
    seconds: float
    late: bool
    _regressions: dict[int | None, Regression] = dataclasses.field(init=False, repr=False, default_factory=dict)
    _keeping: threading.Lock = dataclasses.field(init=False, repr=False, default_factory=threading.Lock)

    @property
    def estimator(self) -> str:
        """How maps come from scores; masks handed in know only the published way."""
        return self.options.estimator if self.drawn else "sane"

    @functools.cached_property
    def nbytes(self) -> int:
        """Memory it keeps, and what explaining it makes it keep."""
        plan = [v for v in vars(self.plan).values() if isinstance(v, np.ndarray)]
        arrays = [self.picture.pixels, self.embeddings, *plan, *([self.seen.maps, self.seen.shapes] if self.seen else [])]
        fitted = 0
        if self.estimator == "regression":
            conditions = self.model.manifest.conditions
            kept = 1 if conditions is None else min(len(conditions.names) + 1, KEPT_CONDITIONS)
            operator = self._operator
            fitted = operator.nbytes + operator.factor.nbytes + kept * self._regression(None).nbytes  # with both `_halves`
        return sum(a.nbytes for a in arrays) + fitted

    def explain(self, other: "ImageLike | Prepared", condition: Condition = None, top: int | None = None) -> Explanation:
        """The explanation against one reference: an image, its embedding (D,) float32, or a Prepared. See `explain_many`."""
        return self.explain_many([other], condition, top)[0]

    def explain_many(
        self,
        others: "Sequence[ImageLike | Prepared]",
        condition: Condition | Sequence[Condition] = None,
        top: int | None = None,
    ) -> list[Explanation]:
        """One explanation per reference, in order; costs one network row for each that is an image, else none.

        A reference that is itself prepared is explained in mode "both": each picture's map is against the mean of the
        other's masked features, and where both were masked by RISE, regions are matched.
        top: attributes to name at most; None: all that reach the bundle's threshold

        Raises ImageError, OptionError.
        """
        require_top(top)
        conditions = self.model.conditions(condition, len(others))
        whole = {i: other for i, other in enumerate(others) if not isinstance(other, Prepared)}
        shown = self.model.references(list(whole.values()))
        explained = self.against(*shown, [conditions[i] for i in whole], top)
        found = dict(zip(whole, explained, strict=True))
        for i, other in enumerate(others):
            if isinstance(other, Prepared):
                found[i] = self._both(other, conditions[i], top)
        return [found[i] for i in range(len(others))]

    def refine(self, masks: int = BLOCK, deadline: float | None = None, progress: Progress | None = None) -> "Prepared":
        """The same picture after `masks` further passes: equal to preparing it with that many; this object stays as it is.

        deadline: seconds after which to stop with what there is. For method rise with masks drawn from a seed; raises
        OptionError for others.
        """
        if not self.drawn or not isinstance(self.options, Rise):
            raise OptionError("refine needs method rise with masks drawn from a seed: other plans end where they end")
        require_whole("masks", masks, 1, LARGEST_PLAN - len(self.plan))
        wanted = dataclasses.replace(self.options, masks=len(self.plan) + masks)
        budget = Budget.of(wanted, True, None, deadline)
        from engine.preparing import extended  # noqa: PLC0415 - it knows this class

        return extended(dataclasses.replace(self, options=wanted), budget, None, progress)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an .npz file that `Explainer.load_prepared` reads; raises OutputError."""
        from engine.prepared_file import save_prepared  # noqa: PLC0415 - it knows this class

        save_prepared(self, Path(path))

    def against(
        self,
        pictures: Sequence[Picture | None],
        embeddings: np.ndarray,
        conditions: Sequence[int | None],
        top: int | None = None,
    ) -> list[Explanation]:
        """Against references shown whole, as `LoadedModel.references` gives them: embeddings (R, D) float32."""
        began = time.perf_counter()
        found: dict[int, tuple[float, Estimate]] = {}
        for chosen in dict.fromkeys(conditions):
            which = [i for i, c in enumerate(conditions) if c == chosen]
            features = self.model.reference_features(embeddings[which], chosen)
            similarities = features @ self.model.query_features(self.whole[None], chosen)[0]
            estimates = self._estimates(features, chosen)
            found |= dict(zip(which, zip(similarities.tolist(), estimates, strict=True), strict=True))
        about = said(self.model, self.seen, [found[i][1].saliency for i in range(len(pictures))], top)
        seconds = (time.perf_counter() - began) / max(len(pictures), 1)
        return [
            self._explanation(*found[i], picture, conditions[i], about[i], seconds) for i, picture in enumerate(pictures)
        ]

    def fidelity(self, known: Mapping[int | None, Known] | None) -> Fidelity:
        """Mean over references; estimator "regression".

        None stands for references not known yet: the leading directions of the masked embeddings.
        """
        if known is None:
            known = {None: Known(self._regression(None).leading(DIRECTIONS))}
        found = []
        for condition, of in known.items():
            regression = self._regression(condition)
            variances = (self.model.query_features(self.embeddings, condition) @ of.features.T).var(0)
            # the published mean over few masks of the reference is noise too
            others = np.array([regression.spread(m) for m in of.masked]) / PUBLISHED_OTHERS if of.masked else 0.0
            found.append(regression.fidelity(of.features, variances, PUBLISHED, others))
        if not found:
            return Fidelity(1.0, 1.0)
        reliability, published = np.concatenate(found, axis=1).mean(1).tolist()
        return Fidelity(reliability, published)

    def _both(self, other: "Prepared", condition: int | None, top: int | None) -> Explanation:
        """Against a reference that is masked too, in N + K passes: `mean_j s(a_i, b_j) = <a_i, mean_j b_j>` (SANE.md)."""
        if (other.model.graph_digest, other.model.precision) != (self.model.graph_digest, self.model.precision):
            raise OptionError("the two pictures were prepared with different models, or different precisions of one")
        began, model = time.perf_counter(), self.model
        mine, theirs = (
            side._estimates(beside.mean_features(condition), condition)[0] for side, beside in ((self, other), (other, self))
        )
        whole = model.reference_features(other.whole[None], condition)
        similarity = (model.query_features(self.whole[None], condition) @ whole.T).item()
        matched: dict[str, Any] = {}
        if isinstance(self.plan, RisePlan) and isinstance(other.plan, RisePlan):
            sides = self._tile_features(True, condition), other._tile_features(False, condition)
            matched["correspondence"] = correspondence(sides[0][0], sides[1][0])
            matched["correspondence_reliability"] = reliability(sides[0][1:], sides[1][1:])
        (about,) = said(model, self.seen, [mine.saliency], top)
        seconds = time.perf_counter() - began
        explanation = self._explanation(similarity, mine, other.picture, condition, about, seconds)
        return dataclasses.replace(
            explanation,
            mode="both",
            reference_saliency=theirs.saliency,
            reference_saliency_error=theirs.error,
            reference_saliency_reliability=theirs.reliability,
            passes=explanation.passes + len(other.plan),
            timings={"prepare": self.seconds + other.seconds, "explain": seconds},
            **matched,
        )

    def mean_features(self, condition: int | None) -> np.ndarray:
        """(1, F): the mean over the masks of what this picture, as a reference, gives to the similarity."""
        return self.model.reference_features(self.embeddings, condition).mean(0, keepdims=True)

    def known(self, condition: int | None) -> Known:
        """This picture as a reference that is masked too."""
        features = self.model.reference_features(self.embeddings, condition)
        return Known(features.mean(0, keepdims=True), [features])

    def _estimates(self, references: np.ndarray, condition: int | None) -> list[Estimate]:
        """Maps against references (R, F), factors of the similarity."""
        if self.estimator == "regression":
            return self._regression(condition).estimates(references)
        scores = self.model.query_features(self.embeddings, condition) @ references.T
        return [Estimate(saliency) for saliency in self.plan.maps(scores, *self._size)]  # the map is summed

    def _tile_features(self, as_query: bool, condition: int | None) -> list[np.ndarray]:
        """What showing a tile does to the features, (T, F): of all masks, and where there are enough, of two halves of them.

        T: cells of the plan's grid; features: the query's factor of the similarity, or the reference's
        """
        plan, parts = self._rise_plan, self._rise_plan.grids.shape[1]
        factor = self.model.query_features if as_query else self.model.reference_features
        features = factor(self.embeddings, condition)
        some = [slice(None), slice(0, None, 2), slice(1, None, 2)] if len(plan) >= LEAST_FOR_HALVES else [slice(None)]
        if self.estimator == "sane":
            tiles = plan.renderer(*self._size).tiles(parts)
            return [tile_features(tiles[half], features[half]) for half in some]
        z, operators = differences(features), [self._operator, *self._halves]
        return [Regression(o, self._geometry, z[half]).tiles(parts) for o, half in zip(operators, some, strict=False)]

    @property
    def _size(self) -> tuple[int, int]:
        height, width = self.picture.pixels.shape[:2]
        return height, width

    @property
    def _rise_plan(self) -> RisePlan:
        if not isinstance(self.plan, RisePlan):
            raise TypeError(f"{type(self.plan).__name__} has no grid")  # callers ask for RISE plans alone
        return self.plan

    @functools.cached_property
    def _geometry(self) -> Geometry:
        return Geometry.of(*self._size, self._rise_plan.grids.shape[1])

    @functools.cached_property
    def _operator(self) -> Operator:
        plan, first = self._rise_plan, slice(0, len(self.plan) // 2 * 2, 2)  # of each pair
        tiles = RisePlan(plan.grids[first], plan.shifts[first]).renderer(*self._size).tiles(TILES)
        tiles -= 0.5
        return Operator.fitted(tiles, self._plain_differences)

    @functools.cached_property
    def _halves(self) -> list[Operator]:
        """Of every other pair, and of the rest."""
        halves = slice(0, None, 2), slice(1, None, 2)
        return [Operator.fitted(self._operator.design[half], self._plain_differences[half]) for half in halves]

    @property
    def _plain_differences(self) -> np.ndarray:
        """(P, D): what the operator is fitted on, whatever the condition."""
        features = self.model.query_features(self.embeddings, None)
        return differences(features[:, : self.embeddings.shape[1]])  # for squared distances, the vectors alone

    def _regression(self, condition: int | None) -> Regression:
        with self._keeping:
            found = self._regressions.pop(condition, None)
            if found is None:
                z = differences(self.model.query_features(self.embeddings, condition))
                found = Regression(self._operator, self._geometry, z)
            self._regressions[condition] = found  # the last used come last
            if len(self._regressions) > KEPT_CONDITIONS:
                del self._regressions[next(iter(self._regressions))]
            return found

    def _explanation(
        self,
        similarity: float,
        estimate: Estimate,
        reference: Picture | None,
        condition: int | None,
        about: Words,
        seconds: float,
    ) -> Explanation:
        return assembled(
            self.model,
            self.picture,
            reference,
            similarity,
            estimate,
            condition,
            about,
            late=self.late,
            method=self.options.name,
            mode="fixed",
            estimator=self.estimator,
            baseline=self.baseline,
            seed=self.options.seed if self.drawn else None,
            passes=len(self.plan) + 1 + (reference is not None),
            timings={"prepare": self.seconds, "explain": seconds},
            **vars(self.running),
        )


def require_top(top: int | None) -> None:
    """Raises OptionError."""
    if top is not None:
        require_whole("top", top, 0, LARGEST_PLAN)
