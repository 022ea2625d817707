"""A query and its references, all masked, each with as many masks as its maps against the others need."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from engine.passed import PassOptions, extend
from engine.picture import Picture
from engine.prepared import Prepared
from engine.saliency.map_fits import KnownReferences


def prepare_together(
    prepare: Callable[[Picture, PassOptions], Prepared],
    pictures: Sequence[Picture],
    conditions: Sequence[int | None],
    passes: PassOptions,
    for_others: bool,
    masked: bool,
) -> list[Prepared]:
    """One prepared picture for each of `pictures`, the query first.

    prepare: prepares one picture; conditions: one per reference
    passes: the time in its budget is divided among the pictures
    for_others: whether each must be good for any reference, as in a cache, and not only for the others given here
    masked: whether maps are against the others as they are masked, or against the others shown whole
    """
    sides = []
    for i, picture in enumerate(pictures):
        share = passes.budget.share(len(pictures) - i)
        sides.append(prepare(picture, dataclasses.replace(passes, budget=share if for_others else share.first_check())))
    return _extend_together(sides, conditions, passes, masked)


def _extend_together(
    sides: Sequence[Prepared], conditions: Sequence[int | None], passes: PassOptions, masked: bool
) -> list[Prepared]:
    """The same pictures, with further masks of each run until its maps against the others suffice."""
    query, others = sides[0], sides[1:]
    if not passes.budget.checks or not others:
        return list(sides)
    known = {}
    for chosen in dict.fromkeys(conditions):
        each = [o.as_reference(chosen, masked) for o, c in zip(others, conditions, strict=True) if c == chosen]
        known[chosen] = KnownReferences(np.concatenate([k.features for k in each]), [m for k in each for m in k.masked])
    query = extend(query, dataclasses.replace(passes, known=known))
    pairs = zip(others, conditions, strict=True)
    return [query, *(extend(o, dataclasses.replace(passes, known={c: query.as_reference(c, masked)})) for o, c in pairs)]
