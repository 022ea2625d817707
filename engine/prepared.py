"""Prepare once, explain many: run the passes over a picture, then make maps of them by algebra."""

import dataclasses
import functools
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.assemble import assemble, rank_attributes
from engine.attributes.ranking import Activations, RankedAttributes
from engine.bundle.manifest import Condition
from engine.errors import OptionError
from engine.explanation import Explanation
from engine.methods import PlannedMethod
from engine.methods.rise import Rise, RisePlan
from engine.model import LoadedModel, Picture, RunSettings
from engine.passes import MaskedPasses
from engine.prepared_npz import write_prepared
from engine.protocol import LARGEST_PLAN, Plan, Progress, require_top, require_whole, silent
from engine.reference_vectors import ReferenceLike
from engine.saliency.correspondence import correspondence, split_half_reliability
from engine.saliency.map_fits import KnownReferences, MapFits, published_tile_effects
from engine.saliency.regression import Estimate
from engine.saliency.stopping import BLOCK, Budget


@dataclasses.dataclass(frozen=True, eq=False)
class PassOptions:
    """How the passes over a picture are run.

    baseline: what hidden pixels become; budget: when the passes may end early
    known: references by condition, for whose maps the budget decides; None: no reference is known yet
    progress: told how many passes are done
    """

    baseline: str
    budget: Budget
    known: Mapping[int | None, KnownReferences] | None = None
    progress: Progress = silent


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A picture whose passes were run. Made by `Explainer.prepare`.

    options: the method; drawn: whether its seed drew the masks, or they were handed in; baseline: what hidden pixels became
    plan: the masks that were run; embeddings: (N, D) float32 of the masked picture, as the network gave them; whole: (D,)
    float32 of the picture itself; activations: what the attribute network gave for it
    run_settings: how the network ran; seconds: what it took; deadline_reached: whether a deadline ended the passes
    fits: the regressions behind its maps; None for the published estimator
    """

    model: LoadedModel = dataclasses.field(repr=False)
    picture: Picture = dataclasses.field(repr=False)
    options: PlannedMethod
    drawn: bool
    baseline: str
    plan: Plan = dataclasses.field(repr=False)
    embeddings: np.ndarray = dataclasses.field(repr=False)
    whole: np.ndarray = dataclasses.field(repr=False)
    activations: Activations | None = dataclasses.field(repr=False)
    run_settings: RunSettings
    seconds: float
    deadline_reached: bool
    fits: MapFits | None = dataclasses.field(repr=False)

    @property
    def estimator(self) -> str:
        """How maps are made from scores; masks handed in know only the published way."""
        return self.options.estimator if self.drawn else "sane"

    @functools.cached_property
    def nbytes(self) -> int:
        """Memory it keeps, and what explaining it makes it keep."""
        plan = [v for v in vars(self.plan).values() if isinstance(v, np.ndarray)]
        arrays = [self.picture.pixels, self.embeddings, *plan]
        if self.activations is not None:
            arrays += [self.activations.maps, self.activations.standardised]
        conditions = self.model.manifest.conditions
        count = 1 if conditions is None else len(conditions.names) + 1
        return sum(a.nbytes for a in arrays) + (0 if self.fits is None else self.fits.nbytes(count))

    def explain(self, other: "ReferenceLike | Prepared", condition: Condition = None, top: int | None = None) -> Explanation:
        """The explanation against one reference: a picture, its embedding (D,), or a Prepared. See `explain_many`."""
        return self.explain_many([other], condition, top)[0]

    def explain_many(
        self,
        others: "Sequence[ReferenceLike | Prepared]",
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
        explained = self.explain_whole(*shown, [conditions[i] for i in whole], top)
        found = dict(zip(whole, explained, strict=True))
        for i, other in enumerate(others):
            if isinstance(other, Prepared):
                found[i] = self._explain_both(other, conditions[i], top)
        return [found[i] for i in range(len(others))]

    def refine(self, masks: int = BLOCK, deadline: float | None = None, progress: Progress | None = None) -> "Prepared":
        """The same picture after `masks` further passes, equal to preparing it with that many; this object stays as it is.

        deadline: seconds after which to stop with what there is. For method rise with masks drawn from a seed; raises
        OptionError for others.
        """
        if not self.drawn or not isinstance(self.options, Rise):
            raise OptionError("refine needs method rise with masks drawn from a seed: other plans end where they end")
        require_whole("masks", masks, 1, LARGEST_PLAN - len(self.plan))
        wanted = dataclasses.replace(self.options, masks=len(self.plan) + masks)
        passes = PassOptions(self.baseline, Budget.of(wanted, True, None, deadline), None, progress or silent)
        return extend(dataclasses.replace(self, options=wanted), passes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an .npz file that `Explainer.load_prepared` reads; raises OutputError."""
        write_prepared(Path(path), self.model, vars(self))

    def explain_whole(
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
            pairs = zip(similarities.tolist(), self._estimates(features, chosen), strict=True)
            found |= dict(zip(which, pairs, strict=True))
        saliencies = [found[i][1].saliency for i in range(len(pictures))]
        ranked = rank_attributes(self.model, self.activations, saliencies, top)
        seconds = (time.perf_counter() - began) / max(len(pictures), 1)
        return [self._explanation(*found[i], shown, conditions[i], ranked[i], seconds) for i, shown in enumerate(pictures)]

    def as_reference(self, condition: int | None) -> KnownReferences:
        """This picture as a reference that is masked too."""
        features = self.model.reference_features(self.embeddings, condition)
        return KnownReferences(features.mean(0, keepdims=True), [features])

    def _explain_both(self, other: "Prepared", condition: int | None, top: int | None) -> Explanation:
        """Against a reference that is masked too, in N + K passes (docs/method.md, Both pictures masked)."""
        if (other.model.graph_digest, other.model.precision) != (self.model.graph_digest, self.model.precision):
            raise OptionError("the two pictures were prepared with different models, or different precisions of one")
        began, model = time.perf_counter(), self.model
        (mine,) = self._estimates(other.as_reference(condition).features, condition)
        (theirs,) = other._estimates(self.as_reference(condition).features, condition)
        whole = model.reference_features(other.whole[None], condition)
        similarity = (model.query_features(self.whole[None], condition) @ whole.T).item()
        matched: dict[str, Any] = {}
        if isinstance(self.plan, RisePlan) and isinstance(other.plan, RisePlan):
            query = self._tile_effects(self.plan, model.query_features(self.embeddings, condition))
            reference = other._tile_effects(other.plan, model.reference_features(other.embeddings, condition))
            matched["correspondence"] = correspondence(query[0], reference[0])
            matched["correspondence_reliability"] = split_half_reliability(query[1:], reference[1:])
        (ranked,) = rank_attributes(model, self.activations, [mine.saliency], top)
        seconds = time.perf_counter() - began
        explanation = self._explanation(similarity, mine, other.picture, condition, ranked, seconds)
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

    def _estimates(self, references: np.ndarray, condition: int | None) -> list[Estimate]:
        """A map against each of the references (R, F), factors of the similarity."""
        if self.fits is not None:
            return self.fits.estimates(references, condition)
        scores = self.model.query_features(self.embeddings, condition) @ references.T
        return [Estimate(saliency) for saliency in self.plan.maps(scores, *self.picture.size)]  # the maps are summed

    def _tile_effects(self, plan: RisePlan, features: np.ndarray) -> list[np.ndarray]:
        """What showing a tile does to the features (N, F), see `MapFits.tile_effects`; by the picture's own estimator."""
        if self.fits is not None:
            return self.fits.tile_effects(features)
        return published_tile_effects(plan.grids, plan.shifts, self.picture.size, features)

    def _explanation(
        self,
        similarity: float,
        estimate: Estimate,
        reference: Picture | None,
        condition: int | None,
        ranked: RankedAttributes,
        seconds: float,
    ) -> Explanation:
        return assemble(
            self.model,
            self.picture,
            reference,
            similarity,
            estimate,
            condition,
            ranked,
            deadline_reached=self.deadline_reached,
            method=self.options.name,
            mode="fixed",
            estimator=self.estimator,
            baseline=self.baseline,
            seed=self.options.seed if self.drawn else None,
            passes=len(self.plan) + 1 + (reference is not None),
            timings={"prepare": self.seconds, "explain": seconds},
            **vars(self.run_settings),
        )


def prepare_picture(
    model: LoadedModel, picture: Picture, options: PlannedMethod, plan: Plan | None, passes: PassOptions
) -> Prepared:
    """Run the passes over a picture. plan: masks that were handed in; None: the method draws them"""
    began, drawn = time.perf_counter(), plan is None
    plan = options.plan(picture.pixels) if plan is None else plan
    nothing = Prepared(
        model=model,
        picture=picture,
        options=options,
        drawn=drawn,
        baseline=passes.baseline,
        plan=plan,
        embeddings=np.empty((0, model.manifest.embedding), np.float32),
        whole=model.embed([picture])[0],
        activations=model.activations(picture),
        run_settings=model.run_settings,
        seconds=time.perf_counter() - began,
        deadline_reached=False,
        fits=None,
    )
    return _run_passes(nothing, plan, passes)


def extend(before: Prepared, passes: PassOptions) -> Prepared:
    """`before` with further masks of its method, until the budget says enough; `before` itself if that is so already."""
    return _run_passes(before, before.options.plan(before.picture.pixels), passes)


def _run_passes(before: Prepared, plan: Plan, passes: PassOptions) -> Prepared:
    """Run masks of a plan that begins with those that `before` ran."""
    began, model = time.perf_counter(), before.model
    goal = _next_goal(before, passes, len(plan))
    if goal is None:
        return before
    preprocessing, pixels = model.preprocessing, before.picture.pixels
    masked = MaskedPasses(
        model.similarity,
        plan.renderer(preprocessing.height, preprocessing.width),
        preprocessing,
        preprocessing.normalised(pixels),
        preprocessing.baseline(before.baseline, pixels),
        model.run_settings.batch,
    )
    now = dataclasses.replace(before, run_settings=model.run_settings)
    while goal is not None:
        new = masked.run(len(now.embeddings), goal, passes.budget.until, passes.progress, len(plan))
        embeddings = np.concatenate([now.embeddings, *new])
        done = len(embeddings)
        ran = plan if done == len(plan) else plan.first(done)
        now = with_fits(dataclasses.replace(now, plan=ran, embeddings=embeddings, deadline_reached=done < goal))
        goal = None if now.deadline_reached else _next_goal(now, passes, len(plan))
    if done < len(plan):
        passes.progress(done, done)  # that was all
    return dataclasses.replace(now, seconds=before.seconds + time.perf_counter() - began)


def _next_goal(prepared: Prepared, passes: PassOptions, total: int) -> int | None:
    """How many of `total` masks to run before the next check; None: enough were run."""
    checked = prepared.fits.convergence(passes.known) if prepared.fits is not None and passes.budget.checks else None
    return passes.budget.goal(len(prepared.embeddings), checked, total)


def with_fits(prepared: Prepared) -> Prepared:
    """The same, with the regressions behind its maps if its estimator has any."""
    plan, model = prepared.plan, prepared.model
    if prepared.estimator != "regression" or not isinstance(plan, RisePlan):
        return prepared
    features, size = functools.partial(model.query_features, prepared.embeddings), prepared.picture.size
    fits = MapFits(plan.grids, plan.shifts, size, features, model.manifest.embedding)
    return dataclasses.replace(prepared, fits=fits)
