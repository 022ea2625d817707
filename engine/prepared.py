"""Prepare once, explain many: run the passes over a picture, then make maps of them by algebra."""

import dataclasses
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from engine.assemble import JOINT, Naming, assemble, rank_attributes
from engine.attributes.ranking import RankedAttributes
from engine.bundle.manifest import Condition
from engine.errors import OptionError
from engine.explanation import Explanation
from engine.linked import matched_fields
from engine.methods import PlannedMethod, Refinable
from engine.model import LoadedModel
from engine.passed import PassedPicture, PassOptions, drawn_plan, extend, run_passes
from engine.picture import Picture
from engine.prepared_npz import write_prepared
from engine.protocol import BOTH, LARGEST_PLAN, PAIR, Plan, Progress, require_whole, silent
from engine.rather_than import MASKED_REFERENCE, rival_fields, told_apart
from engine.reference_vectors import ReferenceLike
from engine.references import References, listed
from engine.saliency.flatness import OF_REFERENCE
from engine.saliency.regression import Estimate
from engine.saliency.stopping import BLOCK, Budget

Similarities = tuple[float, float | None]
"""To the reference, and to the one of "rather than" if there is one."""


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared(PassedPicture):
    """A picture whose passes were run, to be explained against any references. Made by `Explainer.prepare`."""

    def explain(
        self,
        other: "ReferenceLike | Prepared",
        condition: Condition = None,
        top: int | None = None,
        *,
        mode: str = BOTH,
        ranking: str = JOINT,
        rather_than: ReferenceLike | None = None,
    ) -> Explanation:
        """The explanation against one reference: a picture, its embedding (D,), or a Prepared. See `explain_many`."""
        return self.explain_many([other], condition, top, mode=mode, ranking=ranking, rather_than=rather_than)[0]

    def explain_many(
        self,
        others: "Iterable[ReferenceLike | Prepared]",
        condition: Condition | Sequence[Condition] = None,
        top: int | None = None,
        *,
        mode: str = BOTH,
        ranking: str = JOINT,
        rather_than: ReferenceLike | None = None,
    ) -> list[Explanation]:
        """One explanation per reference, in order; costs one network row for each that is an image, else none.

        mode: of references that are prepared themselves, whose maps come too. "both": each picture's map is against the mean
            of the other's masked features; "pair": against the other shown whole. RISE and tokens also match their regions
        top, ranking, rather_than: see `Explainer.explain_many`

        Raises ImageError, OptionError.
        """
        self.model.require_own_process()  # before what another thread may have locked while it was forked
        naming = Naming(ranking, top)
        if mode not in (PAIR, BOTH):
            raise OptionError(f"a prepared reference is explained in mode {PAIR} or {BOTH}, got {mode!r}")
        others = listed(others)
        conditions = self.model.conditions(condition, len(others))
        whole = {i: other for i, other in enumerate(others) if not isinstance(other, Prepared)}
        if rather_than is not None and len(whole) < len(others):
            raise OptionError(MASKED_REFERENCE)
        shown = References.embedded(self.model, list(whole.values()))
        rival = None if rather_than is None else References.embedded(self.model, [rather_than])
        explained = self.explain_whole(shown, [conditions[i] for i in whole], naming, rival)
        found = dict(zip(whole, explained, strict=True))
        for i, other in enumerate(others):
            if isinstance(other, Prepared):
                found[i] = self._explain_two(other, conditions[i], naming, mode)
        return [found[i] for i in range(len(others))]

    def refine(self, masks: int = BLOCK, deadline: float | None = None, progress: Progress | None = None) -> "Prepared":
        """The same picture after `masks` further passes, equal to preparing it with that many; this object stays as it is.

        deadline: seconds after which to stop with what there is. For methods rise and tokens with masks drawn from a seed;
        raises OptionError for others.
        """
        self.model.require_own_process()
        if not self.drawn or not isinstance(self.options, Refinable):
            raise OptionError(
                "refine needs method rise or tokens with masks drawn from a seed: other plans end where they end"
            )
        require_whole("masks", masks, 1, LARGEST_PLAN - len(self.plan))
        wanted = dataclasses.replace(self.options, masks=len(self.plan) + masks)
        passes = PassOptions(self.baseline, Budget.of(wanted, True, None, deadline), None, progress or silent)
        return extend(dataclasses.replace(self, options=wanted), passes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an .npz file that `Explainer.load_prepared` reads; raises OutputError."""
        write_prepared(Path(path), self.model, vars(self))

    def explain_whole(
        self,
        references: References,
        conditions: Sequence[int | None],
        naming: Naming,
        rival: References | None = None,
    ) -> list[Explanation]:
        """Against references shown whole, which are embedded; rival: one more, the one of "rather than".

        Raises OptionError if the rival is one of the references.
        """
        began = time.perf_counter()
        found: dict[int, tuple[Similarities, Estimate]] = {}
        for chosen in dict.fromkeys(conditions):
            which = [i for i, c in enumerate(conditions) if c == chosen]
            features = self.model.reference_features(references.embeddings[which], chosen)
            own = self.model.query_features(self.whole[None], chosen)[0]
            similarities, to_rival = (features @ own).tolist(), None
            if rival is not None:
                theirs = self.model.reference_features(rival.embeddings, chosen)
                to_rival, features = (theirs @ own).item(), told_apart(features, theirs)
            maps = self.estimates(features, chosen, differences=rival is not None)
            to_each = [(similarity, to_rival) for similarity in similarities]
            found |= dict(zip(which, zip(to_each, maps, strict=True), strict=True))
        saliencies = [found[i][1].saliency for i in range(len(references))]
        ranked = rank_attributes(self.model, self.seen, saliencies, references, naming, rival)
        seconds = (time.perf_counter() - began) / max(len(references), 1)
        return [
            self._explanation(*found[i], shown, conditions[i], ranked[i], naming, seconds, rival)
            for i, shown in enumerate(references.pictures)
        ]

    def _explain_two(self, other: "Prepared", condition: int | None, naming: Naming, mode: str) -> Explanation:
        """Against a reference that is prepared too, in N + K + 2 passes (docs/method.md, Both pictures masked)."""
        if (other.model.graph_digest, other.model.precision) != (self.model.graph_digest, self.model.precision):
            raise OptionError("the two pictures were prepared with different models, or different precisions of one")
        began, model, masked = time.perf_counter(), self.model, mode == BOTH
        (mine,) = self.estimates(other.as_reference(condition, masked).features, condition)
        (theirs,) = other.estimates(self.as_reference(condition, masked).features, condition)
        whole = model.reference_features(other.whole[None], condition)
        similarity = (model.query_features(self.whole[None], condition) @ whole.T).item()
        matched = matched_fields(self, other, condition)
        seen = (
            other.seen if other.model is model else model.activations(other.picture)
        )  # other bundles have other attributes
        (ranked,) = rank_attributes(model, self.seen, [mine.saliency], seen, naming)
        seconds = time.perf_counter() - began
        explanation = self._explanation((similarity, None), mine, other.picture, condition, ranked, naming, seconds)
        return dataclasses.replace(
            explanation,
            mode=mode,
            reference_saliency=theirs.saliency,
            reference_saliency_error=theirs.error,
            reference_saliency_reliability=theirs.reliability,
            passes=explanation.passes + len(other.plan),
            timings={"prepare": self.seconds + other.seconds, "explain": seconds},
            notes=explanation.notes + ((OF_REFERENCE[theirs.note],) if theirs.note else ()),
            **matched,
        )

    def _explanation(
        self,
        similarities: Similarities,
        estimate: Estimate,
        reference: Picture | None,
        condition: int | None,
        ranked: RankedAttributes,
        naming: Naming,
        seconds: float,
        rival: References | None = None,
    ) -> Explanation:
        return assemble(
            self.model,
            self.picture,
            reference,
            similarities[0],
            estimate,
            condition,
            ranked,
            naming,
            deadline_reached=self.deadline_reached,
            method=self.options.name,
            mode="fixed",
            estimator=self.estimator,
            baseline=self.baseline,
            seed=self.options.seed if self.drawn else None,
            passes=len(self.plan) + 1 + (reference is not None) + (rival is not None and rival.pictures[0] is not None),
            timings={"prepare": self.seconds, "explain": seconds},
            **({} if rival is None else rival_fields(rival, similarities[1])),
            **vars(self.run_settings),
        )


def prepare_picture(
    model: LoadedModel, picture: Picture, options: PlannedMethod, plan: Plan | None, passes: PassOptions
) -> Prepared:
    """Run the passes over a picture. plan: masks that were handed in; None: the method draws them"""
    began, drawn = time.perf_counter(), plan is None
    plan = drawn_plan(model, options, picture) if plan is None else plan
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
    return run_passes(nothing, plan, passes)
