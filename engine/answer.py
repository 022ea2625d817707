"""Puts an explanation together: what every method says beside its maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.attributes import Attribute, AttributeTable, Seen, Words, words
from engine.explanation import Explanation, ModelName
from engine.model import LoadedModel, Picture
from engine.regression import Estimate


def said(model: LoadedModel, seen: Seen | None, saliencies: Sequence[np.ndarray], top: int | None) -> list[Words]:
    """Words for each of the query's maps (H, W), all ranked at once; none where the bundle has no attribute network.

    seen: what the attribute network says of the query; top: of either kind at most
    """
    table = model.bundle.attributes
    if table is None or seen is None or not len(saliencies):
        return [Words()] * len(saliencies)
    return words(table, seen, np.stack(saliencies), top)


def assembled(
    model: LoadedModel,
    query: Picture,
    reference: Picture | None,
    similarity: float,
    estimate: Estimate,
    condition: int | None,
    about: Words,
    late: bool,
    **fields: Any,
) -> Explanation:
    """reference: None where its embedding was given; about: what `said` says of the map; late: whether a deadline ended the
    passes; fields: the others of `Explanation`, as they are
    """
    table = model.bundle.attributes
    return Explanation(
        similarity=similarity,
        saliency=estimate.saliency,
        saliency_error=estimate.error,
        saliency_reliability=estimate.reliability,
        attributes=about.agreeing,
        opposing_attributes=about.opposing,
        query_image=query.pixels,
        query_box=query.box,
        reference_image=None if reference is None else reference.pixels,
        reference_box=None if reference is None else reference.box,
        condition=model.condition_name(condition),
        model=ModelName(model.manifest.name, model.bundle.identity),
        phi=table.weights if table else None,
        attribute_threshold=table.threshold if table else None,
        notes=_notes(table, about.agreeing, late),
        **fields,
    )


def _notes(table: AttributeTable | None, attributes: tuple[Attribute, ...], late: bool) -> tuple[str, ...]:
    notes = ["the deadline ended the passes early: see the map's error"] if late else []
    if table is None:
        return (*notes, "this bundle has no attribute network: no words")
    if not attributes:
        notes.append(f"no attribute is named: none reaches confidence {table.threshold:g}")
    if table.prior is None:
        notes.append("this bundle has no attribute prior: phi_3 counts as 0")
    return tuple(notes)
