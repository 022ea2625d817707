"""A picture whose passes were run: the plan, its embeddings, and what every map of it is made from."""

import dataclasses
import functools
import time
from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from engine.attributes.ranking import Activations
from engine.errors import OptionError
from engine.methods import PlannedMethod
from engine.methods.lime import LimePlan
from engine.methods.rise import RisePlan
from engine.methods.tokens import TokenPlan, Tokens
from engine.model import LoadedModel, RunSettings
from engine.passes import MaskedPasses
from engine.picture import Picture
from engine.protocol import Plan, Progress, Stage, silent
from engine.saliency.flatness import Extent, judged
from engine.saliency.map_fits import KnownReferences, MapFits
from engine.saliency.regression import Estimate
from engine.saliency.stopping import Budget
from engine.seen_attributes import seen_in_passes

T = TypeVar("T", bound="PassedPicture")


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
class PassedPicture:
    """A picture whose passes were run.

    options: the method; drawn: whether its seed drew the masks, or they were handed in; baseline: what hidden pixels became
    plan: the masks that were run; embeddings: (N, D) float32 of the masked picture, as the network gave them; whole: (D,)
    float32 of the picture itself; activations: what the attribute network gave for it; None where the bundle has none
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
        if self.seen is not None:
            arrays += [self.seen.maps, self.seen.standardised]
        conditions = self.model.manifest.conditions
        count = 1 if conditions is None else len(conditions.names) + 1
        return sum(a.nbytes for a in arrays) + (0 if self.fits is None else self.fits.nbytes(count))

    @functools.cached_property
    def seen(self) -> Activations | None:
        """What is seen of its attributes: by the attribute network, else in the passes; None where the bundle has none."""
        vectors = self.model.bundle.vectors
        if self.activations is not None or vectors is None:
            return self.activations
        return seen_in_passes(vectors, self.plan, self.fits, self.picture.size, self.embeddings, self.whole)

    def as_reference(self, condition: int | None, masked: bool = True) -> KnownReferences:
        """This picture as a reference that is masked too, or as one that is shown whole."""
        if not masked:
            return KnownReferences(self.model.reference_features(self.whole[None], condition))
        features = self.model.reference_features(self.embeddings, condition)
        return KnownReferences(features.mean(0, keepdims=True), [features])

    def estimates(self, references: np.ndarray, condition: int | None, *, differences: bool = False) -> list[Estimate]:
        """A map against each of the references (R, F), factors of the similarity.

        differences: whether they are differences of two factors, so that the maps are differences of two maps
        Raises BundleError where float32 cannot hold a map.
        """
        if self.fits is not None:
            return self.fits.estimates(references, condition)
        features = self.model.query_features(self.embeddings, condition)
        scores = features @ references.T
        with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold is refused
            maps = self.plan.maps(scores, *self.picture.size)  # the maps are summed
            if differences:  # a map may have a constant part, which two maps share
                maps = maps - self.plan.maps(np.zeros_like(scores[:, :1]), *self.picture.size)
        flat, offset = Extent.of(features).flat(references), not isinstance(self.plan, LimePlan)
        return judged([Estimate(saliency) for saliency in maps], flat, offset=offset)


def extend(before: T, passes: PassOptions) -> T:
    """`before` with further masks of its method, until the budget says enough; `before` itself if that is so already."""
    return run_passes(before, drawn_plan(before.model, before.options, before.picture), passes)


def run_passes(before: T, plan: Plan, passes: PassOptions) -> T:
    """Run masks of a plan that begins with those that `before` ran."""
    began, model = time.perf_counter(), before.model
    goal = _next_goal(before, passes, len(plan))
    if goal is None:
        return before
    masked = MaskedPasses(_stage(before, plan))
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


def drawn_plan(model: LoadedModel, options: PlannedMethod, picture: Picture) -> Plan:
    """The plan that a method draws for a picture. Raises OptionError where it does not fit the model or the picture."""
    if isinstance(options, Tokens):
        layout = model.tokens().layout
        return options.plan(layout.rows, layout.columns)
    return options.plan(picture.pixels)


def _stage(passed: PassedPicture, plan: Plan) -> Stage:
    """Where the picture is shown through the masks of a plan, or some of its tokens are left out."""
    model, preprocessing, pixels = passed.model, passed.model.preprocessing, passed.picture.pixels
    image, batch = preprocessing.normalised(pixels), model.run_settings.batch
    if isinstance(plan, TokenPlan):
        network = model.tokens()
        if plan.kept.shape[1:] != (network.layout.rows, network.layout.columns):
            wanted = f"{network.layout.rows} x {network.layout.columns}"
            raise OptionError(f"the plan keeps tokens of {plan.kept.shape[1:]}, but the network has {wanted} of them")
        return network.stage(image, plan.patches, batch)
    renderer = plan.renderer(preprocessing.height, preprocessing.width)
    hidden = preprocessing.baseline(passed.baseline, pixels)
    return model.similarity.stage(renderer, image, hidden, preprocessing.layout == "nhwc", batch)


def _next_goal(prepared: PassedPicture, passes: PassOptions, total: int) -> int | None:
    """How many of `total` masks to run before the next check; None: enough were run."""
    checked = prepared.fits.convergence(passes.known) if prepared.fits is not None and passes.budget.checks else None
    return passes.budget.goal(len(prepared.embeddings), checked, total)


def with_fits(prepared: T) -> T:
    """The same, with the regressions behind its maps if its estimator has any."""
    plan, model = prepared.plan, prepared.model
    if prepared.estimator != "regression" or not isinstance(plan, (RisePlan, TokenPlan)):
        return prepared
    features = functools.partial(model.query_features, prepared.embeddings)
    fits = MapFits(plan.design(prepared.picture.size), features, model.manifest.embedding)
    return dataclasses.replace(prepared, fits=fits)
