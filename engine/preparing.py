"""Running the passes of a picture: as many as its plan has, its references need, or a deadline allows."""

import dataclasses
import time
from collections.abc import Mapping, Sequence

import numpy as np

from engine.methods import Planned
from engine.model import LoadedModel, Picture
from engine.passes import MaskedPasses, Progress, silent
from engine.prepared import Known, Prepared
from engine.protocol import Plan
from engine.stopping import Budget


def known_references(
    model: LoadedModel, embeddings: np.ndarray, conditions: Sequence[int | None]
) -> dict[int | None, Known]:
    """References shown whole (R, D), each under its condition, by condition."""
    which = {c: [i for i, own in enumerate(conditions) if own == c] for c in conditions}
    return {c: Known(model.reference_features(embeddings[rows], c)) for c, rows in which.items()}


def prepared_picture(
    model: LoadedModel,
    picture: Picture,
    options: Planned,
    plan: Plan | None,
    baseline: str | None,
    budget: Budget,
    known: Mapping[int | None, Known] | None,
    progress: Progress | None,
) -> Prepared:
    """plan, baseline: None: the method's own; known: references that decide what is enough, None: none yet"""
    began = time.perf_counter()
    nothing = Prepared(
        model=model,
        picture=picture,
        options=options,
        drawn=plan is None,
        baseline=options.baseline if baseline is None else baseline,
        plan=options.plan(picture.pixels) if plan is None else plan,
        embeddings=np.empty((0, model.manifest.embedding), np.float32),
        whole=model.embed([picture])[0],
        seen=model.see(picture),
        running=model.running,
        seconds=0.0,
        late=False,
    )
    prepared = dataclasses.replace(nothing, seconds=time.perf_counter() - began)
    return _run(prepared, nothing.plan, budget, known, progress)


def extended(
    before: Prepared, budget: Budget, known: Mapping[int | None, Known] | None, progress: Progress | None
) -> Prepared:
    """`before` with further masks of its method run, until the budget says enough: itself where that is so already."""
    return _run(before, before.options.plan(before.picture.pixels), budget, known, progress)


def extended_together(
    sides: Sequence[Prepared], conditions: Sequence[int | None], budget: Budget, progress: Progress | None
) -> list[Prepared]:
    """A query and its references, all masked, with further masks of each run where its maps against the others need them.

    conditions: one per reference
    """
    query, others = sides[0], sides[1:]
    if not budget.looks or not others:
        return list(sides)
    known = {}
    for chosen in dict.fromkeys(conditions):
        each = [o.known(chosen) for o, c in zip(others, conditions, strict=True) if c == chosen]
        known[chosen] = Known(np.concatenate([k.features for k in each]), [m for k in each for m in k.masked])
    query = extended(query, budget, known, progress)
    pairs = zip(others, conditions, strict=True)
    return [query, *(extended(o, budget, {c: query.known(c)}, progress) for o, c in pairs)]


def _run(
    before: Prepared, plan: Plan, budget: Budget, known: Mapping[int | None, Known] | None, progress: Progress | None
) -> Prepared:
    """Masks of the plan after those that `before` ran, with which it begins."""
    began, model, show = time.perf_counter(), before.model, progress or silent
    done = len(before.embeddings)
    goal = budget.goal(done, before.fidelity(known) if done and budget.looks else None, len(plan))
    if goal is None:
        return before
    preprocessing, pixels = model.preprocessing, before.picture.pixels
    passes = MaskedPasses(
        model.similarity,
        plan.renderer(preprocessing.height, preprocessing.width),
        preprocessing,
        preprocessing.normalised(pixels),
        preprocessing.baseline(before.baseline, pixels),
        model.running.batch,
    )
    now = before
    while goal is not None:
        new = passes.run(len(now.embeddings), goal, budget.until, show, len(plan))
        done = len(now.embeddings) + sum(len(rows) for rows in new)
        now = dataclasses.replace(
            now,
            plan=plan if done == len(plan) else plan.first(done),
            embeddings=np.concatenate([now.embeddings, *new]),
            running=model.running,
            late=done < goal,
        )
        enough = now.late or not budget.looks
        goal = None if enough else budget.goal(done, now.fidelity(known), len(plan))
    if len(now.embeddings) < len(plan):
        show(len(now.embeddings), len(now.embeddings))  # that was all
    object.__setattr__(now, "seconds", before.seconds + time.perf_counter() - began)  # a copy would lose the fitted operator
    return now
